"""Check one container. Every function here runs in a child process: engines and readers are native code."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from edgeport.errors import ArtifactError
from edgeport.export.checkpoint import tensor_digest
from edgeport.export.evaluate.engines import engine_for
from edgeport.export.verify.golden import DECODE_TOKENS, Agreement, Golden, compare, golden_name, read_golden
from edgeport.lazy import load
from edgeport.manifest import base_format
from edgeport.runtimes.session import Session, SessionOptions

READERS: dict[str, str] = {
    "gguf": "edgeport.export.verify.read_gguf:read_weights",
    "onnx": "edgeport.export.verify.read_onnx:read_weights",
    "openvino": "edgeport.export.verify.read_openvino:read_weights",
    "safetensors": "edgeport.export.verify.read_safetensors:read_weights",
    "bitsandbytes": "edgeport.export.verify.read_bitsandbytes:read_weights",
}
"""Independent readers: entry point -> (Hugging Face name, float32 values), one tensor at a time."""


def read_weights(base: str, entry_point: Path) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Every weight of a container of format `base`, by its independent reader."""
    reader = load(READERS[base], extra="export")
    return cast("Iterator[tuple[str, npt.NDArray[np.float32]]]", reader(entry_point))


def weight_digests(format_name: str, entry_point: str) -> dict[str, str]:
    """Digest of every weight read back from a container. Raises ArtifactError for a name that comes twice."""
    digests: dict[str, str] = {}
    for name, values in read_weights(base_format(format_name), Path(entry_point)):
        if name in digests:
            raise ArtifactError(f"{entry_point} holds {name} twice")
        digests[name] = tensor_digest(values)
    return digests


def engine_agreement(format_name: str, entry_point: str, artifact: str, modes: list[str]) -> dict[str, Any]:
    """Agreement with the golden answers in the container's own engine: in `exact` arithmetic, or as `shipped`.

    llama.cpp always quantizes activations for quantized weights, so its exact mode is the same file with every tensor
    dequantized to float32: the bits are proven by the digests, and this proves the metadata and the graph.
    """
    golden = read_golden(Path(artifact), golden_name(format_name))
    return {
        mode: asdict(_agreement(format_name, Path(entry_point), golden, exact=mode == "exact"))
        for mode in modes
    }


def _agreement(format_name: str, path: Path, golden: Golden, *, exact: bool) -> Agreement:
    context_length = len(golden.prompt) + DECODE_TOKENS
    base = base_format(format_name)
    engine = engine_for(base)
    with tempfile.TemporaryDirectory(prefix="edgeport-exact-") as folder:
        if base == "gguf" and exact:
            copy = Path(folder) / "float32.gguf"
            load("edgeport.export.verify.read_gguf:dequantized_copy")(path, copy)
            path = copy
        options = SessionOptions(context_length=context_length, exact=exact)
        session = cast(Session, load(engine.opener, extra=engine.extra)(path, options))
        try:
            return compare(session, golden)
        finally:
            session.close()
