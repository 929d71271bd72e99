"""Models over several GPUs: parts add up to the whole, impossible degrees are told, the launch line says the same."""

from __future__ import annotations

import dataclasses

import pytest

from edgeport.devices.launch import Launch, launch_line
from edgeport.devices.shape import CacheShape, ModelShape, TensorShape
from edgeport.devices.split import Load, all_reduce_bytes, degrees, obstacles, part, split


def llama(
    *, layers: int = 4, hidden: int = 512, ffn: int = 1024, heads: int = 8, kv_heads: int = 2, vocab: int = 1000,
    tied: bool = False,
) -> ModelShape:  # fmt: skip
    """A llama with heads of 64 and every tensor of it."""
    head_dim = 64
    tensors = [TensorShape("model.embed_tokens.weight", (vocab, hidden), "embedding")]
    for layer in range(layers):
        name = f"model.layers.{layer}."
        tensors += [
            TensorShape(name + "self_attn.q_proj.weight", (heads * head_dim, hidden), "linear", layer),
            TensorShape(name + "self_attn.k_proj.weight", (kv_heads * head_dim, hidden), "linear", layer),
            TensorShape(name + "self_attn.v_proj.weight", (kv_heads * head_dim, hidden), "linear", layer),
            TensorShape(name + "self_attn.o_proj.weight", (hidden, heads * head_dim), "linear", layer),
            TensorShape(name + "mlp.gate_proj.weight", (ffn, hidden), "linear", layer),
            TensorShape(name + "mlp.up_proj.weight", (ffn, hidden), "linear", layer),
            TensorShape(name + "mlp.down_proj.weight", (hidden, ffn), "linear", layer),
            TensorShape(name + "input_layernorm.weight", (hidden,), "norm", layer),
        ]
    tensors.append(TensorShape("model.norm.weight", (hidden,), "norm"))
    if not tied:
        tensors.append(TensorShape("lm_head.weight", (vocab, hidden), "head"))
    return ModelShape(
        "planted", "llama", hidden, ffn, heads, head_dim, vocab, 4096, tied, tuple(tensors),
        (CacheShape(kv_heads, head_dim, head_dim),) * layers,
    )  # fmt: skip


def load(compute: int = 7, overhead: int = 11) -> Load:
    """Two bytes per parameter, 100 tokens of 16-bit cache."""
    return Load(
        lambda tensor: 2 * tensor.parameters,
        lambda cache: 2 * 100 * cache.values_per_token,
        compute,
        overhead,
    )


def whole(shape: ModelShape) -> tuple[int, int]:
    return 2 * shape.parameters, sum(200 * cache.values_per_token for cache in shape.caches)


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_the_stages_of_a_pipeline_hold_the_whole_model_once(stages: int) -> None:
    shape = llama()
    found = split(shape, load(), pipeline_parallel=stages)
    weights, cache = whole(shape)
    assert sum(stage.weights_bytes for stage in found.stages) == weights
    assert sum(stage.kv_cache_bytes for stage in found.stages) == cache
    assert [stage.end_layer for stage in found.stages][:-1] == [stage.first_layer for stage in found.stages][
        1:
    ]
    assert found.stages[0].first_layer == 0 and found.stages[-1].end_layer == shape.layers
    assert all(
        stage.required_bytes == stage.weights_bytes + stage.kv_cache_bytes + 18 for stage in found.stages
    )


def test_a_tied_embedding_is_on_both_ends_of_a_pipeline() -> None:
    shape = llama(tied=True)
    found = split(shape, load(), pipeline_parallel=2)
    assert found.total_weights_bytes == 2 * shape.parameters + 2 * 1000 * 512
    assert split(shape, load()).total_weights_bytes == 2 * shape.parameters


def test_stages_are_even_in_bytes_not_in_layers() -> None:
    """A head of five layers' weight: the stage that has it gets fewer layers."""
    base = llama(layers=8, vocab=64)
    tensors = (*base.tensors[:-1], TensorShape("lm_head.weight", (16000, 512), "head"))
    stages = split(dataclasses.replace(base, tensors=tensors), load(), pipeline_parallel=2).stages
    assert stages[0].layers > stages[1].layers
    total = sum(stage.weights_bytes for stage in stages)
    assert max(stage.weights_bytes for stage in stages) < 0.6 * total


@pytest.mark.parametrize("degree", [1, 2])
def test_tensor_parallel_parts_add_up_to_the_model_and_what_is_repeated(degree: int) -> None:
    shape = llama(vocab=1024)
    found = split(shape, load(), tensor_parallel=degree)
    norms = 2 * shape.parameters_of(["norm"])
    assert found.total_weights_bytes == 2 * shape.parameters + (degree - 1) * norms
    assert degree * found.stages[0].kv_cache_bytes == whole(shape)[1]


def test_key_value_heads_are_repeated_when_there_are_more_gpus() -> None:
    """4 GPUs, 2 key/value heads: each GPU keeps one head, so two copies of keys, values and their projections."""
    shape = llama(vocab=1024)
    found = split(shape, load(), tensor_parallel=4)
    key_value = sum(2 * t.parameters for t in shape.tensors if ".k_proj" in t.name or ".v_proj" in t.name)
    norms = 2 * shape.parameters_of(["norm"])
    assert found.total_weights_bytes == 2 * shape.parameters + 3 * norms + key_value
    assert 4 * found.stages[0].kv_cache_bytes == 2 * whole(shape)[1]


def test_a_padded_vocabulary_costs_what_the_padding_is() -> None:
    shape = llama(vocab=1000)
    assert part(shape, shape.tensors[0], 2) == pytest.approx(1024 / 1000 / 2)
    assert part(shape, shape.tensors[0], 1) == 1


def test_both_at_once() -> None:
    shape = llama(vocab=1024)
    found = split(shape, load(), tensor_parallel=2, pipeline_parallel=2)
    assert (found.tensor_parallel, found.pipeline_parallel, found.gpus) == (2, 2, 4)
    assert found.total_weights_bytes == 2 * shape.parameters + 2 * shape.parameters_of(["norm"])
    assert found.largest_bytes == max(stage.required_bytes for stage in found.stages)


def test_possible_degrees_and_why_others_are_not() -> None:
    shape = llama(heads=28, kv_heads=4, hidden=1792, ffn=18944, vocab=151936)  # Qwen2-7B's heads: vllm#11797
    assert degrees(shape, 8, block=32) == (1, 2, 4)
    assert degrees(shape, 7) == (1,), "28 heads divide by 7, but 4 key/value heads do not"
    told = obstacles(shape, 8, block=32)
    assert told == ("28 attention heads cannot be divided by 8",)
    assert "4 key/value heads" in obstacles(shape, 7)[0]


def test_blocks_and_vocabulary_can_be_in_the_way() -> None:
    assert "feed-forward width of 4864" in obstacles(llama(heads=16, ffn=4864), 4, block=128)[0]
    assert obstacles(llama(heads=16, ffn=4864), 4) == ()
    (told,) = obstacles(llama(heads=6, kv_heads=6, ffn=960, vocab=1024), 3)
    assert "vocabulary of 1024" in told


def test_the_interconnect_carries_two_all_reduces_per_layer() -> None:
    assert all_reduce_bytes(llama(), 1) == 0
    assert all_reduce_bytes(llama(layers=10, hidden=100), 2) == 2 * 10 * 200  # each GPU sends its half twice


def test_the_launch_line_of_vllm() -> None:
    shape = llama(layers=8, vocab=1024)
    both = split(shape, load(), tensor_parallel=2, pipeline_parallel=2)
    line = launch_line(Launch("vllm", 8192, batch=4, kv_bits=8, on_gpu=True, split=both), folder="out")
    assert line == (
        "vllm serve out/safetensors --tensor-parallel-size 2 --pipeline-parallel-size 2 --max-model-len 8192 "
        "--gpu-memory-utilization 0.90 --max-num-seqs 4 --kv-cache-dtype fp8"
    )
    uneven = split(llama(layers=5, vocab=1024), load(), pipeline_parallel=2)
    assert launch_line(Launch("vllm", 64, split=uneven)).startswith("VLLM_PP_LAYER_PARTITION=")
    assert "parallel-size" not in launch_line(Launch("vllm", 64, split=split(shape, load())))


def test_the_launch_line_of_other_engines() -> None:
    found = split(llama(layers=8, vocab=1024), load(), pipeline_parallel=2)
    line = launch_line(Launch("llama.cpp", 4096, batch=2, kv_bits=8, on_gpu=True, split=found))
    assert "--ctx-size 8192 --parallel 2" in line, "llama-server divides the context among its slots"
    assert "--cache-type-k q8_0 --cache-type-v q8_0" in line and "--tensor-split 4,4" in line
    assert (
        launch_line(Launch("onnxruntime", 4096))
        == "edgeport run DIR PROMPT --runtime onnx --context-length 4096"
    )
