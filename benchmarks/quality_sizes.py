"""What a container weighs: its files without the tokenizer's, and the bytes of weights alone.

`file_bytes` is what lies on the device. `weight_bytes` leaves out what packers store differently and which is no weight:
metadata and the vocabulary inside a GGUF file, the text of an OpenVINO graph, rotary tables, the safetensors header.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any


def sizes(engine: str, path: str) -> dict[str, int]:
    """{"file_bytes", "weight_bytes"} of the container at `path`, which is a file or a folder."""
    measured: dict[str, Any] = {"gguf": _gguf, "onnx": _onnx, "onnx-builder": _onnx, "openvino": _openvino}
    file_bytes, weight_bytes = measured.get(engine, _safetensors)(Path(path))
    return {"file_bytes": file_bytes, "weight_bytes": weight_bytes}


def _gguf(path: Path) -> tuple[int, int]:
    from gguf import GGUFReader

    file = path if path.is_file() else next(path.glob("*.gguf"))
    return file.stat().st_size, sum(int(tensor.n_bytes) for tensor in GGUFReader(file).tensors)


def _onnx(path: Path) -> tuple[int, int]:
    import onnx

    folder = path if path.is_dir() else path.parent
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    stored: dict[tuple[str, ...], int] = {}
    for item in model.graph.initializer:
        if (
            "cos_cache" not in item.name and "sin_cache" not in item.name
        ):  # rotary tables are initializers too
            stored[_place(item)] = _bytes(item)
    weights = sum(stored.values())
    return sum(item.stat().st_size for item in folder.glob("model.onnx*")), weights


def _place(initializer: Any) -> tuple[str, ...]:
    """Where its bytes lie: a tied embedding is two initializers over one place."""
    external = {entry.key: entry.value for entry in initializer.external_data}
    if external:
        return (external["location"], external.get("offset", "0"))
    return ("", initializer.name)


def _bytes(initializer: Any) -> int:
    """Stored bytes of one initializer, inside the graph or in a file beside it."""
    import onnx

    for entry in initializer.external_data:
        if entry.key == "length":
            return int(entry.value)
    return len(initializer.raw_data) or int(onnx.numpy_helper.to_array(initializer).nbytes)


def _openvino(path: Path) -> tuple[int, int]:
    graph = path if path.is_file() else path / "openvino_model.xml"
    constants = (
        graph.with_suffix(".bin").stat().st_size
    )  # every constant of the graph, rotary frequencies included
    return graph.stat().st_size + constants, constants


def _safetensors(path: Path) -> tuple[int, int]:
    folder = path if path.is_dir() else path.parent
    files = list(folder.glob("*.safetensors"))
    total = sum(file.stat().st_size for file in files)
    headers = 0
    for file in files:
        with file.open("rb") as stream:
            headers += 8 + int(struct.unpack("<Q", stream.read(8))[0])
    return total, total - headers
