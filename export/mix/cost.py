"""What measuring sensitivity will take, told before it starts: floating-point work over a probed speed, disk and memory."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from edgeport.export.families.decoder import DecoderSpec
from edgeport.export.mix.sensitivity import SensitivityRun
from edgeport.export.quantize import rtn
from edgeport.lazy import missing_extra
from edgeport.scheme import TensorScheme

_PROBE_S = 0.15


@dataclass(frozen=True, slots=True)
class SensitivityCost:
    """streams: hidden states carried to the end. disk_bytes: two generations of all streams at the widest point.

    seconds is an estimate from short probes on this machine as it is now; expect a third either way.
    """

    streams: int
    seconds: float
    disk_bytes: int
    ram_bytes: int


@dataclass(frozen=True, slots=True)
class Speed:
    """multiply_adds_per_s: of float32 products; logits_per_s: of the KL in float64; weights_per_s: of quantizing."""

    multiply_adds_per_s: float
    logits_per_s: float
    weights_per_s: float


def sensitivity_cost(run: SensitivityRun, speed: Speed) -> SensitivityCost:
    """Arithmetic only: nothing is read but shapes."""
    spec, tokens = run.solver.source.spec, run.windows.size
    probes = run.probes()
    stream_layers = sum(
        1 + sum(probe.group.layer <= layer for probe in probes) for layer in range(spec.layers)
    )
    attention = 2 * run.windows.shape[1] * spec.heads * spec.head_dim
    through_layers = stream_layers * tokens * (_layer_weights(spec) + attention)
    logits = len(probes) * tokens * spec.vocab_size
    through_head = logits * spec.hidden_size
    quantized = sum(probe.group.weights for probe in probes)
    hidden_bytes = tokens * spec.hidden_size * 4
    head_bytes = 4 * spec.vocab_size * spec.hidden_size
    return SensitivityCost(
        streams=len(probes),
        seconds=(through_layers + through_head) / speed.multiply_adds_per_s
        + logits / speed.logits_per_s
        + quantized / speed.weights_per_s,
        disk_bytes=2 * (1 + len(probes)) * hidden_bytes,
        ram_bytes=max(2 * head_bytes, 8 * _layer_weights(spec)) + 2 * hidden_bytes,
    )


def probe_speed(spec: DecoderSpec, threads: int) -> Speed:
    """Three short trials, half a second together."""
    with missing_extra("eval", purpose="running the source model layer by layer"):
        import torch
    torch.set_num_threads(threads)
    rows, columns = spec.intermediate_size, spec.hidden_size
    left, right = torch.ones((512, columns)), torch.ones((rows, columns))
    logits = torch.zeros((64, 1 << 14))
    weights = np.sin(np.arange(1 << 18, dtype=np.float32)).reshape(-1, 256)
    return Speed(
        multiply_adds_per_s=left.numel() * rows * _repeats_per_s(lambda: left @ right.T),
        # As `divergence` works: to float64, two products with the probabilities, one exponential.
        logits_per_s=logits.numel()
        * _repeats_per_s(
            lambda: ((values := logits.double()) * values).sum() + (values.exp_() * values).sum()
        ),
        weights_per_s=weights.size * _repeats_per_s(lambda: rtn.solve(weights, TensorScheme("int4", 32))),
    )


def _repeats_per_s(work: object) -> float:
    assert callable(work)
    work()
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < _PROBE_S:
        work()
        count += 1
    return count / (time.perf_counter() - started)


def _layer_weights(spec: DecoderSpec) -> int:
    """Of an average layer."""
    linears = (item for item in spec.tensors() if item.role == "linear")
    return sum(item.shape[0] * item.shape[1] for item in linears) // spec.layers
