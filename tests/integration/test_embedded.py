"""The wheel with one engine extra and nothing else runs an artifact made elsewhere; torch and transformers are not there.

Needs a package index (or pip's cache) for the engines' wheels; llama-cpp-python is compiled where pip has not kept its wheel.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from embedded import EXTRAS, Environment, build_wheel, make_environment, stream_in
from embedded_size import Measured, measure, tables

pytestmark = pytest.mark.slow
OFFLINE = (
    "No matching distribution",
    "Could not find a version",
    "ConnectionError",
    "Temporary failure in name resolution",
)
ENGINES = {"gguf": "llama.cpp", "onnx": "ONNX Runtime", "openvino": "OpenVINO"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module", params=EXTRAS)
def environment(
    request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Environment:
    extra: str = request.param
    try:
        return make_environment(wheel, extra, tmp_path_factory.mktemp("environments") / extra)
    except RuntimeError as error:
        if any(sign in str(error) for sign in OFFLINE):
            pytest.skip(f"edgeport[{extra}] cannot be installed here: {str(error).splitlines()[-1]}")
        raise


def test_it_loads_and_streams_with_the_one_engine(environment: Environment, llama_artifact: Path) -> None:
    answer = stream_in(environment, llama_artifact, 8)
    assert answer["format"] == environment.extra
    assert answer["engine"] == ENGINES[environment.extra]
    assert 1 <= len(answer["tokens"]) <= 8
    assert answer["installed"] == answer["loaded_heavy"] == []
    assert answer["imported_early"] == [], "importing edgeport.runtimes brought an engine or numpy with it"
    missing = [name for name in EXTRAS if name != environment.extra]
    assert all(f"edgeport[{name}]" in answer["choice_reason"] for name in missing)


def test_it_holds_only_what_running_needs(environment: Environment) -> None:
    names = {package.partition(" ")[0].lower() for package in environment.package_bytes}
    assert {"edgeport", "numpy", "jinja2"} <= names
    # a GGUF file holds its tokenizer, and llama.cpp brings the code
    assert ("tokenizers" in names) == (environment.extra != "gguf")
    assert not names & {
        "torch",
        "transformers",
        "safetensors",
        "gguf",
        "onnx",
        "datasets",
        "accelerate",
        "ml_dtypes",
    }
    assert environment.total_bytes < 600 << 20
    site = next(path for path in (environment.python.parent.parent / "lib").glob("*/site-packages"))
    on_disk = sum(path.stat().st_size for path in site.rglob("*") if path.is_file() and not path.is_symlink())
    assert environment.total_bytes == pytest.approx(on_disk, rel=0.05), (
        "the packages' own lists do not add up"
    )


def test_the_other_engines_are_named_when_asked_for(environment: Environment, llama_artifact: Path) -> None:
    """A container without its engine is refused with the extra to install, not with an ImportError."""
    other = next(name for name in EXTRAS if name != environment.extra)
    done = subprocess.run(
        [environment.python.parent / "edgeport", "run", llama_artifact, "def", "--runtime", other],
        capture_output=True, text=True, check=False, cwd=environment.python.parent,
    )  # fmt: skip
    assert done.returncode == 3
    assert f"edgeport[{other}]" in done.stderr


def test_an_environment_that_is_not_clean_is_refused(environment: Environment, llama_artifact: Path) -> None:
    """A planted package named torch must be seen by what makes the published table."""
    site = next(path for path in (environment.python.parent.parent / "lib").glob("*/site-packages"))
    planted = site / "torch"
    planted.mkdir()
    (planted / "__init__.py").touch()
    try:
        assert stream_in(environment, llama_artifact, 1)["installed"] == ["torch"]
        with pytest.raises(RuntimeError, match="not a clean environment"):
            measure(environment, llama_artifact, 1)
    finally:
        (planted / "__init__.py").unlink()
        planted.rmdir()


def test_the_tables_name_sizes_and_times() -> None:
    row = Measured("gguf", {"numpy 2": 40 << 20, "edgeport 0": 1 << 20}, 41 << 20, 0.031, 0.25, "llama.cpp")
    text = tables([row], "Where.")
    assert "| edgeport[gguf] | 2 | 41 MiB | 31 ms | 250 ms | llama.cpp |" in text.replace("\\", "")
    assert "numpy 2 40 MiB, edgeport 0 1 MiB" in text.replace("\\", "")
    assert text.endswith("Where.")
