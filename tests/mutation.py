"""Mutation testing of the core: one small change of the code at a time, each of which some test must notice.

`python -m tests.mutation [--each N] [MODULE ...]` prints a line a mutant and the score of each module. A mutant is
one changed operator, constant, condition or call, chosen by a seed. The heavy libraries are imported once; every
mutant is a fork of that process, in which its module is compiled from the changed tree, so that none costs a start.
mutmut and cosmic-ray copy the tree and start an interpreter for each mutant, which costs seconds with torch.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CORE = {
    "fastsia.engine.block_manager": ["tests/engine/test_tree.py", "tests/engine/test_bookkeeping.py"],
    "fastsia.engine.tree": [
        "tests/engine/test_tree.py",
        "tests/engine/test_bookkeeping.py",
        "tests/engine/test_run.py",
    ],
    "fastsia.engine.bookkeeping": ["tests/engine/test_bookkeeping.py", "tests/engine/test_run.py"],
    "fastsia.ops.reference": ["tests/ops/test_reference.py", "tests/ops/test_native.py"],
    "fastsia.answers.reference": [
        "tests/answers/test_parts.py",
        "tests/answers/test_reference.py",
        "tests/answers/test_extraction.py",
        "tests/answers/test_stream.py",
    ],
    "fastsia.answers.number": ["tests/answers/test_number.py", "tests/answers/test_extraction.py"],
    "fastsia.store": ["tests/test_store.py"],
}
"""Module -> the tests that must notice its mutants."""
_FAR_OUT = "either way the exponent is far beyond what a number may have"
_PADDED = "a zero more at the end of the digits, which the canonical spelling takes away again"
_SAFEGUARD = "u * total < total for every u below 1 of 53 bits, so that no draw lies past the nucleus in float64"
_EQUAL = "the lengths are equal by construction; strict says so to the reader"
_NEGATIVE = "numpy takes any negative size as the one to be found"
_URI = "sqlite's library here takes names that begin with file: as URIs in any case"
EQUIVALENT: dict[str, dict[tuple[str, str], str]] = {
    "fastsia.engine.bookkeeping": {
        ("if int(single.sum()) > max_num_seqs:", "Gt -> GtE"): "as many as there is room for: none is then left out",
        ('trunks.widen("tokens", int(at.max(initial=0)) + 1)', "1 -> 2"): "room for one more",
        ("trunks.widen(name, int(position.max(initial=0)) + 1)", "1 -> 2"): "room for one more",
        (
            "[~good, eos, stopped], [FinishReason.ERROR, FinishReason.EOS, FinishReason.STOP], default=-1",
            "1 -> 2",
        ): "any negative number says that none of them is so",
    },
    "fastsia.ops.reference": {
        ("whole = begin == 0 and end == num_rows", "0 -> 1"): "the rows are then looked for, and are all",
        ("return width - 1 - (mass > 0).flip(1).int().argmax(dim=1)", "Sub -> Add"): _SAFEGUARD,
        ("return width - 1 - (mass > 0).flip(1).int().argmax(dim=1)", "0 -> 1"): _SAFEGUARD,
    },
    "fastsia.answers.reference": {
        (
            "joint = next((size for size in (1, 3) if at >= size and _JOINT.fullmatch(text, at - size, at)), None)",
            "GtE -> Gt",
        ): "a joint that the text begins with has no word before it",
        ("best, best_rank = None, (at, False)", "False -> True"): "whatever is found ends behind `at`",
    },
    "fastsia.store": {
        (
            'for name, before, after in zip(("id", "question", "gold"), stored, now, strict=True):',
            "True -> False",
        ): _EQUAL,
        ("columns = zip(*rows, strict=True) if rows else ([] for _ in names)", "True -> False"): _EQUAL,
        (
            "return pd.DataFrame({name: _values(column) for name, column in zip(names, columns, strict=True)}, "
            "columns=names)",
            "True -> False",
        ): _EQUAL,
        (
            "chunks.append(pd.DataFrame({name: _values(column) for name, column in zip(names, columns, strict=True)}))",
            "True -> False",
        ): _EQUAL,
        (
            '"identity": json.dumps(identity, sort_keys=True),',
            "True -> False",
        ): "a text that is read back as a mapping",
        ("return ids.view(np.uint8).reshape(-1, 4)[:, :3].tobytes()", "1 -> 2"): _NEGATIVE,
        ("padded[:, :3] = np.frombuffer(blob, dtype=np.uint8).reshape(-1, 3)", "1 -> 2"): _NEGATIVE,
        ('return padded.view("<i4").reshape(-1).astype(np.int32, copy=False)', "1 -> 2"): _NEGATIVE,
        ('return padded.view("<i4").reshape(-1).astype(np.int32, copy=False)', "False -> True"): "one copy more",
        ("padded = np.append(trajectory_ids, -1)", "1 -> 2"): "no token has a negative id, whichever",
        ('connection = sqlite3.connect(f"{uri}?mode=ro", uri=True)', "True -> False"): _URI,
        ('return sqlite3.connect(f"{uri}?mode=ro&immutable=1", uri=True)', "True -> False"): _URI,
        (
            'holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()',
            "32 -> 33",
        ): "no process has such a number",
        ("os.ftruncate(descriptor, 0)", "0 -> 1"): "the first byte is written over by the next line",
        ("connection.close()", "call removed"): "closed as its last reference goes, on the next line",
    },
    "fastsia.answers.number": {
        ('size = int(digits or b"0") if len(digits) <= 6 else 10**6', "6 -> 7"): _FAR_OUT,
        ('size = int(digits or b"0") if len(digits) <= 6 else 10**6', "LtE -> Lt"): _FAR_OUT,
        ('size = int(digits or b"0") if len(digits) <= 6 else 10**6', "10 -> 11"): _FAR_OUT,
        ("scale, rest = 0, value.denominator", "0 -> 1"): _PADDED,
        ("scale += 1", "1 -> 2"): _PADDED,
        ("if rest > 1:", "1 -> 2"): "no denominator is 2 once it has been divided by 10, 5 and 2",
    },
}
"""Module -> (line of its source, change) -> why no test can notice it. These are not counted."""
PATIENCE = 3.0
"""A mutant is noticed, too, if the tests take so many times as long as without it: it may never end."""

_COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}


def changes(node: ast.AST) -> Iterator[tuple[str, Any]]:
    """What can be changed about a node: (what it is, a function that changes it in place)."""

    def assign(name: str, value: Any) -> Any:
        return lambda node: setattr(node, name, value)

    match node:
        case ast.Compare(ops=[operator]) if type(operator) in _COMPARISONS:
            other = _COMPARISONS[type(operator)]
            yield f"{type(operator).__name__} -> {other.__name__}", assign("ops", [other()])
        case ast.BinOp(op=operator) | ast.AugAssign(op=operator) if type(operator) in _OPERATORS:
            other_op = _OPERATORS[type(operator)]
            yield f"{type(operator).__name__} -> {other_op.__name__}", assign("op", other_op())
        case ast.BoolOp(op=ast.And()):
            yield "and -> or", assign("op", ast.Or())
        case ast.BoolOp(op=ast.Or()):
            yield "or -> and", assign("op", ast.And())
        case ast.Constant(value=bool() as value):
            yield f"{value} -> {not value}", assign("value", not value)
        case ast.Constant(value=int() as value):
            yield f"{value} -> {value + 1}", assign("value", value + 1)
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
            yield "condition negated", assign("test", ast.UnaryOp(ast.Not(), test))
        case ast.Return(value=ast.Constant(value=None)):
            return
        case ast.Return(value=ast.expr()):
            yield "return -> return None", assign("value", ast.Constant(None))
        case ast.Expr(value=ast.Call()):
            yield "call removed", assign("value", ast.Constant(None))
        case ast.UnaryOp(op=ast.USub()):
            yield "minus removed", assign("op", ast.UAdd())


def mutants(path: Path) -> list[tuple[int, int, int, str]]:
    """(node's number in the walk, number of its change, line, what is changed) of everything inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside: set[int] = set()
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            # Messages of errors and types are no behaviour that a test should pin down.
            body = [part for statement in function.body for part in ast.walk(statement)]
            skipped = {id(p) for n in body if isinstance(n, (ast.Raise, ast.JoinedStr)) for p in ast.walk(n)}
            inside |= {id(part) for part in body} - skipped
    return [
        (number, k, getattr(node, "lineno", 0), what)
        for number, node in enumerate(ast.walk(tree))
        if id(node) in inside
        for k, (what, _) in enumerate(changes(node))
    ]


def countable(name: str, path: Path) -> list[tuple[int, int, int, str]]:
    """The module's mutants without those that are equivalent to it."""
    lines = path.read_text(encoding="utf-8").splitlines()
    found = mutants(path)
    known = EQUIVALENT.get(name, {})
    places = {(lines[line - 1].strip(), what) for *_, line, what in found}
    if stale := set(known) - places:
        sys.exit(f"{name}: EQUIVALENT names what is no longer there: {sorted(stale)}")
    return [mutant for mutant in found if (lines[mutant[2] - 1].strip(), mutant[3]) not in known]


def mutated(path: Path, number: int, k: int) -> ast.Module:
    """The module's tree with one change."""
    tree = copy.deepcopy(ast.parse(path.read_text(encoding="utf-8")))
    node = next(node for i, node in enumerate(ast.walk(tree)) if i == number)
    [change for _, change in changes(node)][k](node)
    return ast.fix_missing_locations(tree)


class _Loader(importlib.abc.MetaPathFinder, importlib.machinery.SourceFileLoader):
    """Gives one module from a changed tree."""

    def __init__(self, name: str, path: Path, tree: ast.Module) -> None:
        super().__init__(name, str(path))
        self._tree = tree

    def find_spec(self, name: str, *_: Any) -> Any:
        if name != self.name:
            return None
        return importlib.util.spec_from_file_location(name, self.path, loader=self)

    def get_code(self, name: str) -> Any:
        return compile(self._tree, self.path, "exec")


def notices(name: str, path: Path, tree: ast.Module | None, tests: list[str], seconds: float) -> str:
    """Run the tests in a fork of this process: "killed", "survived" or "timeout" (noticed as well)."""
    child = os.fork()
    if child == 0:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        if tree is not None:
            sys.meta_path.insert(0, _Loader(name, path, tree))
        import pytest

        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:randomly", "--no-header"]
        try:
            code = int(pytest.main([*options, *tests]))
        except BaseException:
            code = 1
        os._exit(0 if code == 0 else 1)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "survived" if status == 0 else "killed"
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timeout"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", default=list(CORE))
    parser.add_argument("--each", type=int, default=30, help="mutants a module")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.chdir(ROOT)
    # What costs time to import and is not changed.
    for library in ("hypothesis", "pandas", "pyarrow.parquet", "pytest", "scipy.stats", "torch", "transformers"):
        importlib.import_module(library)
    from transformers import Qwen2ForCausalLM  # noqa: F401

    scores = {}
    for name in options.modules:
        path = ROOT / (name.replace(".", "/") + ".py")
        tests = [test for test in CORE[name] if (ROOT / test).exists()]
        begin = time.monotonic()
        if notices(name, path, None, tests, 600.0) != "survived":
            sys.exit(f"{name}: its tests fail without any mutation")
        limit = 10 + PATIENCE * (time.monotonic() - begin)
        found = countable(name, path)
        chosen = sorted(random.Random(f"{name}{options.seed}").sample(found, min(options.each, len(found))))
        results = []
        for number, k, line, what in chosen:
            results.append(notices(name, path, mutated(path, number, k), tests, limit))
            print(f"{results[-1]:8} {path.relative_to(ROOT)}:{line}: {what}", flush=True)
        noticed = sum(result != "survived" for result in results)
        scores[name] = {"mutants": len(found), "tried": len(results), "noticed": noticed}
        print(f"{name}: {noticed} of {len(results)} noticed ({len(found)} mutants in all)", flush=True)
    tried, noticed = (sum(score[key] for score in scores.values()) for key in ("tried", "noticed"))
    print(json.dumps({"date": time.strftime("%Y-%m-%d"), "score": noticed / max(tried, 1), **scores}))


if __name__ == "__main__":
    main()
