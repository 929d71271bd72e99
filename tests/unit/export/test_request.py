"""The plan: what is decided and what is refused before anything is written, with numbers."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from edgeport.errors import DoesNotFit, UnsupportedModel, UsageError
from edgeport.export.recipe import parse
from edgeport.export.request import ExportRequest, make_plan, packed_bytes
from edgeport.export.source import open_source

PROFILE = """
kind = "board"
tier = "edge"
description = "a board of 32 MiB"
ram_gib = 0.03125
usable_ram_gib = 0.03125
memory_bandwidth_gb_per_s = 1.0
cores = 1
recipe = "int4"
engines = ["llama.cpp"]
formats = ["gguf"]
context_length = 256
"""


def request_for(folder: Path, out: Path, **changes: Any) -> ExportRequest:
    return ExportRequest(**{"model": str(folder), "device": "edge", "out": out, **changes})


def test_the_device_decides_what_was_not_asked(tiny_llama_dir: Path, tmp_path: Path) -> None:
    plan = make_plan(request_for(tiny_llama_dir, tmp_path / "out"))
    assert plan.formats == ("gguf", "onnx", "openvino", "safetensors")
    assert plan.recipe.name == "int4" and plan.profile.name == "edge"
    assert plan.context_length == 256, "the profile's 2048 are more than the model has"
    assert all(fit.fits for fit in plan.fits) and not plan.refused
    assert list(tmp_path.iterdir()) == [], "planning writes nothing"


def test_what_was_asked_wins(tiny_llama_dir: Path, tmp_path: Path) -> None:
    changes = {"formats": ("onnx", "onnx"), "recipe": "int8", "context_length": 100, "threads": 3}
    plan = make_plan(request_for(tiny_llama_dir, tmp_path / "out", **changes))
    assert plan.formats == ("onnx",) and plan.recipe.name == "int8"
    assert (plan.context_length, plan.threads) == (100, 3)


def test_sizes_are_counted_per_container(tiny_llama_dir: Path) -> None:
    spec = open_source(str(tiny_llama_dir)).spec
    wide = parse({"linear": "int4-g64", "embedding": "int8-g64", "head": "int8-g64"}, default_name="wide")
    linears = sum(item.shape[0] * item.shape[1] for item in spec.tensors() if item.role == "linear")
    embedding, norms = 512 * 64, 5 * 64
    assert (
        packed_bytes(spec, wide, "onnx")
        == linears // 2 + linears // 32 + embedding + embedding // 32 + 4 * norms
    )
    assert (
        packed_bytes(spec, wide, "gguf")
        == linears // 2 + linears // 16 + embedding + embedding // 16 + 4 * norms
    )
    assert packed_bytes(spec, wide, "safetensors") == linears // 2 + linears // 32 + 2 * embedding + 4 * norms


def test_an_existing_output_is_refused_unless_forced(tiny_llama_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.json").write_text("{}")
    with pytest.raises(UsageError, match="exists already") as caught:
        make_plan(request_for(tiny_llama_dir, out))
    assert caught.value.hint is not None and "--force" in caught.value.hint
    make_plan(request_for(tiny_llama_dir, out, force=True))


def test_force_does_not_replace_what_is_no_artifact(tiny_llama_dir: Path, tmp_path: Path) -> None:
    """`-o . --force` would otherwise delete the folder one works in, `-o MODEL --force` the model."""
    (tmp_path / "thesis.tex").write_text("years of work")
    for out in (tmp_path, tmp_path / "thesis.tex", tiny_llama_dir):
        with pytest.raises(UsageError, match="was not made by edgeport"):
            make_plan(request_for(tiny_llama_dir, out, force=True))
    (tmp_path / "empty").mkdir()
    make_plan(request_for(tiny_llama_dir, tmp_path / "empty", force=True))


def test_a_model_that_does_not_fit_is_refused_with_the_numbers(
    tiny_llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny-board.toml").write_text(PROFILE)
    monkeypatch.setenv("EDGEPORT_DEVICES", str(tmp_path))
    with pytest.raises(DoesNotFit, match=r"\d.* MiB") as caught:
        make_plan(request_for(tiny_llama_dir, tmp_path / "out", device="tiny-board"))
    assert caught.value.exit_code == 1 and caught.value.hint


def test_a_full_disk_is_told_before_the_work(
    tiny_llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 1000, 1000))
    with pytest.raises(DoesNotFit, match=r"needs \d+ KiB on disk, .* has 1000 B free"):
        make_plan(request_for(tiny_llama_dir, tmp_path / "out"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"formats": ("ggml",)}, "unknown format 'ggml'"),
        ({"recipe": "int5"}, "unknown recipe 'int5'"),
        ({"device": "edgee"}, "edgee"),
        ({"context_length": 4096}, "4096 tokens is more than the model's 256"),
        ({"model": "nowhere/at/all"}, "no such model folder"),
    ],
)
def test_bad_requests(tiny_llama_dir: Path, tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        make_plan(request_for(tiny_llama_dir, tmp_path / "out", **changes))
    assert caught.value.exit_code == 2 and caught.value.hint


def test_a_format_that_cannot_hold_the_model_is_left_out_with_the_reason(
    tiny_llama_dir: Path, edited: Any, tmp_path: Path
) -> None:
    # A head of 4 features: onnxruntime's attention needs a multiple of 8; the tensors are unchanged.
    model = edited(
        tiny_llama_dir, config={"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 4}
    )
    plan = make_plan(request_for(model, tmp_path / "out"))
    assert "onnx" not in plan.formats and "gguf" in plan.formats
    assert plan.refused["onnx"] == ("head_dim 4 is not a multiple of 8",)
    with pytest.raises(UnsupportedModel, match=r"onnx: head_dim 4"):
        make_plan(request_for(model, tmp_path / "out", formats=("onnx",)))


def test_snapped_tensors_are_told(tiny_llama_dir: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "wide.toml"
    recipe.write_text('linear = "int4-g128"\nembedding = "int8-g128"\nhead = "int8"\n')
    plan = make_plan(request_for(tiny_llama_dir, tmp_path / "out", recipe=str(recipe)))
    assert (
        "model.embed_tokens.weight: int8-g64 instead of int8-g128, because 128 does not divide 64"
        in plan.notes
    )
    assert not any("down_proj" in note for note in plan.notes)


def test_an_override_without_effect_is_told(tiny_llama_dir: Path, tmp_path: Path) -> None:
    """A misspelt pattern would silently leave its tensors at four bits; snapping is told beside overrides as well."""
    recipe = tmp_path / "misspelt.toml"
    recipe.write_text(
        'linear = "int4"\nembedding = "int8"\nhead = "int8"\n[overrides]\n"*.downproj.weight" = "int8"\n"*.o_proj.weight" = "int4-g128"\n'
    )
    notes = make_plan(request_for(tiny_llama_dir, tmp_path / "out", recipe=str(recipe))).notes
    assert notes[0] == "override '*.downproj.weight' matches no tensor that could be quantized"
    assert notes[1].startswith("model.layers.0.self_attn.o_proj.weight: int4-g64 instead of int4-g128")


@pytest.mark.parametrize("changes", [{"threads": -1}, {"context_length": -5}])
def test_counts_must_be_positive(tiny_llama_dir: Path, tmp_path: Path, changes: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="-[15]"):
        make_plan(request_for(tiny_llama_dir, tmp_path / "out", **changes))


def test_the_disk_holds_packed_safetensors_too(tiny_llama_dir: Path, tmp_path: Path) -> None:
    """It is made for the golden answers, even when only another container is asked for."""
    one = make_plan(request_for(tiny_llama_dir, tmp_path / "out", formats=("onnx",)))
    two = make_plan(request_for(tiny_llama_dir, tmp_path / "out", formats=("onnx", "safetensors")))
    assert one.disk_bytes == two.disk_bytes
