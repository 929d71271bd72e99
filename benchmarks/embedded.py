"""A virtual environment that holds edgeport's wheel with one engine extra and nothing else: made, weighed, and asked to run.

Used by benchmarks/embedded_size.py and tests/integration/test_embedded.py.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGED = ("pyproject.toml", "README.md", "LICENSE", "edgeport", "export", "runtimes", "devices")
EXTRAS = ("gguf", "onnx", "openvino")
BUILD = "from setuptools import build_meta; print(build_meta.build_wheel({!r}))"
WEIGH = """
import importlib.metadata, json
sizes = {}
for found in importlib.metadata.distributions():
    paths = {file.locate() for file in found.files or ()}
    sizes[f"{found.name} {found.version}"] = sum(path.stat().st_size for path in paths if path.is_file())
print(json.dumps(sizes))
"""
STREAM = """
import importlib.util, json, sys, time
path, count = sys.argv[1], int(sys.argv[2])
begin = time.perf_counter()
import edgeport.runtimes
imported = time.perf_counter()
early = [name for name in ("numpy", "llama_cpp", "onnxruntime", "openvino", "tokenizers") if name in sys.modules]
from edgeport.runtimes import GenerationOptions, load
with load(path) as model:
    loaded = time.perf_counter()
    tokens = list(model.stream("def main(", GenerationOptions(max_tokens=count)))
    first = {"format": model.format, "engine": model.engine, "choice_reason": model.choice_reason}
heavy = ("torch", "transformers")
print(json.dumps({
    **first, "tokens": [token.id for token in tokens], "text": "".join(token.text for token in tokens),
    "imported_early": early, "import_s": imported - begin, "load_s": loaded - imported,
    "installed": [name for name in heavy if importlib.util.find_spec(name)],
    "loaded_heavy": [name for name in heavy if name in sys.modules],
}))
"""


@dataclass(frozen=True, slots=True)
class Environment:
    """python: its interpreter. package_bytes: installed size by `name version`, compiled bytecode included."""

    extra: str
    python: Path
    package_bytes: dict[str, int]

    @property
    def total_bytes(self) -> int:
        return sum(self.package_bytes.values())


def build_wheel(work: Path) -> Path:
    """The wheel of this checkout, built from a copy of what is packaged. Raises RuntimeError with setuptools' last words."""
    tree, output = work / "tree", work / "wheel"
    ignored = shutil.ignore_patterns("__pycache__", ".*_cache", "*.egg-info")
    output.mkdir(parents=True)
    tree.mkdir()
    for name in PACKAGED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / name, tree / name)
    told = _run([sys.executable, "-c", BUILD.format(str(output))], cwd=tree)
    return output / told.splitlines()[-1]


def make_environment(wheel: Path, extra: str, directory: Path) -> Environment:
    """Install `edgeport[extra]` from the wheel at the versions of constraints.txt; pip itself stays outside.

    An empty extra installs the wheel alone. Raises RuntimeError with pip's last words.
    """
    _run([sys.executable, "-m", "venv", "--without-pip", str(directory)], cwd=directory.parent)
    python = directory / "bin" / "python"
    asked = f"edgeport[{extra}] @ {wheel.as_uri()}" if extra else str(wheel)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "--quiet"]
    _run([*pip, "install", "-c", str(ROOT / "constraints.txt"), asked], cwd=directory)
    sizes = json.loads(_run([python, "-I", "-c", WEIGH], cwd=directory))
    return Environment(extra, python, dict(sorted(sizes.items(), key=lambda item: -item[1])))


def stream_in(environment: Environment, artifact: Path, count: int) -> dict[str, Any]:
    """Load `artifact` in a fresh process of the environment, away from the checkout, and stream `count` tokens.

    What it says: format, engine and choice_reason, tokens and text, the engines that `import edgeport.runtimes` loaded already,
    seconds of that import and of `load`, and whether torch and transformers are installed or loaded.
    """
    command = [environment.python, "-I", "-c", STREAM, artifact.resolve(), str(count)]
    told = _run(command, cwd=environment.python.parent)
    answer: dict[str, Any] = json.loads(told.splitlines()[-1])
    return answer


def _run(command: list[Any], *, cwd: Path) -> str:
    """Its standard output. pip needs the environment's variables (index, proxy); an isolated Python ignores those for Python."""
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(
            f"{Path(str(command[0])).name} ended with {done.returncode}: {done.stderr.strip()[-2000:]}"
        )
    return done.stdout
