"""The house rules that no linter knows: what is packaged, what each layer imports, and that lazy names resolve."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LAYERS = ("export", "runtimes", "devices")
LAZY_NAME = re.compile(r"edgeport(\.\w+)+:\w+")
# Extras that hold what a layer may import; the spine and devices have none.
RUNTIME_EXTRAS = ("onnx", "openvino", "gguf", "reference")
LAYER_EXTRAS = {
    "edgeport": (),
    "devices": (),
    "runtimes": (*RUNTIME_EXTRAS, "constrained"),
    "export": (*RUNTIME_EXTRAS, "export", "eval", "engines", "datasets", "harness", "bitsandbytes", "lora"),
}


def source_files(root: Path, layer: str) -> list[Path]:
    """Python files of one layer; the symlinks in edgeport/ are not followed."""
    links = (
        [path for path in (root / layer).iterdir() if path.is_symlink()] if (root / layer).is_dir() else []
    )
    files = sorted((root / layer).rglob("*.py"))
    return [path for path in files if not any(path.is_relative_to(link) for link in links)]


def package_names(root: Path) -> set[str]:
    """Dotted names of all folders with Python files."""
    folders = {
        path.parent.relative_to(root) for layer in ("edgeport", *LAYERS) for path in source_files(root, layer)
    }
    return {
        ".".join(folder.parts if folder.parts[0] == "edgeport" else ("edgeport", *folder.parts))
        for folder in folders
    }


def module_name(root: Path, path: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    parts = parts if parts[0] == "edgeport" else ("edgeport", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(path: Path) -> Iterator[str]:
    """Top-level names of everything a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def third_party(root: Path, layer: str) -> dict[str, str]:
    """Imported packages that are neither edgeport nor the standard library -> one file that imports them."""
    own = {"edgeport", "__future__"}
    return {
        name: str(path.relative_to(root))
        for path in source_files(root, layer)
        for name in imported_names(path)
        if name not in own and name not in sys.stdlib_module_names
    }


def normalized(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def declared(extras: tuple[str, ...]) -> set[str]:
    table = PYPROJECT["project"]["optional-dependencies"]
    return {normalized(re.split(r"[<>=\[; ]", line)[0]) for extra in extras for line in table[extra]}


def modules_after_importing(names: list[str], *, forbid: tuple[str, ...] = ()) -> set[str]:
    """sys.modules of a fresh interpreter that imported `names`, with `forbid` made impossible to import."""
    script = (
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({list(forbid)!r}))\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print('\\n'.join(name for name, module in sys.modules.items() if module is not None))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines())


def modules_of(layer: str) -> list[str]:
    return [module_name(ROOT, path) for path in source_files(ROOT, layer) if path.name != "__main__.py"]


def outside(modules: set[str], *allowed: str) -> set[str]:
    """Modules that are neither of the standard library nor in one of the `allowed` packages."""
    tops = {name for name in modules if not name.startswith("_")}
    inside = tuple(f"{package}." for package in allowed)
    return {
        name
        for name in tops
        if name.split(".")[0] not in sys.stdlib_module_names
        and name not in allowed
        and not name.startswith(inside)
    }


def spine() -> list[str]:
    return [name for name in modules_of("edgeport") if not name.startswith("edgeport.cli")]


def test_package_list_is_the_tree() -> None:
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == package_names(ROOT)


def test_a_folder_that_is_not_listed_is_seen(tmp_path: Path) -> None:
    for path in ("edgeport/__init__.py", "export/new/method.py"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).touch()
    assert package_names(tmp_path) == {"edgeport", "edgeport.export.new"}


def test_every_package_has_an_init() -> None:
    for name in package_names(ROOT):
        parts = name.split(".")
        folder = ROOT.joinpath(*(parts[1:] if len(parts) > 1 and parts[1] in LAYERS else parts))
        assert (folder / "__init__.py").is_file(), folder


def test_every_data_file_is_packaged() -> None:
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]
    packaged = set()
    for name, globs in patterns.items():
        folder = ROOT.joinpath(*name.split(".")[1:]) if name != "edgeport" else ROOT / "edgeport"
        packaged |= {path for pattern in globs for path in folder.glob(pattern)}
    present = {
        path
        for layer in ("edgeport", *LAYERS)
        for path in (ROOT / layer).rglob("*")
        if path.is_file()
        and path.suffix not in (".py", ".pyc")
        and path.name not in ("ruff.toml", ".gitignore")
    }
    assert {path.relative_to(ROOT) for path in present - packaged} == set()


def test_the_spine_is_standard_library_only() -> None:
    assert outside(modules_after_importing(spine()), *spine()) == set()


def test_devices_are_standard_library_only() -> None:
    loaded = modules_after_importing(modules_of("devices"))
    assert outside(loaded, *spine(), "edgeport.devices") == set()


def test_runtimes_work_where_torch_cannot_be_imported() -> None:
    loaded = modules_after_importing(modules_of("runtimes"), forbid=("torch", "transformers"))
    assert not {name for name in loaded if name.startswith(("edgeport.export", "edgeport.cli"))}


def test_a_forbidden_import_is_seen() -> None:
    with pytest.raises(AssertionError, match="import of torch halted"):
        modules_after_importing(["torch"], forbid=("torch",))
    assert "numpy" in outside(modules_after_importing(["numpy"]), "edgeport")


@pytest.mark.parametrize("layer", sorted(LAYER_EXTRAS))
def test_third_party_imports_are_declared(layer: str) -> None:
    """Whatever a layer imports is brought by one of its extras."""
    distributions = importlib.metadata.packages_distributions()
    allowed = declared(LAYER_EXTRAS[layer])
    undeclared = {
        name: path
        for name, path in third_party(ROOT, layer).items()
        if not allowed & {normalized(item) for item in distributions.get(name, [name])}
    }
    assert undeclared == {}


def test_an_undeclared_import_is_seen(tmp_path: Path) -> None:
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / "probe.py").write_text("import os\ndef probe():\n    import psutil.x\n")
    assert third_party(tmp_path, "devices") == {"psutil": "devices/probe.py"}


def lazy_names() -> list[str]:
    """Every string `edgeport.module:attribute` in the tree: table entries and arguments of edgeport.lazy.load."""
    found = set()
    for layer in ("edgeport", *LAYERS):
        for path in source_files(ROOT, layer):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if (
                    isinstance(node, ast.Constant)
                    and isinstance(node.value, str)
                    and LAZY_NAME.fullmatch(node.value)
                ):
                    found.add(node.value)
    return sorted(found)


@pytest.mark.parametrize("target", lazy_names())
def test_lazy_names_resolve(target: str) -> None:
    module, _, attribute = target.partition(":")
    assert hasattr(importlib.import_module(module), attribute)


def test_there_are_lazy_names() -> None:
    assert "edgeport.export.families.llama:read_spec" in lazy_names()


def test_public_names_of_runtimes_resolve() -> None:
    runtimes = importlib.import_module("edgeport.runtimes")
    assert all(callable(getattr(runtimes, name)) for name in runtimes.__all__)
