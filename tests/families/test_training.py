"""What changes a model's weights, on each family: exact where it works, refused before any work where it does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from family_proof import relative_error, stock_network

from edgeport.errors import UnsupportedModel
from edgeport.export.calibrate.text import CalibrationText
from edgeport.export.prune.plan import plan_prune
from edgeport.export.prune.settings import PruneSettings
from edgeport.export.recover.memory import require_training_memory
from edgeport.export.recover.network import load_float_network
from edgeport.export.recover.settings import DistillSettings
from edgeport.export.source import SourceModel, open_source
from edgeport.export.sparsify.plan import plan_sparsify
from edgeport.export.sparsify.run import sparsify
from edgeport.export.sparsify.settings import SparsifySettings
from edgeport.progress import NO_PROGRESS

Floats = npt.NDArray[np.float32]
FamilyTwin = Callable[..., Path]
TRAINED = ("llama3", "llama-biases", "mistral", "qwen2-window", "qwen3", "granite", "olmo2")
NOT_WRITTEN_BACK = ("gemma2", "gemma3", "phi3", "phi4-mini")
NOT_PRUNED = (*NOT_WRITTEN_BACK, "mistral", "qwen2-window", "qwen3", "granite", "olmo2")
TOKENS = 48


def tokens_of(source: SourceModel, windows: int = 2) -> npt.NDArray[np.int64]:
    return np.random.default_rng(5).integers(0, source.spec.vocab_size, (windows, TOKENS))


def logits_of(network: Any, tokens: npt.NDArray[np.int64]) -> Floats:
    import torch

    with torch.inference_mode():
        logits: Floats = network(torch.from_numpy(tokens), use_cache=False).logits.numpy()
    return logits


@pytest.mark.parametrize("family", TRAINED)
def test_a_network_in_training_answers_as_transformers_past_its_window(
    family: str, family_twin: FamilyTwin
) -> None:
    """The attention written for training sees every token before: layers that slide must not get it."""
    source = open_source(str(family_twin(family)))
    tokens = tokens_of(source)
    wanted = logits_of(stock_network(source.directory), tokens)
    assert relative_error(logits_of(load_float_network(source), tokens), wanted) < 1e-5


@pytest.mark.parametrize("family", TRAINED)
def test_a_sparse_model_of_the_family_opens_with_its_zeros(
    family: str, family_twin: FamilyTwin, tmp_path: Path
) -> None:
    source = open_source(str(family_twin(family)))
    plan = plan_sparsify(source, SparsifySettings(method="wanda", sparsity=0.5))
    text = CalibrationText(tokens_of(source, 4), "random tokens", "random 4x48")
    sparsify(plan, text, tmp_path / "out", work=tmp_path / "work", threads=1, progress=NO_PROGRESS)
    sparse = open_source(str(tmp_path / "out"))
    assert replace(sparse.spec, config={}) == replace(source.spec, config={})
    for item in source.spec.tensors():
        before, after = source.tensor(item.name), sparse.tensor(item.name)
        if item.role == "linear":
            assert float(np.mean(after == 0)) == pytest.approx(0.5, abs=0.01), item.name
        else:
            assert np.array_equal(before, after), item.name
    stock_network(tmp_path / "out")


@pytest.mark.parametrize("family", NOT_WRITTEN_BACK)
def test_what_could_not_be_written_back_is_refused_before_any_work(
    family: str, family_twin: FamilyTwin
) -> None:
    source = open_source(str(family_twin(family)))
    with pytest.raises(UnsupportedModel, match="sparsifying cannot write a model of family") as caught:
        plan_sparsify(source, SparsifySettings())
    assert caught.value.hint is not None and "quantize" in caught.value.hint
    with pytest.raises(UnsupportedModel, match="training cannot write a model of family"):
        require_training_memory(source, source, DistillSettings(), precision="float32")


@pytest.mark.parametrize("family", NOT_PRUNED)
def test_only_llamas_layers_are_pruned(family: str, family_twin: FamilyTwin) -> None:
    source = open_source(str(family_twin(family)))
    with pytest.raises(UnsupportedModel, match="are not pruned: their layers are not Llama's"):
        plan_prune(source, PruneSettings(ffn=0.5))


@pytest.mark.parametrize("family", ["llama3", "mistral-v0.3", "qwen2"])
def test_llamas_layers_are_pruned_whatever_the_family_is_called(family: str, family_twin: FamilyTwin) -> None:
    source = open_source(str(family_twin(family)))
    assert plan_prune(source, PruneSettings(ffn=0.5)).spec.intermediate_size == 64
