"""The wheel, the sdist and the editable install: what is in them, and that they work where nothing else is installed.

Everything is built from a copy of the tree, without network and without build isolation.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from edgeport import __version__

ROOT = Path(__file__).parent.parent.parent
LAYERS = ("export", "runtimes", "devices")
PACKAGED = ("pyproject.toml", "README.md", "LICENSE", "edgeport", *LAYERS)
PROBE = """
import importlib.util, sys
import edgeport.runtimes, edgeport.devices, edgeport.cli
assert all(importlib.util.find_spec(name) is None for name in ("torch", "transformers", "numpy")), "not a clean venv"
assert importlib.util.find_spec("runtimes") is None, "the folder landed in site-packages under its short name"
print(edgeport.__version__)
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is packaged, the convenience symlinks included."""
    copy = tmp_path_factory.mktemp("tree")
    ignored = shutil.ignore_patterns("__pycache__", ".*_cache", "*.egg-info")
    for name in PACKAGED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / name, copy / name)
    return copy


def build(tree: Path, kind: str, output: Path) -> Path:
    """Call one hook of setuptools' PEP 517 backend in `tree`; return the file it made."""
    output.mkdir(parents=True, exist_ok=True)
    script = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(output)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tree, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return output / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tree, "wheel", tmp_path_factory.mktemp("wheel"))


def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def install(wheel: Path, directory: Path) -> Path:
    """Make a virtual environment that holds this wheel and nothing else; return its bin folder."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(directory)], check=True)
    python = directory / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], check=True)
    return directory / "bin"


def run_clean(command: list[str | Path], where: Path) -> str:
    """Run away from the repository and without this process's environment."""
    done = subprocess.run(
        command, cwd=where, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_holds_every_source_file_once(tree: Path, wheel: Path) -> None:
    expected = set()
    for top in ("edgeport", *LAYERS):
        for path in (tree / top).rglob("*"):
            name = path.relative_to(tree).as_posix()
            if (
                path.is_file()
                and path.suffix in (".py", ".toml", ".typed", ".txt", ".json")
                and path.name != "ruff.toml"
            ):
                expected.add(name if name.startswith("edgeport/") else f"edgeport/{name}")
    assert {name for name in contents(wheel) if ".dist-info/" not in name} == expected


def test_sdist_builds_the_same_wheel(tree: Path, wheel: Path, tmp_path: Path) -> None:
    sdist = build(tree, "sdist", tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    again = build(tmp_path / f"edgeport-{__version__}", "wheel", tmp_path / "wheel")
    assert contents(again) == contents(wheel)


def test_a_checkout_without_symlinks_builds_the_same_wheel(tree: Path, wheel: Path, tmp_path: Path) -> None:
    shutil.copytree(tree, tmp_path / "tree", symlinks=True)
    for layer in LAYERS:
        (tmp_path / "tree" / "edgeport" / layer).unlink()
    assert contents(build(tmp_path / "tree", "wheel", tmp_path / "wheel")) == contents(wheel)


def test_installed_wheel_works_alone(wheel: Path, tmp_path: Path) -> None:
    """`import edgeport.runtimes` and the command line, with no other package at all."""
    binaries = install(wheel, tmp_path / "venv")
    assert run_clean([binaries / "python", "-I", "-c", PROBE], tmp_path).strip() == __version__
    assert "usage: edgeport" in run_clean([binaries / "edgeport", "--help"], tmp_path)
    assert "edge" in run_clean([binaries / "edgeport", "devices"], tmp_path)


def test_editable_install_works_alone(tree: Path, tmp_path: Path) -> None:
    binaries = install(build(tree, "editable", tmp_path / "wheel"), tmp_path / "venv")
    assert run_clean([binaries / "python", "-I", "-c", PROBE], tmp_path).strip() == __version__


def test_a_missing_extra_is_named(wheel: Path, tiny_llama_dir: Path, tmp_path: Path) -> None:
    binaries = install(wheel, tmp_path / "venv")
    done = subprocess.run(
        [binaries / "edgeport", "run", tiny_llama_dir, "text"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert "pip install 'edgeport[reference]'" in done.stderr
    shown = run_clean([binaries / "edgeport", "inspect", tiny_llama_dir], tmp_path)
    assert "transformers     accepted" in shown and "edgeport export  refused" in shown
