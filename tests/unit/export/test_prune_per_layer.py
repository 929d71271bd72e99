"""Widths that differ: what the ranking gives each layer, and that the model is still the masked original."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeport.errors import UsageError
from edgeport.export.calibrate.text import CalibrationText
from edgeport.export.families.network import load_network
from edgeport.export.prune.per_layer import spread_widths
from edgeport.export.prune.plan import plan_prune
from edgeport.export.prune.run import prune
from edgeport.export.prune.settings import settings_from
from edgeport.export.source import open_source
from edgeport.progress import NO_PROGRESS


def test_widths_keep_the_most_of_all_ways_to_spread_them() -> None:
    """Against every way to spread 8 blocks over 3 layers."""
    generator = np.random.default_rng(5)
    scores = [scale * generator.random(40) ** 2 for scale in (1, 2, 1.5)]
    snap, total = 8, 64

    def carried(widths: tuple[int, ...]) -> float:
        return sum(
            float((np.sort(layer)[::-1][:width] ** 2).sum())
            for layer, width in zip(scores, widths, strict=True)
        )

    ways = [widths for widths in itertools.product(range(8, 41, 8), repeat=3) if sum(widths) == total]
    found = tuple(spread_widths(scores, total, snap))
    assert found in ways and len(set(found)) > 1
    assert carried(found) == pytest.approx(max(map(carried, ways)))


def test_like_layers_get_like_widths() -> None:
    scores = [np.linspace(1, 2, 128)] * 4
    assert spread_widths(scores, 4 * 64, 32) == [64] * 4


def test_per_layer_without_a_width_is_refused(tiny_llama_dir: Path) -> None:
    with pytest.raises(UsageError, match="spreads the feed-forward width"):
        plan_prune(open_source(str(tiny_llama_dir)), settings_from({"layers": 1, "per_layer": True}))


@pytest.mark.parametrize("name", ["llama-3.2-1b", "qwen2.5-0.5b"])
@pytest.mark.parametrize("more", [{}, {"heads": 2}], ids=["widths", "and heads"])
def test_the_cut_model_equals_the_masked_original(
    name: str, more: dict[str, Any], tiny_twin: Callable[[str], Path], tmp_path: Path
) -> None:
    import torch

    model = uneven(tiny_twin(name), tmp_path / "model")
    source = open_source(str(model))
    plan = plan_prune(source, settings_from({"ffn": 0.5, "per_layer": True, "reconstruct": False, **more}))
    drawn = np.random.default_rng(7).integers(0, source.spec.vocab_size, (4, 32), dtype=np.int64)
    out = tmp_path / "cut"
    prune(
        plan,
        CalibrationText(drawn, "drawn", "drawn"),
        out,
        work=tmp_path / "work",
        threads=1,
        progress=NO_PROGRESS,
    )
    cut = open_source(str(out))
    widths = [shape.intermediate_size for shape in cut.spec.layer_shapes]
    assert cut.spec.family == "nemotron-nas" and sum(widths) == 256 and widths[0] > widths[1]
    assert cut.spec.parameters() == plan.spec.parameters()

    original, small = load_network(model, dtype=torch.float32), load_network(out, dtype=torch.float32)
    ids = torch.from_numpy(drawn[:2])
    with torch.inference_mode():
        for layer, other in zip(original.model.layers, small.model.layers, strict=True):
            for linear in ("self_attn.o_proj", "mlp.down_proj"):
                silence(layer.get_submodule(linear).weight, other.get_submodule(linear).weight)
        wanted, got = (network(ids, use_cache=False).logits for network in (original, small))
    assert float((got - wanted).abs().max() / wanted.abs().max()) < 1e-5


def uneven(model: Path, copy: Path) -> Path:
    """The same model with less in the feed-forward network of its last layer, so that widths have a reason to differ."""
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(model, copy)
    state = load_file(copy / "model.safetensors")
    state["model.layers.1.mlp.down_proj.weight"] *= 0.5
    state["model.layers.1.mlp.down_proj.weight"][:, 64:] *= 0.25
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    assert json.loads((copy / "config.json").read_text())["intermediate_size"] == 256
    return copy


def silence(whole: Any, part: Any) -> None:
    """Zero the columns of `whole` that `part` lacks, found by their values."""
    kept = {column.numpy().tobytes() for column in part.T.contiguous()}
    for number, column in enumerate(whole.T.clone().contiguous()):
        if column.numpy().tobytes() not in kept:
            whole[:, number] = 0
