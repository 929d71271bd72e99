"""Every family through every recipe into packed safetensors, opened by transformers; and AWQ's folding, exact in every family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from family_proof import dequantized_network, relative_error, stock_network

from edgeport.export.calibrate.text import CalibrationText
from edgeport.export.checkpoint import Checkpoint, weights_id
from edgeport.export.formats.base import WriteOptions
from edgeport.export.formats.safetensors import SafetensorsFormat
from edgeport.export.quantize import awq
from edgeport.export.quantize.run import Calibration, quantize
from edgeport.export.recipe import Recipe, load_recipe, parse
from edgeport.export.source import SourceModel, open_source
from edgeport.export.verify.container import weight_digests
from edgeport.progress import NO_PROGRESS

Floats = npt.NDArray[np.float32]
FamilyTwin = Callable[..., Path]
FAMILIES = (
    "llama", "llama3", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "phi4-mini", "granite", "olmo2",
    "llama-biases", "qwen2-window",
)  # fmt: skip
FAST = ("gemma2", "phi4-mini", "olmo2")
"""One that stores norms otherwise, one that joins matrices, one whose norms stand elsewhere; `slow` runs the others."""
RECIPES = ("bf16", "f16", "int8", "int4", "edge")
TOLERANCE = 1e-5
WINDOWS, TOKENS = 6, 48


@dataclass(frozen=True, slots=True)
class Packed:
    source: SourceModel
    checkpoint: Checkpoint
    folder: Path

    def weights(self) -> dict[str, Floats]:
        return {name: self.checkpoint.tensor(name).dequantize() for name in self.checkpoint.names()}


Pack = Callable[[str, Recipe], Packed]


def text_of(source: SourceModel) -> CalibrationText:
    tokens = np.random.default_rng(3).integers(0, source.spec.vocab_size, (WINDOWS, TOKENS))
    return CalibrationText(tokens, "random tokens", f"random {WINDOWS}x{TOKENS}")


@pytest.fixture
def pack(family_twin: FamilyTwin, tmp_path: Path) -> Pack:
    """pack(family, recipe) -> checkpoint and packed safetensors, calibrated on random tokens where the solver asks."""

    def write(family: str, recipe: Recipe) -> Packed:
        source = open_source(str(family_twin(family)))
        work = tmp_path / f"{family}-{recipe.name}-{recipe.solver}"
        for name in ("checkpoint", "safetensors"):
            (work / name).mkdir(parents=True)
        calibration = Calibration(text_of(source), work / "work")
        quantize(
            source, recipe, work / "checkpoint", calibration=calibration, threads=1, progress=NO_PROGRESS
        )
        checkpoint = Checkpoint(work / "checkpoint", source.spec)
        SafetensorsFormat().write(checkpoint, work / "safetensors", WriteOptions("t", 64, NO_PROGRESS))
        return Packed(source, checkpoint, work / "safetensors")

    return write


def logits_of(network: Any, tokens: npt.NDArray[np.int64]) -> Floats:
    import torch

    with torch.inference_mode():
        logits: Floats = network(torch.from_numpy(tokens)).logits.numpy()
    return logits


def recipe_of(name: str, solver: str = "rtn") -> Recipe:
    return replace(load_recipe(name), solver=solver)


def check_opens(packed: Packed) -> None:
    """transformers' own loading of the packed folder answers as the dequantized weights, and the reader finds those."""
    tokens = text_of(packed.source).windows[:1]
    wanted = logits_of(dequantized_network(packed.source.directory, packed.weights()), tokens)
    assert relative_error(logits_of(stock_network(packed.folder), tokens), wanted) < TOLERANCE
    digests = weight_digests("safetensors", str(packed.folder / "config.json"))
    assert weights_id(digests) == packed.checkpoint.weights_id


@pytest.mark.parametrize("family", FAST)
def test_int4_opens_in_transformers_with_the_weights_of_the_checkpoint(family: str, pack: Pack) -> None:
    packed = pack(family, recipe_of("int4"))
    check_opens(packed)
    kinds = {record.kind for record in packed.checkpoint.records}
    assert kinds == {"int4", "int8", "f32"}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_recipe_opens_in_transformers(family: str, recipe: str, pack: Pack) -> None:
    check_opens(pack(family, recipe_of(recipe)))


def solver_error(packed: Packed) -> float:
    """Mean square change of the logits on the calibration text, where a calibrated solver must be good."""
    tokens = text_of(packed.source).windows
    wanted = logits_of(stock_network(packed.source.directory), tokens)
    got = logits_of(dequantized_network(packed.source.directory, packed.weights()), tokens)
    return float(np.square(got - wanted).mean())


@pytest.mark.parametrize("family", ["gemma2", "phi4-mini"])
def test_a_calibrated_solver_beats_rounding(family: str, pack: Pack) -> None:
    solved = pack(family, recipe_of("int4", "gptq+imatrix"))
    assert solver_error(solved) < 0.9 * solver_error(pack(family, recipe_of("int4")))


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["gptq", "gptaq", "awq"])
@pytest.mark.parametrize("family", FAMILIES)
def test_calibrated_solvers_work_on_every_family(family: str, solver: str, pack: Pack) -> None:
    solved = pack(family, recipe_of("int4", solver))
    check_opens(solved)
    slack = 1.1 if solver == "awq" else 1.0
    assert solver_error(solved) < slack * solver_error(pack(family, recipe_of("int4")))


def scaled(source: SourceModel, weights: Mapping[str, Floats], seed: int) -> dict[str, Floats]:
    """All pairs of all layers with a random scale moved across."""
    random = np.random.default_rng(seed)
    changed = dict(weights)
    for layer in range(source.spec.layers):
        for pair in awq.folding_pairs(source.spec, layer):
            scale = np.exp(random.normal(0, 0.7, len(changed[pair.producer]))).astype(np.float32)
            changed |= awq.apply_scale(pair, scale, changed)
    return changed


@pytest.mark.parametrize("family", FAMILIES)
def test_scales_move_without_changing_the_float_network(family: str, family_twin: FamilyTwin) -> None:
    source = open_source(str(family_twin(family)))
    weights = {item.name: source.tensor(item.name).astype(np.float32) for item in source.spec.tensors()}
    tokens = text_of(source).windows[:1]
    wanted = logits_of(stock_network(source.directory), tokens)
    changed = scaled(source, weights, seed=1)
    assert relative_error(logits_of(dequantized_network(source.directory, changed), tokens), wanted) < 1e-4
    half = changed | {name: weights[name] for name in awq.folding_pairs(source.spec, 0)[0].consumers}
    assert relative_error(logits_of(dequantized_network(source.directory, half), tokens), wanted) > 1e-2


def test_every_norm_before_a_linear_takes_scales_and_no_other(family_twin: FamilyTwin) -> None:
    def producers(family: str) -> list[str]:
        pairs = awq.folding_pairs(open_source(str(family_twin(family))).spec, 0)
        return [pair.producer.split("layers.0.")[1] for pair in pairs]

    values = ["self_attn.v_proj.weight", "mlp.up_proj.weight"]
    assert producers("olmo2") == values, "its norms come after"
    assert set(producers("gemma2")) == {*values, "input_layernorm.weight", "pre_feedforward_layernorm.weight"}
    assert set(producers("granite")) == {*values, "input_layernorm.weight", "post_attention_layernorm.weight"}


MIXED: dict[str, dict[str, str]] = {
    "one of three in int8": {"*.0.self_attn.q_proj.weight": "int8-g32"},
    "another block": {"*.0.self_attn.k_proj.weight": "int4-g64", "*.1.mlp.up_proj.weight": "int8-g32"},
    "one in bf16": {"*.0.self_attn.q_proj.weight": "bf16", "*.1.mlp.gate_proj.weight": "f16"},
    "one in f32": {"*.0.self_attn.v_proj.weight": "f32"},
    "floats of two kinds": {"*.0.mlp.gate_proj.weight": "bf16", "*.0.mlp.up_proj.weight": "f16"},
}


@pytest.mark.parametrize("case", MIXED)
def test_schemes_may_differ_inside_a_joined_matrix(case: str, pack: Pack) -> None:
    """A packed matrix has one scheme: rows of several are stored as floats that hold each of them exactly."""
    document = {"linear": "int4", "embedding": "int8", "head": "int8", "overrides": MIXED[case]}
    packed = pack("phi3", parse(document, default_name=case))
    check_opens(packed)
    from safetensors import safe_open

    with safe_open(packed.folder / "model.safetensors", framework="np") as stream:
        names = set(stream.keys())
    whole = "self_attn.qkv_proj" if "self_attn" in next(iter(MIXED[case])) else "mlp.gate_up_proj"
    assert f"model.layers.0.{whole}.weight" in names, "float, because its parts differ"
    assert f"model.layers.0.{whole}.weight_packed" not in names
    assert "model.layers.1.self_attn.qkv_proj.weight_packed" in names, "its parts are alike"


def test_the_comparison_sees_one_changed_code(pack: Pack) -> None:
    packed = pack("gemma2", recipe_of("int4"))
    weights = packed.weights()
    tokens = text_of(packed.source).windows[:1]
    wanted = logits_of(stock_network(packed.folder), tokens)
    name = "model.layers.0.mlp.down_proj.weight"
    weights[name] = weights[name].copy()
    weights[name][0, 0] += 0.03
    changed = logits_of(dequantized_network(packed.source.directory, weights), tokens)
    assert relative_error(changed, wanted) > TOLERANCE
