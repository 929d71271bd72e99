"""A source is checked before any work: every disagreement of weights and config.json is told by name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeport.errors import UnsupportedModel, UsageError
from edgeport.export.families.table import FAMILIES
from edgeport.export.quantize.run import quantize
from edgeport.export.recipe import load_recipe
from edgeport.export.source import open_source
from edgeport.progress import NO_PROGRESS

Edited = Callable[..., Path]


def test_a_model_folder_opens(tiny_llama_dir: Path, tiny_qwen2_dir: Path) -> None:
    for directory, family in ((tiny_llama_dir, "llama"), (tiny_qwen2_dir, "qwen2")):
        source = open_source(str(directory))
        assert source.spec.family == family and source.name == directory.name
        facts = source.facts()
        assert facts.dtype == "bf16"
        assert facts.size_bytes == 2 * source.spec.parameters()
        stored = sum(source.tensor(item.name).size for item in source.spec.tensors())
        assert stored == source.spec.parameters()


def test_all_disagreements_are_told_at_once(tiny_qwen2_dir: Path, edited: Edited) -> None:
    def change(state: dict[str, Any]) -> None:
        del state["model.layers.1.self_attn.q_proj.bias"]
        state["model.layers.0.mlp.up_proj.weight"] = torch.zeros(64, 128)
        state["model.layers.0.mlp.gate_proj.weight"] = torch.zeros(128, 64, dtype=torch.int32)
        state["model.layers.0.self_attn.q_norm.weight"] = torch.zeros(16)

    with pytest.raises(UnsupportedModel) as caught:
        open_source(str(edited(tiny_qwen2_dir, tensors=change)))
    for told in (
        "model.layers.1.self_attn.q_proj.bias is missing",
        "model.layers.0.mlp.up_proj.weight is [64, 128], config.json says [128, 64]",
        "model.layers.0.mlp.gate_proj.weight is I32",
        "model.layers.0.self_attn.q_norm.weight is not a tensor of family qwen2",
    ):
        assert told in caught.value.message


def test_many_disagreements_are_counted(tiny_llama_dir: Path, edited: Edited) -> None:
    with pytest.raises(UnsupportedModel, match="and 4 more"):
        open_source(str(edited(tiny_llama_dir, config={"num_hidden_layers": 1})))
    # 9 tensors of the second layer are too many


def test_a_tied_model_may_bring_its_head(tiny_llama_dir: Path, edited: Edited) -> None:
    def change(state: dict[str, Any]) -> None:
        state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
        state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(8)

    source = open_source(str(edited(tiny_llama_dir, tensors=change)))
    assert "lm_head.weight" not in [item.name for item in source.spec.tensors()]


def test_pickled_weights_are_not_read(tiny_llama_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "pickled"
    shutil.copytree(tiny_llama_dir, copy)
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(UsageError, match=r"no \*\.safetensors") as caught:
        open_source(str(copy))
    assert caught.value.hint is not None and "safetensors only" in caught.value.hint


@pytest.mark.parametrize("architectures", [["GPT2LMHeadModel"], [], None, ["LlamaForCausalLM", "Other"]])
def test_another_family_lists_what_is_supported(
    tiny_llama_dir: Path, edited: Edited, architectures: Any
) -> None:
    with pytest.raises(UnsupportedModel, match="architecture") as caught:
        open_source(str(edited(tiny_llama_dir, config={"architectures": architectures})))
    assert caught.value.hint == f"supported are {', '.join(FAMILIES)}"


def test_a_quantized_source_is_refused(tiny_llama_dir: Path, edited: Edited) -> None:
    with pytest.raises(UnsupportedModel, match=r"already quantized \(gptq\)"):
        open_source(str(edited(tiny_llama_dir, config={"quantization_config": {"quant_method": "gptq"}})))


def test_nan_is_refused_naming_the_tensor(tiny_llama_dir: Path, edited: Edited, tmp_path: Path) -> None:
    def change(state: dict[str, Any]) -> None:
        state["model.layers.1.mlp.up_proj.weight"][3, 3] = float("nan")

    source = open_source(str(edited(tiny_llama_dir, tensors=change)))
    target = tmp_path / "checkpoint"
    target.mkdir()
    with pytest.raises(UnsupportedModel, match=r"model\.layers\.1\.mlp\.up_proj\.weight holds NaN"):
        quantize(source, replace(load_recipe("int4"), solver="rtn"), target, threads=2, progress=NO_PROGRESS)
    assert not (target / "checkpoint.json").exists()


def test_missing_parts_of_a_folder(tiny_llama_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_llama_dir, copy)
    (copy / "tokenizer.json").unlink()
    with pytest.raises(UnsupportedModel, match=r"no tokenizer\.json"):
        open_source(str(copy))
    for text in ("{", "[]", "5"):
        (copy / "config.json").write_text(text)
        with pytest.raises(UsageError, match=r"config\.json"):
            open_source(str(copy))
    (copy / "config.json").unlink()
    with pytest.raises(UsageError, match=r"no config\.json"):
        open_source(str(copy))


@pytest.mark.parametrize("name", ["nowhere", "./nowhere/deep", "a/b/c", "../x/y"])
def test_a_path_that_is_not_there_is_not_looked_up_in_the_network(name: str) -> None:
    with pytest.raises(UsageError, match="no such model folder"):
        open_source(name)


def test_the_fingerprint_follows_config_tokenizer_and_weights(tiny_llama_dir: Path, edited: Edited) -> None:
    before = open_source(str(tiny_llama_dir)).fingerprint()
    assert open_source(str(tiny_llama_dir)).fingerprint() == before

    def change(state: dict[str, Any]) -> None:
        state["model.norm.weight"][0] += 1

    copy = edited(tiny_llama_dir, tensors=change)
    assert open_source(str(copy)).fingerprint() != before
    shutil.copyfile(tiny_llama_dir / "model.safetensors", copy / "model.safetensors")
    (copy / "tokenizer.json").write_text((copy / "tokenizer.json").read_text() + "\n")
    assert open_source(str(copy)).fingerprint() != before
