"""The methods by name, in the order in which they are applied; a new one is one file and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from edgeport.export.prune.method import Method
from edgeport.lazy import load

METHODS: Mapping[str, str] = {
    "layers": "edgeport.export.prune.depth:DEPTH",
    "ffn": "edgeport.export.prune.ffn:FFN",
    "heads": "edgeport.export.prune.heads:HEADS",
    "embedding": "edgeport.export.prune.embedding:EMBEDDING_WIDTH",
}


def get_method(name: str) -> Method:
    return cast(Method, load(METHODS[name]))
