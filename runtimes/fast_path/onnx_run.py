"""One run of an ONNX graph under ONNX Runtime's profiler, with inputs made from their declared shapes.

The profile names each node that was executed, its operator after fusion, its execution provider and the types of the inputs
it still has. A weight that a kernel has packed for itself is released and no longer among them.
Spec: https://onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html
"""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from edgeport.errors import RuntimeFailure
from edgeport.runtimes.onnx import engine_errors
from edgeport.runtimes.threads import thread_count

_DTYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}
_CACHE = re.compile(r"past")
_ONES = re.compile(r"mask")


@dataclass(frozen=True, slots=True)
class Executed:
    """input_types: as the profile has them, e.g. ("float", "float", "uint8")."""

    name: str
    operator: str
    provider: str
    input_types: tuple[str, ...]


def profile_one_token(file: Path) -> list[Executed]:
    """The nodes in the order they ran. Raises RuntimeFailure with ONNX Runtime's reason."""
    with tempfile.TemporaryDirectory(prefix="edgeport-profile-") as folder:
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "run")
        options.intra_op_num_threads = thread_count(None)
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
            session.run(None, {item.name: _made_up(item) for item in session.get_inputs()})
        except engine_errors() as error:
            raise RuntimeFailure(f"ONNX Runtime cannot run {file} with one token: {error}") from error
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return [_executed(event) for event in events if event.get("cat") == "Node" and "op_name" in event["args"]]


def _made_up(item: Any) -> Any:
    """Batch and sequence of one, an empty cache, ones for a mask, zeros elsewhere."""
    dtype = _DTYPES.get(item.type)
    if dtype is None:
        raise RuntimeFailure(
            f"the graph's input {item.name} is a {item.type}, which this check cannot make up"
        )
    shape = [_extent(size) for size in item.shape]
    return np.ones(shape, dtype) if _ONES.search(item.name) else np.zeros(shape, dtype)


def _extent(size: int | str | None) -> int:
    """`past_sequence_length` is 0; `past_sequence_length + sequence_length` and every other free size are 1."""
    if isinstance(size, int):
        return size
    name = str(size)
    return 0 if _CACHE.search(name) and "+" not in name else 1


def _executed(event: Any) -> Executed:
    arguments = event["args"]
    types = tuple(next(iter(item)) for item in arguments.get("input_type_shape", ()) if item)
    name = str(event["name"]).removesuffix("_kernel_time")
    return Executed(name, str(arguments["op_name"]), str(arguments.get("provider", "")), types)
