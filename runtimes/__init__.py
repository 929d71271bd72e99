"""Run an exported model: light adapters over onnxruntime, OpenVINO and llama.cpp. No torch, no transformers.

    from edgeport.runtimes import load

Importing this package loads no engine and not even numpy; `load` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeport.runtimes.artifact import Completion, Model, load
    from edgeport.runtimes.generate import GenerationOptions, Token
    from edgeport.runtimes.sampling import Sampling
    from edgeport.runtimes.session import Session, SessionOptions

_HOMES = {
    "Completion": "edgeport.runtimes.artifact",
    "GenerationOptions": "edgeport.runtimes.generate",
    "Model": "edgeport.runtimes.artifact",
    "Sampling": "edgeport.runtimes.sampling",
    "Session": "edgeport.runtimes.session",
    "SessionOptions": "edgeport.runtimes.session",
    "Token": "edgeport.runtimes.generate",
    "load": "edgeport.runtimes.artifact",
}
__all__ = [
    "Completion",
    "GenerationOptions",
    "Model",
    "Sampling",
    "Session",
    "SessionOptions",
    "Token",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from edgeport.lazy import load as load_target

    return load_target(f"{_HOMES[name]}:{name}", extra="reference")
