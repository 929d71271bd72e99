"""Which engine opens which container format: one explicit table, imported lazily.

Adding a format is one adapter file here, one line in ENGINES, one extra. An adapter offers
`open_session(path, options) -> Session`, where `path` is the container's folder or the file in it that the engine opens.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from edgeport.errors import MissingExtra, UsageError
from edgeport.lazy import load
from edgeport.manifest import base_format

if TYPE_CHECKING:
    from edgeport.runtimes.session import Session, SessionOptions


@dataclass(frozen=True, slots=True)
class Engine:
    """format: the container it opens. packages: what must be importable. opener: `module:function`."""

    format: str
    name: str
    opener: str
    extra: str
    packages: tuple[str, ...]
    why: str


ENGINES: Mapping[str, Engine] = {
    engine.format: engine
    for engine in (
        Engine(
            "openvino",
            "OpenVINO",
            "edgeport.runtimes.openvino:open_session",
            "openvino",
            ("numpy", "openvino"),
            "compiled for this processor, activations in its fastest precision",
        ),
        Engine(
            "gguf",
            "llama.cpp",
            "edgeport.runtimes.gguf:open_session",
            "gguf",
            ("numpy", "llama_cpp"),
            "kernels for every processor, no compile step",
        ),
        Engine(
            "onnx",
            "ONNX Runtime",
            "edgeport.runtimes.onnx:open_session",
            "onnx",
            ("numpy", "onnxruntime"),
            "runs on every platform",
        ),
        Engine(
            "safetensors",
            "reference",
            "edgeport.runtimes.reference:open_session",
            "reference",
            ("numpy",),
            "plain numpy, exact and slow",
        ),
    )
}
"""In the order `load` prefers them when the manifest has no measured speed. `gguf-q4_k_m` is opened by its base, `gguf`."""


def unavailable_because(format_name: str) -> str | None:
    """Why this format's engine cannot be used here, or None when it can; imports nothing."""
    engine = _engine(format_name)
    missing = [package for package in engine.packages if importlib.util.find_spec(package) is None]
    if not missing:
        return None
    return f"{engine.name} needs {' and '.join(missing)}: pip install 'edgeport[{engine.extra}]'"


def require_engine(format_name: str) -> None:
    """Raises MissingExtra when this format's engine is not installed; imports nothing."""
    reason = unavailable_because(format_name)
    if reason is not None:
        message, _, hint = reason.partition(": ")
        raise MissingExtra(message, hint=hint)


def available() -> dict[str, str | None]:
    """Every format with None (usable) or the reason why not."""
    return {format_name: unavailable_because(format_name) for format_name in ENGINES}


def open_session(format_name: str, path: Path, options: SessionOptions) -> Session:
    """Open a container. Raises MissingExtra when its engine is not installed, RuntimeFailure when it refuses the file, UsageError
    for an encoder: some engines end the process when they are asked for its next token."""
    require_engine(format_name)
    _refuse_encoder(format_name, Path(path))
    engine = _engine(format_name)
    opener = cast("Callable[[Path, SessionOptions], Session]", load(engine.opener, extra=engine.extra))
    return opener(Path(path), options)


def _refuse_encoder(format_name: str, path: Path) -> None:
    from edgeport.runtimes.container import Container
    from edgeport.runtimes.encoder_container import is_encoder

    if is_encoder(Container(format_name, path)):
        raise UsageError(
            f"{path} holds an encoder: it has vectors or labels and no next token",
            hint="`edgeport run DIR TEXT`, or load(DIR).embed and classify (docs/encoders.md)",
        )


def _engine(format_name: str) -> Engine:
    try:
        return ENGINES[base_format(format_name)]
    except KeyError:
        allowed = ", ".join(ENGINES)
        raise UsageError(f"no engine for the format {format_name!r}", hint=f"formats are {allowed}") from None
