"""Artifacts for the integration tests: one export per family, made once by the command itself, two at a time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))  # browser.py and page_checks.py are imported by path
Edgeport = Callable[..., subprocess.CompletedProcess[str]]


def run_edgeport(*words: str | Path, timeout_s: float = 900) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgeport", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=timeout_s)


@pytest.fixture(scope="session")
def edgeport() -> Edgeport:
    """edgeport("verify", folder) runs the command as a user does."""
    return run_edgeport


@pytest.fixture(scope="session")
def packed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """packed("tiny_llama_dir"): a folder with one sub-folder per engine's format, all from one INT4 checkpoint (INT8 embedding
    and head), without a manifest. Made once each; read-only."""
    made: dict[str, Path] = {}

    def get(model: str) -> Path:
        if model not in made:
            made[model] = _pack(request.getfixturevalue(model), tmp_path_factory.mktemp("containers"))
        return made[model]

    return get


def _pack(model: Path, folder: Path) -> Path:
    from edgeport.export.checkpoint import Checkpoint
    from edgeport.export.formats.base import WriteOptions
    from edgeport.export.formats.table import get_format
    from edgeport.export.quantize.run import quantize
    from edgeport.export.recipe import load_recipe
    from edgeport.export.source import open_source
    from edgeport.progress import Progress
    from edgeport.runtimes.engines import ENGINES

    checkpoint, progress = folder / "work" / "checkpoint", Progress()
    checkpoint.mkdir(parents=True)
    source = open_source(str(model))
    quantize(source, replace(load_recipe("int4"), solver="rtn"), checkpoint, threads=2, progress=progress)
    for name in ENGINES:
        (folder / "packed" / name).mkdir(parents=True)
        written = Checkpoint(checkpoint, source.spec)
        get_format(name).write(written, folder / "packed" / name, WriteOptions("tiny", 128, progress))
    return folder / "packed"


@pytest.fixture(scope="session")
def exports(
    tiny_llama_dir: Path, tiny_qwen2_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, tuple[Path, subprocess.CompletedProcess[str]]]:
    """{"llama": (artifact, how the export ended), "qwen2": ...} with recipe int4 and all formats; read-only."""
    folder = tmp_path_factory.mktemp("artifacts")

    def export(family: str, model: Path) -> tuple[str, tuple[Path, subprocess.CompletedProcess[str]]]:
        out = folder / family
        return family, (out, run_edgeport("export", model, "--device", "edge", "-o", out, "--solver", "rtn"))

    with ThreadPoolExecutor(2) as pool:
        return dict(pool.map(export, ("llama", "qwen2"), (tiny_llama_dir, tiny_qwen2_dir)))


@pytest.fixture(scope="session")
def llama_artifact(exports: Mapping[str, tuple[Path, subprocess.CompletedProcess[str]]]) -> Path:
    return exports["llama"][0]


@pytest.fixture(scope="session")
def qwen2_artifact(exports: Mapping[str, tuple[Path, subprocess.CompletedProcess[str]]]) -> Path:
    return exports["qwen2"][0]


@pytest.fixture(scope="session")
def reference_containers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one sub-folder per format: the trained reference model in INT4, rounded to nearest; read-only."""
    from edgeport.export.checkpoint import Checkpoint
    from edgeport.export.formats.base import WriteOptions
    from edgeport.export.formats.table import FORMATS, get_format
    from edgeport.export.quantize.run import quantize
    from edgeport.export.recipe import load_recipe
    from edgeport.export.source import open_source
    from edgeport.progress import Progress

    work, packed = tmp_path_factory.mktemp("checkpoint"), tmp_path_factory.mktemp("reference")
    source, progress = open_source(str(ROOT / "models" / "reference")), Progress()
    quantize(source, replace(load_recipe("int4"), solver="rtn"), work, threads=1, progress=progress)
    for name in FORMATS:
        (packed / name).mkdir()
        get_format(name).write(
            Checkpoint(work, source.spec), packed / name, WriteOptions("reference", 512, progress)
        )
    return packed
