"""Run an exported model: light adapters over onnxruntime, OpenVINO and llama.cpp. No torch, no transformers.

    from edgeport.runtimes import load

Importing this package loads no engine and not even numpy; `load` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeport.runtimes.artifact import load
    from edgeport.runtimes.asynchronous import AsyncTokenStream
    from edgeport.runtimes.classification import Classification, TokenClassification
    from edgeport.runtimes.completion import Completion
    from edgeport.runtimes.constraint import Grammar, JsonSchema, Regex
    from edgeport.runtimes.embedding import EmbeddingOptions, Embeddings
    from edgeport.runtimes.encoder_model import EncoderModel
    from edgeport.runtimes.engine_settings import EngineSettings
    from edgeport.runtimes.generate import GenerationOptions, Token
    from edgeport.runtimes.generation_defaults import GenerationDefaults, SamplingChanges
    from edgeport.runtimes.model import Model
    from edgeport.runtimes.sampling import Sampling
    from edgeport.runtimes.score import Score
    from edgeport.runtimes.session import Session, SessionOptions
    from edgeport.runtimes.token_stream import TokenStream

_HOMES = {
    "AsyncTokenStream": "edgeport.runtimes.asynchronous",
    "Classification": "edgeport.runtimes.classification",
    "Completion": "edgeport.runtimes.completion",
    "EmbeddingOptions": "edgeport.runtimes.embedding",
    "Embeddings": "edgeport.runtimes.embedding",
    "EncoderModel": "edgeport.runtimes.encoder_model",
    "EngineSettings": "edgeport.runtimes.engine_settings",
    "GenerationDefaults": "edgeport.runtimes.generation_defaults",
    "GenerationOptions": "edgeport.runtimes.generate",
    "Grammar": "edgeport.runtimes.constraint",
    "JsonSchema": "edgeport.runtimes.constraint",
    "Model": "edgeport.runtimes.model",
    "Regex": "edgeport.runtimes.constraint",
    "Sampling": "edgeport.runtimes.sampling",
    "SamplingChanges": "edgeport.runtimes.generation_defaults",
    "Score": "edgeport.runtimes.score",
    "Session": "edgeport.runtimes.session",
    "SessionOptions": "edgeport.runtimes.session",
    "Token": "edgeport.runtimes.generate",
    "TokenClassification": "edgeport.runtimes.classification",
    "TokenStream": "edgeport.runtimes.token_stream",
    "load": "edgeport.runtimes.artifact",
}
__all__ = [
    "AsyncTokenStream",
    "Classification",
    "Completion",
    "EmbeddingOptions",
    "Embeddings",
    "EncoderModel",
    "EngineSettings",
    "GenerationDefaults",
    "GenerationOptions",
    "Grammar",
    "JsonSchema",
    "Model",
    "Regex",
    "Sampling",
    "SamplingChanges",
    "Score",
    "Session",
    "SessionOptions",
    "Token",
    "TokenClassification",
    "TokenStream",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from edgeport.lazy import load as load_target

    return load_target(f"{_HOMES[name]}:{name}", extra="reference")
