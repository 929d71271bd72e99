"""A model spread over several GPUs: which degrees are possible, and what each GPU then holds. Pure.

Tensor parallelism (Shoeybi et al., "Megatron-LM", arXiv:1909.08053) gives every GPU a part of each matrix: query heads, feed-forward
columns and vocabulary rows are divided, norms and routers are not, and key/value heads are repeated where there are fewer of them than
GPUs. A pipeline gives every GPU whole layers. vLLM and Megatron combine the two: each stage of the pipeline is a group of GPUs.
The rules are those of vLLM (vllm/distributed, vllm/model_executor/layers): heads must divide, the vocabulary is padded to 64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeport.devices.shape import CacheShape, ModelShape, TensorShape

VOCABULARY_PADDING = 64
KEY_VALUE_NAMES = ("k_proj", "v_proj", "attn_k.", "attn_v.")
FUSED_NAMES = ("qkv", "c_attn", "query_key_value")
WHOLE_NAMES = ("kv_a_proj", "q_a_proj", "attn_kv_a", "attn_q_a")
"""Down-projections of latent attention: too narrow to divide, every GPU has them."""


@dataclass(frozen=True, slots=True)
class Load:
    """What has to be placed: bytes of a tensor (all `count` of it), bytes of one layer's cache, and what every GPU needs anew."""

    tensor_bytes: Callable[[TensorShape], float]
    cache_bytes: Callable[[CacheShape], float]
    compute_bytes: int
    overhead_bytes: int


@dataclass(frozen=True, slots=True)
class Stage:
    """The layers [first_layer, end_layer) on a group of `gpus` GPUs; bytes are of one of them."""

    gpus: int
    first_layer: int
    end_layer: int
    weights_bytes: int
    kv_cache_bytes: int
    compute_bytes: int
    overhead_bytes: int

    @property
    def layers(self) -> int:
        return self.end_layer - self.first_layer

    @property
    def required_bytes(self) -> int:
        return self.weights_bytes + self.kv_cache_bytes + self.compute_bytes + self.overhead_bytes


@dataclass(frozen=True, slots=True)
class Split:
    """tensor_parallel GPUs for each of the stages."""

    tensor_parallel: int
    stages: tuple[Stage, ...]

    @property
    def pipeline_parallel(self) -> int:
        return len(self.stages)

    @property
    def gpus(self) -> int:
        return self.tensor_parallel * len(self.stages)

    @property
    def largest_bytes(self) -> int:
        """What the fullest GPU holds."""
        return max(stage.required_bytes for stage in self.stages)

    @property
    def total_weights_bytes(self) -> int:
        """Over all GPUs; more than the model's by what is repeated."""
        return sum(stage.gpus * stage.weights_bytes for stage in self.stages)


def obstacles(shape: ModelShape, degree: int, *, block: int = 1) -> tuple[str, ...]:
    """Why the model cannot be divided into `degree` tensor-parallel parts; empty when it can.

    block: input features per scale of the packed weights; a part must hold whole blocks.
    """
    if degree == 1:
        return ()
    problems = []
    if shape.heads % degree:
        problems.append(f"{shape.heads} attention heads cannot be divided by {degree}")
    for kv_heads in sorted({cache.kv_heads for cache in shape.caches} - {0}):
        if kv_heads % degree and degree % kv_heads:
            problems.append(
                f"{kv_heads} key/value heads can neither be divided by {degree} nor repeated evenly"
            )
    if shape.intermediate_size % (degree * block):
        blocks = f" into whole blocks of {block}" if block > 1 else ""
        problems.append(
            f"a feed-forward width of {shape.intermediate_size} cannot be divided by {degree}{blocks}"
        )
    if block > 1 and not shape.heads % degree and shape.heads * shape.head_dim % (degree * block):
        problems.append(
            f"an attention width of {shape.heads * shape.head_dim} has no {degree} parts of whole blocks"
        )
    if _padded(shape.vocab_size) % degree:
        problems.append(f"a vocabulary of {_padded(shape.vocab_size)} (padded) cannot be divided by {degree}")
    return tuple(problems)


def degrees(shape: ModelShape, gpus: int, *, block: int = 1) -> tuple[int, ...]:
    """The tensor-parallel degrees that the model allows, up to `gpus`, that use all GPUs as equal groups."""
    return tuple(n for n in range(1, gpus + 1) if gpus % n == 0 and not obstacles(shape, n, block=block))


def split(shape: ModelShape, load: Load, *, tensor_parallel: int = 1, pipeline_parallel: int = 1) -> Split:
    """Place the model on tensor_parallel x pipeline_parallel GPUs, the stages as even in bytes as whole layers allow.

    The embedding is with the first layer, head and final norm with the last; a tied embedding is in both places.
    """
    stages = max(1, min(pipeline_parallel, shape.layers))
    costs = _layer_costs(shape, load, tensor_parallel, pipelined=stages > 1)
    bounds = _balanced([weights + cache for weights, cache in costs], stages)
    return Split(
        tensor_parallel,
        tuple(
            Stage(
                gpus=tensor_parallel,
                first_layer=first,
                end_layer=end,
                weights_bytes=math.ceil(sum(weights for weights, _ in costs[first:end])),
                kv_cache_bytes=math.ceil(sum(cache for _, cache in costs[first:end])),
                compute_bytes=load.compute_bytes,
                overhead_bytes=load.overhead_bytes,
            )
            for first, end in bounds
        ),
    )


def all_reduce_bytes(shape: ModelShape, degree: int, *, batch: int = 1) -> int:
    """Bytes every GPU sends for one token: two ring all-reduces of the hidden state in 16 bits per layer."""
    return round(2 * shape.layers * batch * 2 * shape.hidden_size * 2 * (degree - 1) / degree)


def _layer_costs(shape: ModelShape, load: Load, degree: int, *, pipelined: bool) -> list[tuple[float, float]]:
    """(weights, cache) of one GPU for each layer; what lies outside the layers counts with the first or the last."""
    weights = [0.0] * shape.layers
    for tensor in shape.tensors:
        cost = load.tensor_bytes(tensor) * part(shape, tensor, degree)
        if tensor.layer is not None:
            weights[tensor.layer] += cost
        elif tensor.role in ("embedding", "position"):
            weights[0] += cost
            if pipelined and tensor.role == "embedding" and shape.tied_embeddings:
                weights[-1] += cost
        else:
            weights[-1] += cost
    caches = [
        load.cache_bytes(cache) / min(degree, cache.kv_heads) if cache.kv_heads else load.cache_bytes(cache)
        for cache in shape.caches
    ]
    return list(zip(weights, caches, strict=True))


def part(shape: ModelShape, tensor: TensorShape, degree: int) -> float:
    """The share of a tensor that one of `degree` GPUs holds; more than 1 / degree where something is repeated or padded."""
    if tensor.role in ("embedding", "head"):
        return _padded(shape.vocab_size) / shape.vocab_size / degree if degree > 1 else 1.0
    if tensor.role not in ("linear", "expert") or any(name in tensor.name for name in WHOLE_NAMES):
        return 1.0
    kv_heads = shape.caches[tensor.layer].kv_heads if tensor.layer is not None else 0
    if not kv_heads or degree <= kv_heads:
        return 1 / degree
    if any(name in tensor.name for name in KEY_VALUE_NAMES):
        return 1 / kv_heads
    if any(name in tensor.name for name in FUSED_NAMES):
        cache = shape.caches[tensor.layer or 0]
        query, rest = shape.heads * shape.head_dim, cache.values_per_token
        return (query / degree + rest / kv_heads) / (query + rest)
    return 1 / degree


def _padded(vocab_size: int) -> int:
    return -(-vocab_size // VOCABULARY_PADDING) * VOCABULARY_PADDING


def _balanced(costs: Sequence[float], stages: int) -> list[tuple[int, int]]:
    """Cut the layers into consecutive groups whose largest sum is the least possible.

    Dynamic programming over (layers placed, groups used); each group has at least one layer.
    """
    count = len(costs)
    sums = [0.0]
    for cost in costs:
        sums.append(sums[-1] + cost)
    best = [[math.inf] * (count + 1) for _ in range(stages + 1)]
    cut = [[0] * (count + 1) for _ in range(stages + 1)]
    best[0][0] = 0.0
    for used in range(1, stages + 1):
        for end in range(used, count + 1):
            for start in range(used - 1, end):
                largest = max(best[used - 1][start], sums[end] - sums[start])
                if largest < best[used][end]:
                    best[used][end], cut[used][end] = largest, start
    bounds, end = [], count
    for used in range(stages, 0, -1):
        start = cut[used][end]
        bounds.append((start, end))
        end = start
    return bounds[::-1]
