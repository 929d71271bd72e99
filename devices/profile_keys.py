"""The keys of profile files: each TOML key with the field it fills, its unit, and what values it takes."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgeport.devices.profile import ARCHITECTURES, ENGINE_FORMATS, FORMATS, ISA_FLAGS, KINDS
from edgeport.devices.tiers import TIER_NAMES

GIB = 2**30
MIB = 2**20
GIGA = 10**9
TERA = 10**12
Value = Literal["text", "count", "amount", "duration", "share", "texts", "flag"]


@dataclass(frozen=True, slots=True)
class Key:
    """One TOML key: the field it fills, and the factor from its unit to bytes (or whatever the field counts)."""

    field: str
    value: Value
    required: bool = True
    factor: int | None = None
    allowed: tuple[Any, ...] = ()


PROFILE_KEYS: Mapping[str, Key] = {
    "kind": Key("kind", "text", allowed=KINDS),
    "tier": Key("tier", "text", allowed=TIER_NAMES),
    "description": Key("description", "text"),
    "ram_gib": Key("ram_bytes", "amount", factor=GIB),
    "usable_ram_gib": Key("usable_ram_bytes", "amount", factor=GIB),
    "memory_bandwidth_gb_per_s": Key("memory_bandwidth_bytes_per_s", "amount", factor=GIGA),
    "sustained_bandwidth_gb_per_s": Key("sustained_bandwidth_bytes_per_s", "amount", False, factor=GIGA),
    "last_level_cache_mib": Key("last_level_cache_bytes", "amount", False, factor=MIB),
    "architecture": Key("architecture", "text", False, allowed=ARCHITECTURES),
    "cores": Key("cores", "count"),
    "isa": Key("isa", "texts", False, allowed=ISA_FLAGS),
    "int8_tops": Key("int8_ops_per_s", "amount", False, factor=TERA),
    "power_watts": Key("power_watts", "amount", False),
    "engines": Key("engines", "texts", allowed=tuple(ENGINE_FORMATS)),
    "formats": Key("formats", "texts", allowed=FORMATS),
    "recipe": Key("recipe", "text"),
    "context_length": Key("context_length", "count"),
}
GPU_KEYS: Mapping[str, Key] = {
    "name": Key("name", "text"),
    "count": Key("count", "count"),
    "memory_gib": Key("memory_bytes", "amount", factor=GIB),
    "memory_bandwidth_gb_per_s": Key("memory_bandwidth_bytes_per_s", "amount", factor=GIGA),
    "shares_ram": Key("shares_ram", "flag", False),
    "usable_share": Key("usable_share", "share", False),
    "interconnect": Key("interconnect", "text", False),
    "interconnect_gb_per_s": Key("interconnect_bytes_per_s", "amount", False, factor=GIGA),
    "fp16_tflops": Key("fp16_flops_per_s", "amount", False, factor=TERA),
    "int8_tops": Key("int8_ops_per_s", "amount", False, factor=TERA),
}
CONSTRAINT_KEYS: Mapping[str, Key] = {
    "symmetric_only": Key("symmetric_only", "flag", False),
    "positive_scales": Key("positive_scales", "flag", False),
    "block": Key("block", "count", False, allowed=(32, 64, 128)),
}
KERNEL_KEYS: Mapping[str, Key] = {
    "engine": Key("engine", "text", allowed=tuple(ENGINE_FORMATS)),
    "bits": Key("bits", "count", allowed=(4, 8, 16)),
    "decode_bandwidth_gb_per_s": Key("decode_bandwidth_bytes_per_s", "amount", factor=GIGA),
    "seconds_per_layer": Key("seconds_per_layer", "duration", False),
    "seconds_per_token": Key("seconds_per_token", "duration", False),
    "prefill_tops": Key("prefill_ops_per_s", "amount", False, factor=TERA),
    "cache_bandwidth_gb_per_s": Key("cache_bandwidth_bytes_per_s", "amount", False, factor=GIGA),
    "attention_tops": Key("attention_ops_per_s", "amount", False, factor=TERA),
    "decode_attention_tops": Key("decode_attention_ops_per_s", "amount", False, factor=TERA),
    "source": Key("source", "text", False),
}
PUBLISHED_KEYS: Mapping[str, Key] = {
    "model": Key("model", "text"),
    "engine": Key("engine", "text", allowed=tuple(ENGINE_FORMATS)),
    "scheme": Key("scheme", "text"),
    "decode_tokens_per_s": Key("decode_tokens_per_s", "amount", False),
    "prefill_tokens_per_s": Key("prefill_tokens_per_s", "amount", False),
    "on_gpu": Key("on_gpu", "flag", False),
    "used": Key("used", "flag", False),
    "note": Key("note", "text", False),
    "source": Key("source", "text"),
}


def check_value(value: Any, key: Key) -> str | None:
    """What is wrong with a value, or None."""
    if key.value == "flag":
        return None if isinstance(value, bool) else f"expected true or false, got {describe(value)}"
    if key.value == "text":
        if not isinstance(value, str):
            return f"expected text, got {describe(value)}"
        return _not_allowed(value, key.allowed) if value.strip() else "must not be empty"
    if key.value == "texts":
        return _check_texts(value, key)
    return _check_number(value, key)


def convert_value(value: Any, key: Key) -> Any:
    """A checked value in the field's unit."""
    if key.value == "texts":
        return tuple(value)
    if key.value in ("amount", "duration", "share"):
        return float(value) if key.factor is None else round(value * key.factor)
    return value


def _check_number(value: Any, key: Key) -> str | None:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if key.value == "count":
        if not is_whole:
            return f"expected a whole number, got {describe(value)}"
        return _not_allowed(value, key.allowed) if value > 0 else f"must be at least 1, got {value}"
    if not is_whole and not isinstance(value, float):
        return f"expected a number, got {describe(value)}"
    if key.value == "share":
        return None if 0 < value <= 1 else f"must be greater than 0 and at most 1, got {value}"
    if key.value == "duration":
        return None if 0 <= value < 1 else f"must be from 0 to 1 second, got {value}"
    return None if 0 < value < 10**9 else f"must be greater than 0 and finite, got {value}"


def _check_texts(value: Any, key: Key) -> str | None:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        return f"expected a list of texts, got {describe(value)}"
    if key.required and not value:
        return "must not be empty"
    if len(set(value)) < len(value):
        return f"holds a value twice: {', '.join(value)}"
    return next((problem for item in value if (problem := _not_allowed(item, key.allowed))), None)


def _not_allowed(value: Any, allowed: Sequence[Any]) -> str | None:
    if not allowed or value in allowed:
        return None
    names = tuple(map(str, allowed))
    return f"unknown value {value!r}{nearest(str(value), names)}; allowed: {', '.join(names)}"


def nearest(name: str, known: Sequence[str]) -> str:
    """`, did you mean 'x'?` for the closest known name, or nothing when none is close."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f", did you mean '{close[0]}'?" if close else ""


def describe(value: Any) -> str:
    """A TOML value with its type in words."""
    names = {
        bool: "true/false",
        int: "a whole number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "a table",
    }
    return f"{names.get(type(value), type(value).__name__)} ({value!r})"
