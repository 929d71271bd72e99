"""The formats by name, loaded when asked for. A new format is one file and one line here."""

from __future__ import annotations

from typing import cast

from edgeport.errors import UsageError
from edgeport.export.formats.base import Format
from edgeport.lazy import load

FORMATS: dict[str, str] = {
    "gguf": "edgeport.export.formats.gguf:GgufFormat",
    "onnx": "edgeport.export.formats.onnx:OnnxFormat",
    "openvino": "edgeport.export.formats.openvino:OpenVinoFormat",
    "safetensors": "edgeport.export.formats.safetensors:SafetensorsFormat",
}


def get_format(name: str) -> Format:
    """Raises UsageError for an unknown name, MissingExtra when its package is absent."""
    if name not in FORMATS:
        raise UsageError(f"unknown format {name!r}", hint=f"formats are {', '.join(FORMATS)}")
    return cast(Format, load(FORMATS[name], extra="export")())
