"""AWQ folding: exact in transformers' own layer, never worse, and worth something where channels are salient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgeport.errors import UnsupportedModel
from edgeport.export.calibrate.groups import input_groups
from edgeport.export.calibrate.layerwise import LayerwiseModel
from edgeport.export.calibrate.run import LayerView
from edgeport.export.calibrate.statistics import InputStatistics
from edgeport.export.quantize import awq, imatrix
from edgeport.export.source import SourceModel, open_source
from edgeport.scheme import TensorScheme

Floats = npt.NDArray[np.float32]
INT4 = TensorScheme("int4", 32)


class Layer:
    """Layer 0 of a model folder on random tokens: weights, statistics of its inputs, and what it answers."""

    def __init__(self, directory: Path) -> None:
        self.source: SourceModel = open_source(str(directory))
        self.model = LayerwiseModel(self.source, n_ctx=64, threads=1)
        tokens = np.random.default_rng(0).integers(3, 500, (4, 64))
        self.hidden = self.model.embed(tokens).numpy()
        # Some channels much larger than others, as in trained models; the norm's weight decides.
        self.hidden[..., ::7] *= 8
        self.weights: dict[str, Floats] = {
            item.name: self.source.tensor(item.name).astype(np.float32)
            for item in self.source.spec.layer_tensors(0)
        }
        with self.model.layer(0, self.weights) as module:
            view = LayerView(self.model, 0, module, self.hidden)
            self.statistics = view.watch(input_groups(self.source.spec), hessian=True)

    def answer(self, weights: Mapping[str, Floats]) -> Floats:
        import torch

        with self.model.layer(0, weights) as module:
            output: Floats = self.model.run(0, module, torch.from_numpy(self.hidden)).numpy()
        return output

    def fold(self, scheme: TensorScheme = INT4) -> awq.FoldedLayer:
        return awq.fold(self.source.spec, 0, self.weights, self.statistics, lambda name: scheme)

    def watched(self, weights: Mapping[str, Floats]) -> dict[str, InputStatistics]:
        with self.model.layer(0, weights) as module:
            view = LayerView(self.model, 0, module, self.hidden)
            return view.watch(input_groups(self.source.spec), hessian=True)


@pytest.fixture(scope="module", params=["tiny_llama_dir", "tiny_qwen2_dir"])
def layer(request: pytest.FixtureRequest) -> Layer:
    return Layer(request.getfixturevalue(request.param))


def relative(got: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> float:
    difference = got.astype(np.float64) - wanted
    return float(np.linalg.norm(difference) / np.linalg.norm(wanted.astype(np.float64)))


@pytest.mark.parametrize("place", range(4))
def test_any_scale_leaves_the_float_layer_as_it_was(layer: Layer, place: int) -> None:
    pair = awq.folding_pairs(layer.source.spec, 0)[place]
    outputs = layer.weights[pair.producer].shape[0]
    scale = np.exp(np.random.default_rng(place).normal(0, 1, outputs)).astype(np.float32)
    changed = awq.apply_scale(pair, scale, layer.weights)
    assert set(pair.consumers) < set(changed)
    wanted = layer.answer(layer.weights)
    assert relative(layer.answer(layer.weights | changed), wanted) < 1e-5
    wrong = changed | {pair.consumers[0]: layer.weights[pair.consumers[0]]}
    assert relative(layer.answer(layer.weights | wrong), wanted) > 1e-3, (
        "the test must see a pair half folded"
    )


def test_a_value_channel_shared_by_the_wrong_heads_is_seen(layer: Layer) -> None:
    pair = awq.folding_pairs(layer.source.spec, 0)[1]
    assert pair.copies == 2
    scale = np.exp(np.random.default_rng(1).normal(0, 1, len(layer.weights[pair.producer]))).astype(
        np.float32
    )
    changed = awq.apply_scale(pair, scale, layer.weights)
    tiled = layer.weights[pair.consumers[0]] * np.tile(scale, pair.copies)  # heads 0 1 0 1 instead of 0 0 1 1
    wrong = layer.weights | changed | {pair.consumers[0]: tiled}
    assert relative(layer.answer(wrong), layer.answer(layer.weights)) > 1e-2


def test_folding_is_exact_and_its_statistics_are_those_of_the_folded_layer(layer: Layer) -> None:
    folded = layer.fold()
    assert set(folded.weights) == set(layer.weights)
    assert any(choice.changes for choice in folded.choices)
    assert relative(layer.answer(folded.weights), layer.answer(layer.weights)) < 1e-5
    for name, watched in layer.watched(folded.weights).items():
        stated = folded.statistics[name]
        assert watched.hessian is not None and stated.hessian is not None
        assert relative(stated.second_moment, watched.second_moment) < 1e-4
        assert relative(stated.mean_magnitude, watched.mean_magnitude) < 1e-4
        assert relative(stated.hessian, watched.hessian) < 1e-4


@pytest.mark.parametrize("place", range(4))
def test_the_reported_error_is_the_output_error(layer: Layer, place: int) -> None:
    """Quantize the folded weights themselves, on the statistics of the folded layer; other pairs stay float."""
    consumers = awq.folding_pairs(layer.source.spec, 0)[place].consumers
    schemes = {name: INT4 if name in consumers else TensorScheme("bf16") for name in layer.weights}
    folded = awq.fold(layer.source.spec, 0, layer.weights, layer.statistics, schemes.__getitem__)
    (choice,) = folded.choices
    assert choice.consumers == consumers and choice.error_after <= choice.error_before
    total = 0.0
    for name in consumers:
        statistics = folded.statistics[name]
        assert statistics.hessian is not None
        change = imatrix.solve(folded.weights[name], INT4, statistics).dequantize() - folded.weights[name]
        total += float(np.trace(change @ statistics.hessian @ change.T))
    assert total == pytest.approx(choice.error_after, rel=1e-3)


def planted(salient: float) -> tuple[dict[str, Floats], dict[str, InputStatistics], awq.FoldedLayer]:
    """A layer of the shape of tiny_llama with Gaussian weights; one input channel in sixteen is `salient` times larger."""
    from edgeport.export.families.table import read_spec

    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512,
        "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": True,
    }  # fmt: skip
    spec = read_spec(config)
    random = np.random.default_rng(3)
    weights, statistics = {}, {}
    for item in spec.layer_tensors(0):
        weights[item.name] = random.standard_normal(item.shape).astype(np.float32)
        if item.role == "linear":
            inputs = np.random.default_rng(4).standard_normal((2048, item.shape[1])).astype(np.float32)
            inputs[:, ::16] *= salient
            statistics[item.name] = InputStatistics(
                len(inputs), (inputs**2).mean(0), np.abs(inputs).mean(0), inputs.T @ inputs / len(inputs)
            )
    return weights, statistics, awq.fold(spec, 0, weights, statistics, lambda name: INT4)


def test_salient_channels_gain() -> None:
    """Ten times larger inputs: the weighted search alone leaves the columns as coarse as their block."""
    _, _, folded = planted(10.0)
    for choice in folded.choices:
        assert choice.changes
        assert choice.error_after < 0.8 * choice.error_before, choice  # 0.72 and less when this was written


def test_no_scale_is_a_candidate_and_wins_when_every_scale_is_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awq, "CANDIDATES", ((40.0, 0.0),))  # far beyond the grid: columns underflow
    weights, _, folded = planted(1.5)
    for choice in folded.choices:
        assert not choice.changes and choice.error_after == choice.error_before
    assert all(np.array_equal(folded.weights[name], values) for name, values in weights.items())


def test_float_consumers_are_left_alone(layer: Layer) -> None:
    folded = layer.fold(TensorScheme("bf16"))
    assert folded.choices == ()
    assert all(folded.weights[name] is values for name, values in layer.weights.items())


def test_dead_channels_get_no_scale_and_nothing_becomes_infinite(layer: Layer) -> None:
    statistics = {}
    for name, found in layer.statistics.items():
        assert found.hessian is not None
        live = np.ones(len(found.second_moment), dtype=np.float32)
        live[3::8] = 0
        statistics[name] = InputStatistics(
            found.tokens, found.second_moment * live, found.mean_magnitude * live, found.hessian * np.outer(live, live)
        )  # fmt: skip
    folded = awq.fold(layer.source.spec, 0, layer.weights, statistics, lambda name: INT4)
    assert all(np.isfinite(values).all() for values in folded.weights.values())
    norm = "model.layers.0.input_layernorm.weight"
    assert np.array_equal(folded.weights[norm][3::8], layer.weights[norm][3::8])
    silent = awq.channel_scale(np.zeros(8, np.float32), 1.0)
    assert np.array_equal(silent, np.ones(8, np.float32))


def test_scales_are_clamped_to_what_the_scheme_holds(layer: Layer) -> None:
    """Columns of 1900 of at most 2048, and an input that asks for more: the quantizer would refuse the model."""
    weights = dict(layer.weights)
    name = "model.layers.0.mlp.down_proj.weight"
    weights[name] = weights[name].copy()
    weights[name][:, 5] = 1900
    found = layer.statistics[name]
    magnitude = found.mean_magnitude.copy()
    magnitude[5] = 1e4 * magnitude.max()
    statistics = layer.statistics | {
        name: replace(found, mean_magnitude=magnitude, second_moment=magnitude**2, hessian=None)
    }
    folded = awq.fold(layer.source.spec, 0, weights, statistics, lambda name: INT4)
    assert all(np.abs(folded.weights[item]).max() <= 2048 for item in statistics)


def test_without_hessians_the_second_moments_stand_in(layer: Layer) -> None:
    statistics = {name: replace(found, hessian=None) for name, found in layer.statistics.items()}
    folded = awq.fold(layer.source.spec, 0, layer.weights, statistics, lambda name: INT4)
    assert any(choice.changes for choice in folded.choices)
    assert relative(layer.answer(folded.weights), layer.answer(layer.weights)) < 1e-5


def test_statistics_that_are_not_finite_are_refused_by_name(layer: Layer) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    bad = replace(layer.statistics[name], mean_magnitude=layer.statistics[name].mean_magnitude * np.nan)
    with pytest.raises(UnsupportedModel, match="q_proj"):
        awq.fold(layer.source.spec, 0, layer.weights, layer.statistics | {name: bad}, lambda name: INT4)
