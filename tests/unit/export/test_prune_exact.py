"""A cut model is the masked original, in transformers: the same logits as the source with the dropped parts silenced."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeport.export.calibrate.text import CalibrationText
from edgeport.export.prune.plan import plan_prune
from edgeport.export.prune.report import PruneReport
from edgeport.export.prune.run import prune
from edgeport.export.prune.settings import settings_from
from edgeport.export.source import open_source
from edgeport.progress import NO_PROGRESS

MODELS = ("llama-3.2-1b", "llama-3.1-8b", "qwen2.5-0.5b", "tiny-qwen2", "biased-llama")
"""Tied and untied heads, query and key biases, grouped heads; biased-llama has every bias and a key for each query head."""
CUTS: dict[str, dict[str, Any]] = {
    "ffn": {"ffn": 0.5},
    "heads": {"heads": 2},
    "layers": {"layers": 1},
    "embedding": {"embedding": 0.5},
    "all": {"ffn": 0.5, "heads": 2, "layers": 1, "embedding": 0.5},
}
Sources = Callable[[str], Path]


@pytest.fixture(scope="module")
def in_float32(
    tiny_twin: Callable[[str], Path], tiny_qwen2_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Sources:
    """Copies whose weights are float32: the norms' correction is then exact, and so is what is compared."""
    made: dict[str, Path] = {}

    def copy(name: str) -> Path:
        if name not in made:
            from safetensors.torch import load_file, save_file

            made[name] = tmp_path_factory.mktemp("float32") / name
            if name == "biased-llama":
                write_biased_llama(made[name], tiny_qwen2_dir)
            else:
                shutil.copytree(tiny_qwen2_dir if name == "tiny-qwen2" else tiny_twin(name), made[name])
            path = made[name] / "model.safetensors"
            state = {key: value.float() for key, value in load_file(path).items()}
            save_file(state, path, metadata={"format": "pt"})
            config = json.loads((made[name] / "config.json").read_text())
            config |= {"torch_dtype": "float32", "dtype": "float32"}
            (made[name] / "config.json").write_text(json.dumps(config))
        return made[name]

    return copy


def write_biased_llama(folder: Path, tokenizer: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        vocab_size=512,
        max_position_embeddings=256,
        attention_bias=True,
        mlp_bias=True,
        bos_token_id=0,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn(parameter.shape) * (0.2 if "bias" in name else 0.1))
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / name, folder / name)


def windows(model: Path, count: int = 6, n_ctx: int = 32) -> CalibrationText:
    size = json.loads((model / "config.json").read_text())["vocab_size"]
    drawn = np.random.default_rng(7).integers(0, size, (count, n_ctx), dtype=np.int64)
    return CalibrationText(drawn, "drawn", "drawn")


def cut(model: Path, out: Path, **settings: Any) -> PruneReport:
    plan = plan_prune(open_source(str(model)), settings_from(settings))
    return prune(plan, windows(model), out, work=out.with_name("work"), threads=1, progress=NO_PROGRESS)


def load(model: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    loaded, told = AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    assert not told["missing_keys"] and not told["unexpected_keys"] and not told["mismatched_keys"]
    return loaded.eval()


def logits(model: Any, ids: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import torch

    with torch.inference_mode():
        return np.asarray(model(torch.from_numpy(ids), use_cache=False).logits.double().numpy())


def kept_of(before: Any, after: Any) -> list[int]:
    """Which columns of `before` those of `after` are: found by value, so that nothing is taken from the pruner's word."""
    found = []
    for column in after.T:
        (hits,) = np.where(np.isclose(before, column[:, None], rtol=1e-6, atol=0).all(axis=0))
        found.append(int(hits[0]))
    assert sorted(set(found)) == found
    return found


def silence(model: Any, small: Any, report: PruneReport) -> None:
    """Zero in the source what the cut model lacks, after dropping its layers."""
    import torch

    if "layers" in report.kept:
        model.model.layers = torch.nn.ModuleList(
            model.model.layers[number] for number in report.kept["layers"]
        )
        for number, layer in enumerate(model.model.layers):
            layer.self_attn.layer_idx = number
    with torch.no_grad():
        table = model.model.embed_tokens.weight.numpy()
        channels = kept_of(table, small.model.embed_tokens.weight.numpy())
        gone = sorted(set(range(table.shape[1])) - set(channels))
        model.model.embed_tokens.weight[:, gone] = 0
        for layer, other in zip(model.model.layers, small.model.layers, strict=True):
            silence_layer(layer, other, channels, gone)


def silence_layer(layer: Any, other: Any, channels: list[int], gone: list[int]) -> None:
    for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
        linear.weight[gone] = 0
        if linear.bias is not None:
            linear.bias[gone] = 0
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        whole, part = layer.get_submodule(name).weight, other.get_submodule(name).weight
        columns = kept_of(whole.numpy()[channels], part.numpy())
        whole[:, sorted(set(range(whole.shape[1])) - set(columns))] = 0


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("what", CUTS)
def test_the_cut_model_equals_the_masked_original(
    name: str, what: str, in_float32: Sources, tmp_path: Path
) -> None:
    model, out = in_float32(name), tmp_path / "cut"
    report = cut(model, out, reconstruct=False, **CUTS[what])
    small = load(out)
    assert open_source(str(out)).spec.parameters() == report.parameters_after < report.parameters_before
    assert sum(parameter.numel() for parameter in small.parameters()) == report.parameters_after
    ids = windows(model).windows[:2]
    original = load(model)
    untouched = logits(original, ids)
    silence(original, small, report)
    wanted, got = logits(original, ids), logits(small, ids)
    scale = np.abs(wanted).max()
    assert np.abs(got - wanted).max() < 1e-5 * scale
    assert np.abs(got - untouched).max() > 1e-2 * scale, "the cut should be felt"


def test_a_head_cut_qwen2_leaves_as_llama(in_float32: Sources, tmp_path: Path) -> None:
    plan = plan_prune(open_source(str(in_float32("qwen2.5-0.5b"))), settings_from({"heads": 2}))
    assert any("leaves as llama" in note for note in plan.notes)
    cut(in_float32("qwen2.5-0.5b"), tmp_path / "cut", heads=2)
    config = json.loads((tmp_path / "cut" / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("llama", ["LlamaForCausalLM"])
    spec = open_source(str(tmp_path / "cut")).spec
    assert (spec.family, spec.heads, spec.head_dim, spec.qkv_bias, spec.output_bias) == (
        "llama",
        2,
        32,
        True,
        True,
    )
    weights = open_source(str(tmp_path / "cut"))
    assert not weights.tensor("model.layers.0.self_attn.o_proj.bias").any()
    assert weights.tensor("model.layers.0.self_attn.q_proj.bias").any()


def test_an_ffn_cut_qwen2_stays_qwen2(in_float32: Sources, tmp_path: Path) -> None:
    cut(in_float32("qwen2.5-0.5b"), tmp_path / "cut", ffn=0.5)
    assert open_source(str(tmp_path / "cut")).spec.family == "qwen2"


def test_bfloat16_stays_bfloat16_and_the_tensors_are_the_sources_own(
    tiny_twin: Callable[[str], Path], tmp_path: Path
) -> None:
    model = tiny_twin("llama-3.1-8b")
    cut(model, tmp_path / "cut", ffn=0.5, reconstruct=False)
    before, after = open_source(str(model)), open_source(str(tmp_path / "cut"))
    assert {after.weights.entry(name).dtype for name in after.weights} == {"BF16"}
    name = "model.layers.1.self_attn.q_proj.weight"
    assert np.array_equal(after.tensor(name), before.tensor(name))
    gate = "model.layers.1.mlp.gate_proj.weight"
    rows = {row.tobytes() for row in before.tensor(gate)}
    assert all(row.tobytes() in rows for row in after.tensor(gate))


def test_the_masked_original_would_be_told_from_a_wrong_cut(in_float32: Sources, tmp_path: Path) -> None:
    """The comparison itself says no: a norm without its correction is seen."""
    model, out = in_float32("llama-3.1-8b"), tmp_path / "cut"
    report = cut(model, out, reconstruct=False, embedding=0.5)
    small, original = load(out), load(model)
    import torch

    with torch.no_grad():
        small.model.norm.weight *= 1.001
    silence(original, small, report)
    ids = windows(model).windows[:2]
    wanted = logits(original, ids)
    assert np.abs(logits(small, ids) - wanted).max() > 1e-4 * np.abs(wanted).max()
