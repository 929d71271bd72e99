"""What can be chosen about how an engine computes: one dataclass, and one table of who understands which field.

`edgeport tune` finds values by measurement; an embedding application may give its own. None leaves a field to the adapter.
Sources: llama.h and ggml.h of the llama.cpp in llama-cpp-python 0.3.36; onnxruntime_session_options_config_keys.h;
https://docs.openvino.ai (CPU device, supported properties).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from edgeport.errors import UsageError
from edgeport.manifest import base_format

CACHE_TYPES: Mapping[str, tuple[str, ...]] = {
    "gguf": ("f32", "f16", "bf16", "q8_0", "q4_0"),
    "openvino": ("f32", "f16", "bf16", "u8", "u4"),
}
"""Element types of the key-value cache each engine has. ONNX Runtime's is part of the graph."""
INFERENCE_PRECISIONS = ("f32", "bf16", "f16")
ARITHMETIC_FIELDS = (
    "key_cache",
    "value_cache",
    "cache_group_size",
    "flash_attention",
    "dynamic_quantization_group",
    "inference_precision",
)
"""Fields that change logits; an exact session leaves them out."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """None in every field means what the adapter takes by itself; a field an engine does not have is refused by `check`.

    threads: for one token at a time; prompt_threads: for prompts, where they differ (llama.cpp). SessionOptions.threads
        wins over both.
    spinning: waiting threads poll instead of sleeping (onnxruntime; llama.cpp built without OpenMP).
    pin_threads: threads stay on their cores (OpenVINO).
    key_cache, value_cache: element type, see CACHE_TYPES. cache_group_size: elements that share a scale, 0 is the whole head.
    flash_attention: attention in one fused pass (llama.cpp).
    full_window_cache: sliding-window layers keep the whole context (llama.cpp); without it a rewind may have to feed again.
    repack: weights rearranged for wide kernels at load (llama.cpp). memory_map: the file is mapped instead of read.
    lock_memory: the weights cannot be swapped out (llama.cpp).
    dynamic_quantization_group: activations in INT8 with a scale per this many, 0 is off (OpenVINO).
    inference_precision: of the activations (OpenVINO).
    prompt_chunk_tokens: tokens of a prompt computed at once; more is faster up to a point and takes more memory.
    """

    threads: int | None = None
    prompt_threads: int | None = None
    spinning: bool | None = None
    pin_threads: bool | None = None
    key_cache: str | None = None
    value_cache: str | None = None
    cache_group_size: int | None = None
    flash_attention: bool | None = None
    full_window_cache: bool | None = None
    repack: bool | None = None
    memory_map: bool | None = None
    lock_memory: bool | None = None
    dynamic_quantization_group: int | None = None
    inference_precision: str | None = None
    prompt_chunk_tokens: int | None = None

    def chosen(self) -> dict[str, Any]:
        """The fields that are not left to the adapter, in order."""
        values = ((item.name, getattr(self, item.name)) for item in fields(self))
        return {name: value for name, value in values if value is not None}

    def without_arithmetic(self) -> EngineSettings:
        """The same settings, as far as they leave logits alone."""
        return replace(self, **dict.fromkeys(ARITHMETIC_FIELDS))

    def __str__(self) -> str:
        return ", ".join(f"{name}={_text(value)}" for name, value in self.chosen().items()) or "defaults"


DEFAULT_SETTINGS = EngineSettings()

ENGINE_FIELDS: Mapping[str, frozenset[str]] = {
    "gguf": frozenset(
        (
            "threads",
            "prompt_threads",
            "spinning",
            "key_cache",
            "value_cache",
            "flash_attention",
            "full_window_cache",
            "repack",
            "memory_map",
            "lock_memory",
            "prompt_chunk_tokens",
        )
    ),
    "onnx": frozenset(("threads", "spinning", "prompt_chunk_tokens")),
    "openvino": frozenset(
        (
            "threads",
            "pin_threads",
            "key_cache",
            "value_cache",
            "cache_group_size",
            "memory_map",
            "dynamic_quantization_group",
            "inference_precision",
            "prompt_chunk_tokens",
        )
    ),
    "safetensors": frozenset(),
}
"""Format: what its engine lets one choose."""
_COUNTS = ("threads", "prompt_threads", "prompt_chunk_tokens")
_SIZES = ("cache_group_size", "dynamic_quantization_group")


def check_settings(settings: EngineSettings, format_name: str) -> EngineSettings:
    """`settings` when this format's engine can do all of it; raises UsageError with what it can otherwise."""
    engine = base_format(format_name)
    known = ENGINE_FIELDS.get(engine, frozenset())
    foreign = [name for name in settings.chosen() if name not in known]
    if foreign:
        raise UsageError(
            f"{foreign[0]} is not a setting of {engine}",
            hint=f"it has {', '.join(sorted(known)) or 'none'}",
        )
    for name in _COUNTS:
        _at_least(name, getattr(settings, name), 1)
    for name in _SIZES:
        _at_least(name, getattr(settings, name), 0)
    for name in ("key_cache", "value_cache"):
        _one_of(name, getattr(settings, name), CACHE_TYPES.get(engine, ()))
    _one_of("inference_precision", settings.inference_precision, INFERENCE_PRECISIONS)
    if (
        engine == "gguf"
        and (settings.value_cache or "").startswith("q")
        and settings.flash_attention is False
    ):
        raise UsageError(
            f"value_cache={settings.value_cache} needs flash attention in llama.cpp",
            hint="leave flash_attention out, or take value_cache=f16",
        )
    return settings


def settings_for(format_name: str, asked: EngineSettings | None, *, exact: bool) -> EngineSettings:
    """What an adapter applies: checked, and in an exact session without what changes logits."""
    settings = check_settings(asked or DEFAULT_SETTINGS, format_name)
    return settings.without_arithmetic() if exact else settings


def settings_from(document: Mapping[str, Any]) -> EngineSettings:
    """The inverse of `EngineSettings.chosen`. Raises UsageError for an unknown name or a value of another kind."""
    kinds = {item.name: str(item.type).partition(" ")[0] for item in fields(EngineSettings)}
    for name, value in document.items():
        if name not in kinds:
            raise UsageError(f"no setting is called {name!r}", hint=f"there is {', '.join(kinds)}")
        if type(value).__name__ != kinds[name]:
            raise UsageError(f"{name} is {value!r}", hint=f"it takes a value of type {kinds[name]}")
    return EngineSettings(**document)


def parse_settings(words: Iterable[str]) -> EngineSettings:
    """From `name=value` words of a command line: `threads=2 spinning=off key_cache=q8_0`."""
    document: dict[str, Any] = {}
    for word in words:
        name, sign, text = word.partition("=")
        if not sign:
            raise UsageError(f"a setting is name=value, not {word!r}", hint="for example spinning=off")
        document[name] = _value(text)
    return settings_from(document)


def _value(text: str) -> Any:
    switches = {"on": True, "true": True, "off": False, "false": False}
    if text in switches:
        return switches[text]
    return int(text) if text.isdecimal() else text


def _text(value: Any) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def _at_least(name: str, value: int | None, lowest: int) -> None:
    if value is not None and value < lowest:
        raise UsageError(f"{name} is {value}", hint=f"it must be at least {lowest}")


def _one_of(name: str, value: str | None, allowed: tuple[str, ...]) -> None:
    if value is not None and value not in allowed:
        raise UsageError(f"{name} is {value!r}", hint=f"it can be {', '.join(allowed)}")
