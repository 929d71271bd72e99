"""Put an encoder model together: its file is checked, opened in its engine, and given its vocabulary and its settings."""

from __future__ import annotations

from dataclasses import replace

from edgeport.errors import UnsupportedModel, UsageError
from edgeport.manifest import base_format, from_json
from edgeport.runtimes.container import Container
from edgeport.runtimes.encoder_container import gguf_metadata, open_encoder_container, read_limits
from edgeport.runtimes.encoder_model import EncoderModel, EncoderParts
from edgeport.runtimes.encoder_settings import EncoderSettings, read_encoder_settings
from edgeport.runtimes.encoder_tokenizer import EncoderTokenizer, TextEncoder
from edgeport.runtimes.safe_load import check_load
from edgeport.runtimes.session import SessionOptions

_GGUF_POOLINGS = {1: "mean", 2: "cls", 3: "last"}
"""llama.h, llama_pooling_type. 0 says nothing, 4 is a classifier, whose labels' names are in config.json too."""


def open_encoder_model(
    container: Container, reason: str, options: SessionOptions | None, check: str
) -> EncoderModel:
    """See edgeport.runtimes.artifact.load; `reason` says why this container was chosen."""
    check_load(container, check)
    settings = settings_of(container)
    options = options or SessionOptions()
    limit = settings.max_length
    if options.context_length is None:
        options = replace(options, context_length=limit)
    elif limit is not None and options.context_length > limit:
        raise UsageError(
            f"context_length {options.context_length} is not possible: this model's longest text is {limit} tokens",
            hint=f"ask for at most {limit}",
        )
    encoder = open_encoder_container(container.format, container.path, options)
    try:
        return EncoderModel(EncoderParts(container, encoder, open_text_encoder(container), settings, reason))
    except BaseException:
        encoder.close()
        raise


def settings_of(container: Container) -> EncoderSettings:
    """The manifest's, else what the files beside the container say; of a GGUF file alone, its own."""
    if container.manifest is not None:
        found: EncoderSettings = from_json(EncoderSettings, dict(container.manifest.encoder["settings"]))
        return found
    folder = container.folder
    if not (folder / "config.json").is_file() and base_format(container.format) == "gguf":
        return _gguf_settings(container)
    settings = read_encoder_settings(folder)
    # a tokenizer may allow more than the model has positions for
    positions = read_limits(folder, SessionOptions()).context_length
    return replace(settings, max_length=min(settings.max_length or positions, positions))


def _gguf_settings(container: Container) -> EncoderSettings:
    pooling = gguf_metadata(container.path).get("bert.pooling_type")
    if pooling not in _GGUF_POOLINGS:
        raise UnsupportedModel(
            f"this GGUF file says pooling {pooling}, which needs the model's config.json beside it",
            hint="give the folder `edgeport export` wrote",
        )
    return EncoderSettings(pooling=_GGUF_POOLINGS[pooling], origin="the GGUF file")


def open_text_encoder(container: Container) -> TextEncoder:
    """A GGUF file carries its vocabulary, the others lie beside tokenizer.json."""
    if base_format(container.format) == "gguf":
        from edgeport.runtimes.llama_vocabulary import LlamaVocabulary

        return LlamaVocabulary(container.path)
    return EncoderTokenizer(container.folder)
