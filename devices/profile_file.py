"""Profile files: TOML with units in the key names, read into a DeviceProfile and written back.

A file is refused with every mistake it holds at once: unknown keys with the nearest known one, wrong types, values
out of range. Reading what `dump_profile` wrote gives the same profile to the byte.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgeport.devices.profile import (
    ARCHITECTURES,
    ENGINE_FORMATS,
    FORMATS,
    ISA_FLAGS,
    Constraints,
    DeviceProfile,
    GpuPart,
)
from edgeport.devices.tiers import TIER_NAMES
from edgeport.errors import UsageError

GIB = 2**30
MIB = 2**20
Value = Literal["text", "count", "amount", "texts", "flag"]


@dataclass(frozen=True, slots=True)
class Key:
    """One TOML key: the field it fills, and the factor from its unit to bytes (or whatever the field counts)."""

    field: str
    value: Value
    required: bool = True
    factor: int | None = None
    allowed: tuple[Any, ...] = ()


PROFILE_KEYS: Mapping[str, Key] = {
    "tier": Key("tier", "text", allowed=TIER_NAMES),
    "description": Key("description", "text"),
    "ram_gib": Key("ram_bytes", "amount", factor=GIB),
    "usable_ram_gib": Key("usable_ram_bytes", "amount", factor=GIB),
    "memory_bandwidth_gb_per_s": Key("memory_bandwidth_bytes_per_s", "amount", factor=10**9),
    "sustained_bandwidth_gb_per_s": Key("sustained_bandwidth_bytes_per_s", "amount", False, factor=10**9),
    "last_level_cache_mib": Key("last_level_cache_bytes", "amount", False, factor=MIB),
    "architecture": Key("architecture", "text", False, allowed=ARCHITECTURES),
    "cores": Key("cores", "count"),
    "isa": Key("isa", "texts", False, allowed=ISA_FLAGS),
    "int8_tops": Key("int8_ops_per_s", "amount", False, factor=10**12),
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
    "memory_bandwidth_gb_per_s": Key("memory_bandwidth_bytes_per_s", "amount", factor=10**9),
    "interconnect": Key("interconnect", "text", False),
    "interconnect_gb_per_s": Key("interconnect_bytes_per_s", "amount", False, factor=10**9),
    "fp16_tflops": Key("fp16_flops_per_s", "amount", False, factor=10**12),
    "int8_tops": Key("int8_ops_per_s", "amount", False, factor=10**12),
}
CONSTRAINT_KEYS: Mapping[str, Key] = {
    "symmetric_only": Key("symmetric_only", "flag", False),
    "positive_scales": Key("positive_scales", "flag", False),
    "block": Key("block", "count", False, allowed=(32, 64, 128)),
}
TABLES: Mapping[str, Mapping[str, Key]] = {"gpu": GPU_KEYS, "constraints": CONSTRAINT_KEYS}


def read_profile(path: Path) -> DeviceProfile:
    """Read one profile; the file's stem is the device's name. Raises UsageError with all problems of the file."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(
            f"{path} is not TOML: {error}", hint="text values need quotes, lists need [ ]"
        ) from error
    return parse_profile(document, name=path.stem, source=str(path))


def parse_profile(document: Mapping[str, Any], *, name: str, source: str) -> DeviceProfile:
    """The profile a TOML document describes. Raises UsageError naming `source`, with one line per problem."""
    problems: list[str] = []
    plain = {key: value for key, value in document.items() if key not in TABLES}
    values = _read_table(plain, PROFILE_KEYS, "", problems)
    parts: dict[str, Mapping[str, Any]] = {}
    for table, keys in TABLES.items():
        content = document.get(table, {})
        if not isinstance(content, Mapping):
            problems.append(f"{table}: expected a table [{table}], got {_kind(content)}")
        elif table in document:
            parts[table] = _read_table(content, keys, f"{table}.", problems)
    if not problems:
        problems.extend(_disagreements(values))
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise UsageError(
            f"{source}: {count}\n" + "\n".join(f"  {problem}" for problem in problems),
            hint="docs/add-a-device.md lists every key with its unit",
        )
    gpu = GpuPart(**parts["gpu"]) if "gpu" in parts else None
    constraints = Constraints(**parts.get("constraints", {}))
    return DeviceProfile(name=name, gpu=gpu, constraints=constraints, **values)


def dump_profile(profile: DeviceProfile) -> str:
    """The profile as TOML text that `read_profile` reads back to the same profile."""
    lines = _dump_table(profile, PROFILE_KEYS)
    if profile.gpu is not None:
        lines += ["", "[gpu]", *_dump_table(profile.gpu, GPU_KEYS)]
    if profile.constraints != Constraints():
        lines += ["", "[constraints]", *_dump_table(profile.constraints, CONSTRAINT_KEYS)]
    return "\n".join(lines) + "\n"


def _read_table(
    table: Mapping[str, Any], keys: Mapping[str, Key], prefix: str, problems: list[str]
) -> dict[str, Any]:
    values = {}
    for name, value in table.items():
        if name not in keys:
            problems.append(
                f"{prefix}{name}: unknown key{nearest(name, (*keys, *(() if prefix else TABLES)))}"
            )
            continue
        problem = _problem(value, keys[name])
        if problem:
            problems.append(f"{prefix}{name}: {problem}")
        else:
            values[keys[name].field] = _convert(value, keys[name])
    missing = [name for name, key in keys.items() if key.required and name not in table]
    problems.extend(f"{prefix}{name}: missing" for name in missing)
    return values


def _problem(value: Any, key: Key) -> str | None:
    """What is wrong with a value, or None."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if key.value == "flag":
        return None if isinstance(value, bool) else f"expected true or false, got {_kind(value)}"
    if key.value == "amount":
        if not is_number:
            return f"expected a number, got {_kind(value)}"
        return None if 0 < value < 10**9 else f"must be greater than 0 and finite, got {value}"
    if key.value == "count":
        if not is_number or isinstance(value, float):
            return f"expected a whole number, got {_kind(value)}"
        return _not_allowed(value, key.allowed) if value > 0 else f"must be at least 1, got {value}"
    if key.value == "text":
        if not isinstance(value, str):
            return f"expected text, got {_kind(value)}"
        return _not_allowed(value, key.allowed) if value.strip() else "must not be empty"
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        return f"expected a list of texts, got {_kind(value)}"
    if key.required and not value:
        return "must not be empty"
    if len(set(value)) < len(value):
        return f"holds a value twice: {', '.join(value)}"
    return next((problem for item in value if (problem := _not_allowed(item, key.allowed))), None)


def _not_allowed(value: Any, allowed: Sequence[Any]) -> str | None:
    if not allowed or value in allowed:
        return None
    return f"unknown value {value!r}{nearest(str(value), tuple(map(str, allowed)))}; allowed: {', '.join(map(str, allowed))}"


def _convert(value: Any, key: Key) -> Any:
    if key.value == "texts":
        return tuple(value)
    if key.value == "amount":
        return float(value) if key.factor is None else round(value * key.factor)
    return value


def _disagreements(values: Mapping[str, Any]) -> list[str]:
    """Values that are fine alone and impossible together."""
    problems = []
    if values["usable_ram_bytes"] > values["ram_bytes"]:
        problems.append("usable_ram_gib: is more than ram_gib")
    sustained = values.get("sustained_bandwidth_bytes_per_s")
    if sustained is not None and sustained > values["memory_bandwidth_bytes_per_s"]:
        problems.append("sustained_bandwidth_gb_per_s: is more than memory_bandwidth_gb_per_s")
    return problems


def nearest(name: str, known: Sequence[str]) -> str:
    """`, did you mean 'x'?` for the closest known name, or nothing when none is close."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f", did you mean '{close[0]}'?" if close else ""


def _kind(value: Any) -> str:
    names = {
        bool: "true/false",
        int: "a whole number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "a table",
    }
    return f"{names.get(type(value), type(value).__name__)} ({value!r})"


def _dump_table(part: DeviceProfile | GpuPart | Constraints, keys: Mapping[str, Key]) -> list[str]:
    lines = []
    for name, key in keys.items():
        value = getattr(part, key.field)
        if value is None or value is False or value == ():
            continue
        if key.factor is not None:
            value = value / key.factor
            value = int(value) if value.is_integer() else value
        lines.append(
            f"{name} = {json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)}"
        )
    return lines
