"""Which session opens which container here: the devices' engines, and torch, which only the exporter has.

`runtimes` never imports torch, so its table cannot name it. Evaluation and verification look engines up here instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from edgeport.errors import UsageError
from edgeport.manifest import base_format
from edgeport.runtimes.engines import ENGINES, Engine

_TORCH = "edgeport.export.evaluate.torch_session:open_session"

EXPORT_ENGINES: Mapping[str, Engine] = MappingProxyType(
    {
        **ENGINES,
        "bitsandbytes": Engine(
            "bitsandbytes",
            "transformers",
            _TORCH,
            "bitsandbytes",
            ("torch", "transformers", "bitsandbytes", "accelerate"),
            "NF4 and LLM.int8 in torch, as transformers opens them",
        ),
        "transformers": Engine(
            "transformers",
            "transformers",
            _TORCH,
            "eval",
            ("torch", "transformers"),
            "any folder of transformers, in its own code",
        ),
    }
)
"""By the engine's format; a native format such as gguf-q4_k_m is looked up by its base, gguf."""


def engine_for(format_name: str) -> Engine:
    """The engine of a container's format, portable or native. Raises UsageError naming the formats there are."""
    engine = EXPORT_ENGINES.get(base_format(format_name))
    if engine is None:
        raise UsageError(
            f"no engine for the format {format_name!r}",
            hint=f"formats are {', '.join(EXPORT_ENGINES)} and what is native to them, such as gguf-q4_k_m",
        )
    return engine


def opener_for(format_name: str) -> str:
    """`module:function` of `open_session(path: Path, options: SessionOptions) -> Session` for a container's format."""
    return engine_for(format_name).opener
