"""Each check of `make lint` and `make types` says no: a fault is planted in a copy of the tree, and the tool finds it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
COPIED = ("pyproject.toml", "edgeport", "export", "runtimes", "devices", "docs")
BIN = Path(sys.executable).parent
RUFF = [str(BIN / "ruff"), "check", "--no-cache", "--output-format", "concise", "."]
IMPORTS = [str(BIN / "lint-imports"), "--no-cache", "--no-logo"]
TYPES = [str(BIN / "mypy"), "-p", "edgeport", "--cache-dir", "/dev/null"]
DOCS = [sys.executable, "docs/generate_cli.py", "--check"]

FAULTS = [
    pytest.param(RUFF, "export/planted.py", 'print("hello")\n', "T201", id="print in library code"),
    pytest.param(RUFF, "export/planted.py", "import runtimes.session\n", "TID251", id="import by short name"),
    pytest.param(RUFF, "export/planted.py", "from . import source\n", "TID252", id="relative import"),
    pytest.param(RUFF, "runtimes/planted.py", "import torch\n", "TID25", id="torch in runtimes"),
    pytest.param(RUFF, "devices/planted.py", "import numpy\n", "TID253", id="numpy in devices"),
    pytest.param(
        RUFF,
        "export/planted.py",
        "try:\n    import gguf\nexcept Exception:\n    gguf = None\n",
        "BLE001",
        id="blind except",
    ),
    pytest.param(
        IMPORTS,
        "devices/planted.py",
        "def late():\n    import edgeport.runtimes.session\n",
        "edgeport.devices is not allowed to import edgeport.runtimes",
        id="devices import runtimes",
    ),
    pytest.param(
        IMPORTS,
        "runtimes/planted.py",
        "def late():\n    import torch\n",
        "edgeport.runtimes is not allowed to import torch",
        id="torch in a function of runtimes",
    ),
    pytest.param(
        IMPORTS,
        "export/formats/planted.py",
        "import edgeport.runtimes.session\n",
        "edgeport.export is not allowed to import edgeport.runtimes",
        id="a writer imports runtimes",
    ),
    pytest.param(IMPORTS, "edgeport/planted.py", "", "planted", id="a spine module in no layer"),
    pytest.param(
        TYPES,
        "export/planted.py",
        "from edgeport.units import parse_bytes\n\nSIZE: str = parse_bytes('1')\n",
        "Incompatible types in assignment",
        id="type error behind a symlink",
    ),
    pytest.param(DOCS, "docs/cli.md", "# Command reference\n", "out of date", id="stale command reference"),
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in COPIED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", ".*_cache")
            shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(("tool", "path", "text", "expected"), FAULTS)
def test_a_planted_fault_is_found(tree: Path, tool: list[str], path: str, text: str, expected: str) -> None:
    (tree / path).write_text(text, encoding="utf-8")
    done = subprocess.run(
        tool, cwd=tree, capture_output=True, text=True, check=False, env={"PYTHONPATH": ".", "PATH": str(BIN)}
    )
    assert done.returncode != 0
    assert expected in done.stdout + done.stderr
    assert "planted" in done.stdout + done.stderr or path == "docs/cli.md"
