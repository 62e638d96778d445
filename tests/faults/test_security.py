"""What the package never does, found in its own source."""

from __future__ import annotations

import ast
from pathlib import Path

import fastsia

PACKAGE = Path(fastsia.__file__).parent
# Modules that read a program out of data, and calls that run one.
READERS = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CALLS = {"eval", "exec", "compile", "__import__", "read_pickle", "torch.load", "os.system", "marshal.loads"}
# marshal.dumps is the checksum of databases of fastsia 0.1.0; it reads nothing.
ALLOWED = {("schema.py", "marshal")}


def test_nothing_is_unpickled_or_evaluated() -> None:
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                found += [(path.name, name) for name in names if name.partition(".")[0] in READERS]
            elif isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                found += [(path.name, name)] * (name in CALLS or name.endswith((".read_pickle", "marshal.loads")))
                shell = any(word.arg in ("shell", "allow_pickle", "weights_only") for word in node.keywords)
                found += [(path.name, f"{name}(shell or pickle)")] * shell
    assert set(found) <= ALLOWED
