"""The code on the pages of the documentation runs, the generated pages are current, and the site builds."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
from nbclient import NotebookClient
from transformers import AutoModelForCausalLM

import fastsia
from tests.pages import DOCS, ROOT, blocks, follow, programs
from tests.programs import offline, run_python, run_shell

PAGES = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))
# Pages of other tools are tested in the environments of these tools; two pages have tests of their own below.
ELSEWHERE = ("inspect_ai.md", "lm_eval.md", "lm_polygraph.md", "howto/rl.md", "exports.md")


@pytest.mark.parametrize("page", ["../README.md", *(page for page in PAGES if page not in ELSEWHERE and blocks(page))])
def test_a_page_can_be_followed(page: str, tmp_path: Path) -> None:
    follow(page, tmp_path)


def test_every_how_to_has_something_to_run() -> None:
    how_tos = [page for page in PAGES if page.startswith("howto/")]
    assert len(how_tos) == 10
    assert all(programs(page, "python") for page in how_tos)


def script(name: str) -> ModuleType:
    """A script of docs/ that writes generated pages."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def structure() -> ModuleType:
    return script("_structure")


def test_the_reports_glossary_is_that_of_the_documentation() -> None:
    glossary = script("_glossary")
    assert glossary.PAGE.read_text(encoding="utf-8") == glossary.terms(), "run: python docs/_glossary.py"


def test_the_map_of_modules_is_current(structure: ModuleType) -> None:
    """docs/structure.md lists every module with the first sentence of its docstring."""
    assert structure.PAGE.read_text(encoding="utf-8") == structure.page(), "run: python docs/_structure.py"


def test_every_module_is_on_the_map(structure: ModuleType) -> None:
    """Every module belongs to a layer and says in its docstring what it is for."""
    mapped = [path for layer in structure.layers() for name in layer for path in structure.modules(name)]
    top = {ROOT / "fastsia" / name for name in ("__init__.py", "__main__.py")}
    assert len(mapped) == len(set(mapped))
    assert {*mapped, *top} == set((ROOT / "fastsia").rglob("*.py"))
    assert [path for path in mapped if path.read_text(encoding="utf-8") and not structure.summary(path)] == []


def test_contributing_names_the_layers_that_are_enforced(structure: ModuleType) -> None:
    assert structure.CONTRIBUTING.read_text(encoding="utf-8") == structure.contributing(), (
        "run: python docs/_structure.py"
    )


def documented(tree: ast.Module) -> Iterator[tuple[str, set[str], str]]:
    """(name, names of its parameters or fields, docstring) of every class and function."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.ClassDef):
            names = {f.target.id for f in node.body if isinstance(f, ast.AnnAssign) and isinstance(f.target, ast.Name)}
        else:
            names = {arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
        yield node.name, names, ast.get_docstring(node) or ""


@pytest.mark.parametrize("path", sorted((ROOT / "fastsia").rglob("*.py")), ids=lambda path: path.stem)
def test_parameters_are_described_in_sections(path: Path) -> None:
    """Google style: parameters and fields are described below Args and Attributes, one per entry, by existing names."""
    for name, names, text in documented(ast.parse(path.read_text(encoding="utf-8"))):
        for paragraph in text.split("\n\n"):
            head, *rows = paragraph.split("\n")
            labels = re.match(r"(\w+(?:, \w+)*): ", head)
            assert labels is None or not set(labels[1].split(", ")) <= names, f"{name}: {head}"
            if head in ("Args:", "Attributes:"):
                entries = [row[4:].partition(":")[0] for row in rows if row.startswith("    ") and row[4] != " "]
                assert entries, f"{name}: {head}"


def test_the_rl_loop_trains_the_demo_model(tmp_path: Path) -> None:
    (program,) = programs("howto/rl.md", "python")
    assert len(program.splitlines()) < 70
    script = tmp_path / "rl.py"
    script.write_text(program, encoding="utf-8")
    done = run_python(script, tmp_path / "trained", 2, 3, 3, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"step (\d): reward 0?[01]?\.\d{3}", done.stdout) == ["1", "2"], done.stdout
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "trained")
    before = fastsia.Engine.from_pretrained("demo:sft").model
    assert not trained.lm_head.weight.equal(before.get_output_embeddings().weight)


def test_the_exports_are_made_and_read(tmp_path: Path) -> None:
    """The commands of the page run in its order."""
    (commands,), (program,) = programs("exports.md", "sh"), programs("exports.md", "python")
    made = run_shell(commands, tmp_path)
    assert made.returncode == 0, made.stderr
    done = run_python("-c", program, folder=tmp_path, HF_DATASETS_CACHE=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\d\.\d+ \d\.\d+$", done.stdout, re.MULTILINE)


def test_the_notebook_runs_and_shows_what_it_stores(tmp_path: Path) -> None:
    stored = nbformat.read(DOCS / "notebook.ipynb", as_version=4)
    fresh = NotebookClient(
        nbformat.from_dict(stored),
        timeout=300,
        resources={"metadata": {"path": str(tmp_path)}},
        coalesce_streams=True,  # one output per stream
    ).execute()

    def kinds(notebook: nbformat.NotebookNode) -> list[list[list[str]]]:
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        # stderr is left out: a progress bar appears there only on a slow machine.
        shown = [[output for output in cell.outputs if output.get("name") != "stderr"] for cell in code]
        return [[sorted(output.get("data", {output.output_type: ""})) for output in outputs] for outputs in shown]

    assert kinds(fresh) == kinds(stored)
    assert any("image/png" in kind for cell in kinds(stored) for kind in cell)


@pytest.mark.skipif(find_spec("mkdocs") is None, reason="needs pip install 'fastsia[docs]'")
def test_the_site_builds_without_a_warning_and_needs_no_network(tmp_path: Path) -> None:
    """With --strict a broken link or anchor, a page outside of the menu and an unknown name are errors."""
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    done = subprocess.run(command, cwd=ROOT, env=offline(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {page.relative_to(site).as_posix(): page.read_text(encoding="utf-8") for page in site.rglob("*.html")}
    assert {"index.html", "notebook.html", "CHANGELOG.html", "howto/rl.html"} <= pages.keys()
    packed = {file.name.removesuffix(".tar.xz"): file for file in (DOCS / "gallery").iterdir()}
    assert packed
    for name, file in packed.items():
        assert file.stat().st_size <= 1_000_000
        shown = pages[f"gallery/{name}.html"]
        assert f'href="gallery/{name}.html"' in pages["gallery.html"]
        assert 'id="piece-0"' in shown, "its trajectories can be read"
        assert 100_000 < len(shown) < 5_000_000
        assert not re.search("/work|/tmp|/home|/root", shown), "no path of the machine that drew it"
    for name, page in pages.items():
        assert not re.findall(r'<(?:script|img)[^>]* src="?(?:https?:)?//|<link[^>]*stylesheet[^>]*//', page), name
    reference = "".join(page for name, page in pages.items() if name.startswith("api/"))
    for name, home in fastsia._HOMES.items():
        assert f'id="{home}.{name}"' in reference, f"{name} is not in the API's pages"
