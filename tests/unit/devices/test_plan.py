"""Plans of devices: verdicts, the container that is taken, advice that works when applied, GPUs, and what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from edgeport.devices.advice import Change
from edgeport.devices.catalog import load_profile
from edgeport.devices.known_models import load_known
from edgeport.devices.memory import Workload, estimate_memory
from edgeport.devices.plan import Wish, plan_device
from edgeport.devices.plan_containers import container_of, smaller_precisions
from edgeport.devices.plan_model import plan_model
from edgeport.devices.plan_place import largest_context, place
from edgeport.devices.plan_prune import snap_for, widths, with_ffn_width
from edgeport.devices.plan_row import PlanRow, plan_row
from edgeport.devices.profile import DeviceProfile
from edgeport.devices.speed import estimate_speed
from edgeport.errors import UsageError

GIB = 2**30


def with_ram(gib: float, name: str = "edge") -> DeviceProfile:
    return dataclasses.replace(
        load_profile(name), ram_bytes=round(2 * gib * GIB), usable_ram_bytes=round(gib * GIB)
    )


def with_gpus(count: int, gib: float) -> DeviceProfile:
    profile = load_profile("multi-gpu")
    assert profile.gpu is not None
    gpu = dataclasses.replace(profile.gpu, count=count, memory_bytes=round(gib * GIB), usable_share=1.0)
    return dataclasses.replace(profile, gpu=gpu)


def row_of(
    model: str, precision: str, profile: DeviceProfile, workload: Workload, format_name: str = "gguf"
) -> PlanRow:
    shape = load_known(model)
    engine = profile.engine_for(format_name)
    assert engine is not None
    return plan_row(shape, container_of(shape, format_name, precision), engine, workload, profile)


def test_on_a_processor_a_row_is_the_memory_estimate() -> None:
    shape = load_known("llama-3.2-1b")
    row = row_of("llama-3.2-1b", "int4", with_ram(4), Workload(2048))
    expected = estimate_memory(
        shape, container_of(shape, "gguf", "int4").weights, "llama.cpp", Workload(2048)
    )
    assert (row.memory, row.required_bytes, row.gpus) == (expected, expected.required_bytes, 0)
    assert row.available_bytes == 4 * GIB and row.verdict == "fits" and not row.advice.helps


@pytest.mark.parametrize("format_name", ["gguf", "onnx", "openvino"])
def test_a_longer_context_never_fits_where_a_shorter_did_not(format_name: str) -> None:
    shape, profile = load_known("llama-3.2-1b"), with_ram(2.5)
    engine = profile.engine_for(format_name)
    assert engine is not None
    container = container_of(shape, format_name, "int4")
    verdicts = [
        place(shape, container, engine, Workload(context), profile).fits
        for context in (256, 1000, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
    ]
    assert verdicts == sorted(verdicts, reverse=True)
    assert verdicts[0] and not verdicts[-1]
    largest = largest_context(shape, container, engine, Workload(1), profile)
    assert place(shape, container, engine, Workload(largest), profile).fits
    assert not place(shape, container, engine, Workload(largest + 1), profile).fits


CASES: tuple[tuple[str, str, str, float, Workload], ...] = (
    ("llama-3.1-8b", "gguf", "int4", 5.2, Workload(8192)),
    ("llama-3.1-8b", "gguf", "int8", 6.0, Workload(4096, batch=3)),
    ("llama-3.1-8b", "gguf", "int4", 3.0, Workload(32768)),
    ("qwen2.5-1.5b", "onnx", "int8", 2.2, Workload(8192)),
    ("qwen2.5-1.5b", "openvino", "f16", 2.4, Workload(8192, batch=2)),
    ("mixtral-8x7b", "gguf", "int8", 30, Workload(32768)),
)


def apply(changes: tuple[Change, ...], case: tuple[str, str, str, float, Workload]) -> bool:
    """Whether the model fits with the changes made: by the forward plan alone."""
    name, format_name, precision, gib, workload = case
    values: dict[str, Any] = {change.knob: change.after for change in changes}
    shape = load_known(name)
    shape = with_ffn_width(shape, values.pop("ffn_width", shape.intermediate_size))
    container = container_of(shape, format_name, values.pop("precision", precision))
    profile = with_ram(gib)
    engine = profile.engine_for(format_name)
    assert engine is not None
    return place(shape, container, engine, dataclasses.replace(workload, **values), profile).fits


def milder(change: Change, case: tuple[str, str, str, float, Workload]) -> Change:
    """The same change, one step less."""
    name, format_name, precision, _, _ = case
    shape = load_known(name)
    container = container_of(shape, format_name, precision)
    steps: tuple[Any, ...] = {
        "precision": (precision, *smaller_precisions(shape, container)),
        "kv_bits": (16, 8, 4),
        "ffn_width": tuple(widths(shape, snap=snap_for(format_name, precision))),
    }.get(change.knob, ())
    after = steps[steps.index(change.after) - 1] if steps else int(change.after) + 1
    return dataclasses.replace(change, after=after)


@pytest.mark.parametrize("case", CASES)
def test_advice_applied_fits_and_one_step_less_does_not(case: tuple[str, str, str, float, Workload]) -> None:
    name, format_name, precision, gib, workload = case
    row = row_of(name, precision, with_ram(gib), workload, format_name)
    assert row.verdict == "fits with changes"
    sets = [(change,) for change in row.advice.alone] or [row.advice.together]
    assert len(row.advice_text) == len(sets)
    for changes in sets:
        assert apply(changes, case), changes
        for index, change in enumerate(changes):
            less = (*changes[:index], milder(change, case), *changes[index + 1 :])
            assert not apply(less, case), less


def test_every_setting_is_advised_where_it_is_enough() -> None:
    """8B INT4 with four caches of 512 MiB in 6.5 GiB: one sequence less, half the cache, and so on are each enough."""
    row = row_of("llama-3.1-8b", "int4", with_ram(6.5), Workload(4096, batch=4))
    knobs = [change.knob for change in row.advice.alone]
    assert knobs == ["batch", "kv_bits", "precision", "context_length", "ffn_width"]
    assert row.advice.alone[0].after == 3


def test_changes_together_are_the_fewest() -> None:
    row = row_of("llama-3.1-8b", "int4", with_ram(3), Workload(32768))
    assert not row.advice.alone and len(row.advice.together) > 1
    assert " and " in row.advice_text[0]


def test_where_nothing_helps_a_smaller_model_is_named_that_fits() -> None:
    plan = plan_device(load_known("llama-3.1-70b"), with_ram(4), Wish(precisions=("int4",)))
    assert plan.verdict == "no" and plan.best is not None
    assert not plan.best.advice.helps and not plan.best.advice_text
    assert "llama-like model of up to" in plan.instead and "B parameters fits in int4" in plan.instead
    tiny = plan_device(load_known("llama-3.1-70b"), with_ram(0.05), Wish(precisions=("int4",)))
    assert tiny.instead.startswith("nothing fits")


def test_the_method_s_precision_is_taken_and_less_where_it_does_not_fit() -> None:
    shape = load_known("llama-3.2-1b")
    server = load_profile("cpu-server")
    plan = plan_device(shape, server, Wish())
    assert plan.method.method == "int8" and plan.best is not None
    assert (plan.best.precision, plan.best.engine) == ("int8", server.engines[0])
    small = dataclasses.replace(server, ram_bytes=2 * GIB, usable_ram_bytes=round(1.4 * GIB))
    less = plan_device(shape, small, Wish()).best
    assert less is not None and less.fits and less.precision in ("q4_k_m", "int4")


def test_the_preferred_engine_is_taken() -> None:
    edge = load_profile("edge")
    reversed_edge = dataclasses.replace(edge, engines=tuple(reversed(edge.engines)))
    shape = load_known("smollm2-135m")
    for profile in (edge, reversed_edge):
        best = plan_device(shape, profile, Wish()).best
        assert best is not None and best.engine == profile.engines[0]


def test_only_the_best_row_when_that_is_all_that_is_wanted() -> None:
    shape, edge = load_known("smollm2-135m"), load_profile("edge")
    whole, short = plan_device(shape, edge, Wish()), plan_device(shape, edge, Wish(every_row=False))
    assert short.rows == (short.best,) and short.best == whole.best
    assert len(whole.rows) == 10, "four GGUF, three ONNX and three OpenVINO containers"


def test_llama_70b_on_two_a100_and_on_one_of_40_gb() -> None:
    """131 GiB in 16 bits: two GPUs of 72 usable hold it divided; INT4 fits one. One A100 40GB holds neither."""
    shape = load_known("llama-3.1-70b")
    rows = {
        row.precision: row
        for row in plan_device(shape, load_profile("multi-gpu"), Wish(formats=("safetensors",))).rows
    }
    assert all(row.fits for row in rows.values())
    float_row, packed = rows["f16"], rows["int4"]
    assert float_row.gpus == 2 and float_row.split is not None and float_row.split.tensor_parallel == 2
    assert float_row.required_bytes < float_row.available_bytes < float_row.memory.required_bytes
    assert "--tensor-parallel-size 2" in float_row.launch
    assert packed.gpus == 1 and "parallel" not in packed.launch
    small = plan_device(shape, load_profile("a100-40gb-pcie"), Wish(formats=("safetensors",)))
    assert not any(row.fits for row in small.rows)
    assert small.best is not None and small.best.precision == "int4"


def test_what_two_gpus_hold_together_one_does_not() -> None:
    """12 + 12 GiB against 24: the engine and the buffers are needed twice, so a little more than half is needed on each."""
    shape = load_known("llama-3.1-8b")
    container = container_of(shape, "safetensors", "f16")
    whole = place(shape, container, "vllm", Workload(2048), with_gpus(1, 80))
    half = place(shape, container, "vllm", Workload(2048), with_gpus(2, whole.required_bytes / GIB - 1))
    assert half.gpus == 2 and half.fits
    assert half.required_bytes > whole.required_bytes / 2
    tight = place(shape, container, "vllm", Workload(2048), with_gpus(2, half.required_bytes / GIB - 0.1))
    assert not tight.fits


def test_heads_that_do_not_divide_make_a_pipeline() -> None:
    """28 heads on 8 GPUs: no tensor parallelism over all of them; groups of four, in two stages, or told why not."""
    shape = load_known("qwen2.5-7b")
    plan = plan_device(shape, with_gpus(8, 4), Wish(formats=("safetensors",), precisions=("f16",)))
    row = plan.best
    assert row is not None and row.split is not None
    assert (row.split.tensor_parallel, row.split.pipeline_parallel) == (4, 2)
    eight = next(item for item in plan.splits if item.tensor_parallel == 8)
    assert eight.obstacles == ("28 attention heads cannot be divided by 8",)
    assert any("capacity, not speed" in note for note in plan.notes)
    assert any("all-reduces" in note for note in plan.notes)


def test_llama_cpp_gives_each_gpu_whole_layers() -> None:
    shape = load_known("llama-3.1-8b")
    row = plan_device(shape, with_gpus(4, 6), Wish(formats=("gguf",), precisions=("f16",))).best
    assert row is not None and row.split is not None and row.fits
    assert row.split.tensor_parallel == 1 and row.gpus == row.split.pipeline_parallel > 1
    assert sum(stage.layers for stage in row.split.stages) == 32
    assert sum(stage.kv_cache_bytes for stage in row.split.stages) == row.memory.kv_cache_bytes


def test_speed_counts_the_gpus_that_are_taken() -> None:
    shape = load_known("llama-3.1-8b")
    four = load_profile("4x-h100-80gb-sxm")
    row = row_of("llama-3.1-8b", "int4", four, Workload(2048), "safetensors")
    container = container_of(shape, "safetensors", "int4")
    alone = estimate_speed(
        shape, container.weights.size_bytes, container.bits, four, "vllm", on_gpu=True, split=(1, 1)
    )
    assert row.gpus == 1 and row.speed == alone
    assert row.speed_at_context is not None and row.speed is not None
    assert row.speed_at_context.decode_tokens_per_s < row.speed.decode_tokens_per_s


def test_formats_without_an_engine_family_or_cache_are_refused_with_the_reason() -> None:
    edge = load_profile("edge")
    plan = plan_device(load_known("gpt2"), edge, Wish())
    assert {row.format for row in plan.rows} == {"gguf"}
    assert "no onnx graph of family 'gpt2'" in plan.refused["onnx"]
    asked = plan_device(load_known("smollm2-135m"), edge, Wish(formats=("safetensors",)))
    assert (
        asked.best is None
        and asked.verdict == "no"
        and "has no engine for safetensors" in asked.refused["safetensors"]
    )
    small_cache = plan_device(load_known("smollm2-135m"), edge, Wish(kv_bits=8))
    assert {row.format for row in small_cache.rows} == {"gguf"}
    assert "keeps no KV cache in 8 bits" in small_cache.refused["openvino"]
    opt = dataclasses.replace(load_known("gpt2"), family="opt")
    assert plan_device(opt, edge, Wish()).refused["gguf"] == "llama.cpp cannot run family 'opt'"
    other = plan_device(load_known("smollm2-135m"), edge, Wish(formats=("onnx",), precisions=("q4_k_m",)))
    assert other.best is None and "onnx is stored in" in other.refused["onnx"]


def test_a_context_beyond_the_model_s_is_refused_and_the_default_is_not() -> None:
    shape = load_known("tinyllama-1.1b")
    with pytest.raises(UsageError, match="more than the 2048 of tinyllama"):
        plan_device(shape, load_profile("laptop"), Wish(context_length=4096))
    best = plan_device(shape, load_profile("laptop"), Wish()).best
    assert best is not None and best.context_length == 2048


def test_an_encoder_has_memory_and_no_speed() -> None:
    best = plan_device(load_known("bert-base"), load_profile("edge"), Wish()).best
    assert best is not None and best.fits and best.speed is None and best.speed_at_context is None


def test_the_smallest_device_and_what_the_export_takes() -> None:
    profiles = [load_profile(name) for name in ("cpu-server", "raspberry-pi-5-8gb", "edge")]
    plan = plan_model(load_known("llama-3.1-8b"), profiles, Wish(every_row=False), export_threads=2)
    assert plan.fits and plan.smallest is not None and plan.smallest.device == "raspberry-pi-5-8gb"
    conversion = plan.conversion
    assert conversion is not None
    assert conversion.peak_bytes == max(stage.bytes for stage in conversion.stages)
    packed, gguf = (
        container_of(load_known("llama-3.1-8b"), name, "int4") for name in ("safetensors", "gguf")
    )
    assert conversion.disk_bytes == packed.weights.size_bytes + packed.file_bytes + gguf.file_bytes
    others = plan_model(load_known("gemma-2b"), profiles, Wish(every_row=False), export_threads=2)
    assert others.conversion is None and "does not export family 'gemma'" in others.note
