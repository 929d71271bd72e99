"""What the processor multiplies per second, by libraries that are tuned for it: floats by numpy's BLAS, bytes by ONNX Runtime.

Each runs in a process of its own, whose number of threads is set from outside. What is not installed is left out with a word.
The integer graph is one MatMulInteger (unsigned by signed bytes, as engines multiply activations by weights), written here as
protobuf: devices have no onnx package. Fields: onnx/onnx.proto3.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass

from edgeport.errors import EdgeportError
from edgeport.runtimes.isolation import run_isolated

ROWS, INNER, COLUMNS = 256, 2048, 2048
OPERATIONS = 2 * ROWS * INNER * COLUMNS
TIMEOUT_S = 60.0
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class ComputeRates:
    """None where it was not measured; `missing` then says why. Operations per second, a multiply-add is two."""

    float32_flops_per_s: int | None
    int8_ops_per_s: int | None
    missing: tuple[str, ...] = ()


def measure_compute(threads: int, *, seconds: float = 0.3) -> ComputeRates:
    """Both rates with `threads` threads, about `seconds` each beside starting the processes."""
    missing: list[str] = []

    def measure(what: str, package: str, target: str) -> int | None:
        if importlib.util.find_spec(package) is None or importlib.util.find_spec("numpy") is None:
            missing.append(f"{what}: {package} is not installed")
            return None
        environment = dict.fromkeys(THREAD_VARIABLES, str(threads))
        arguments = {"threads": threads, "seconds": seconds}
        try:
            rate = run_isolated(
                f"{__name__}:{target}", arguments, timeout_s=TIMEOUT_S, environment=environment
            )
        except EdgeportError as error:
            missing.append(f"{what}: {error.message}")
            return None
        return int(rate)

    floats = measure("float rate", "numpy", "float32_rate")
    integers = measure("integer rate", "onnxruntime", "int8_rate")
    return ComputeRates(floats, integers, tuple(missing))


def float32_rate(threads: int, seconds: float) -> int:
    """In a process whose BLAS has `threads` threads by its environment."""
    import numpy as np

    left = np.ones((ROWS, INNER), np.float32)
    right = np.ones((INNER, COLUMNS), np.float32)
    out = np.empty((ROWS, COLUMNS), np.float32)
    return _best_rate(lambda: np.matmul(left, right, out=out), seconds)


def int8_rate(threads: int, seconds: float) -> int:
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        integer_graph(INNER, COLUMNS), options, providers=["CPUExecutionProvider"]
    )
    inputs = {"x": np.ones((ROWS, INNER), np.uint8)}
    return _best_rate(lambda: session.run(None, inputs), seconds)


def _best_rate(multiply: Callable[[], object], seconds: float) -> int:
    multiply()
    best = float("inf")
    end = time.perf_counter() + seconds
    while (begin := time.perf_counter()) < end:
        multiply()
        best = min(best, time.perf_counter() - begin)
    if best == float("inf"):
        raise EdgeportError("no time was left to multiply", hint="measure for longer")
    return round(OPERATIONS / best)


def integer_graph(inner: int, columns: int) -> bytes:
    """A model y[rows, columns] int32 = x[rows, inner] uint8 times a constant [inner, columns] of ones, int8."""
    uint8, int8, int32 = 2, 3, 6
    weight = _number(1, inner) + _number(1, columns) + _number(2, int8) + _bytes(8, b"w")
    weight += _bytes(9, b"\x01" * (inner * columns))
    node = _bytes(1, b"x") + _bytes(1, b"w") + _bytes(2, b"y") + _bytes(4, b"MatMulInteger")
    graph = _bytes(1, node) + _bytes(2, b"rate") + _bytes(5, weight)
    graph += _bytes(11, _value(b"x", uint8, inner)) + _bytes(12, _value(b"y", int32, columns))
    return _number(1, 10) + _bytes(7, graph) + _bytes(8, _number(2, 21))


def _value(name: bytes, element: int, columns: int) -> bytes:
    """ValueInfoProto of a matrix with any number of rows."""
    shape = _bytes(1, _bytes(2, b"rows")) + _bytes(1, _number(1, columns))
    return _bytes(1, name) + _bytes(2, _bytes(1, _number(1, element) + _bytes(2, shape)))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
