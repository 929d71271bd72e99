"""Profile files: TOML with units in the key names, read into a DeviceProfile and written back.

A file is refused with every mistake it holds at once: unknown keys with the nearest known one, wrong types, values
out of range, values that exclude each other. Reading what `dump_profile` wrote gives the same profile to the byte.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeport.devices.profile import (
    ARM_FLAGS,
    X86_FLAGS,
    Constraints,
    DeviceProfile,
    GpuPart,
    KernelRates,
    PublishedSpeed,
)
from edgeport.devices.profile_keys import (
    CONSTRAINT_KEYS,
    GPU_KEYS,
    KERNEL_KEYS,
    PROFILE_KEYS,
    PUBLISHED_KEYS,
    Key,
    check_value,
    convert_value,
    describe,
    nearest,
)
from edgeport.errors import UsageError

TABLES: Mapping[str, Mapping[str, Key]] = {"gpu": GPU_KEYS, "constraints": CONSTRAINT_KEYS}
LISTS: Mapping[str, Mapping[str, Key]] = {"kernels": KERNEL_KEYS, "published": PUBLISHED_KEYS}
Values = dict[str, Any]
Part = DeviceProfile | GpuPart | Constraints | KernelRates | PublishedSpeed


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
    plain = {key: value for key, value in document.items() if key not in TABLES and key not in LISTS}
    values = _read_table(plain, PROFILE_KEYS, "", problems)
    tables = {table: _read_part(document[table], table, problems) for table in TABLES if table in document}
    lists = {table: _read_list(document.get(table, []), table, problems) for table in LISTS}
    problems += _disagreements(values, tables.get("gpu"), lists)
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise UsageError(
            f"{source}: {count}\n" + "\n".join(f"  {problem}" for problem in problems),
            hint="docs/add-a-device.md lists every key with its unit",
        )
    return DeviceProfile(
        name=name,
        gpu=GpuPart(**tables["gpu"]) if "gpu" in tables else None,
        constraints=Constraints(**tables.get("constraints", {})),
        kernels=tuple(KernelRates(**row) for row in lists["kernels"]),
        published=tuple(PublishedSpeed(**row) for row in lists["published"]),
        **values,
    )


def dump_profile(profile: DeviceProfile) -> str:
    """The profile as TOML text that `read_profile` reads back to the same profile."""
    lines = _dump_table(profile, PROFILE_KEYS)
    if profile.gpu is not None:
        lines += ["", "[gpu]", *_dump_table(profile.gpu, GPU_KEYS)]
    if profile.constraints != Constraints():
        lines += ["", "[constraints]", *_dump_table(profile.constraints, CONSTRAINT_KEYS)]
    for rates in profile.kernels:
        lines += ["", "[[kernels]]", *_dump_table(rates, KERNEL_KEYS)]
    for speed in profile.published:
        lines += ["", "[[published]]", *_dump_table(speed, PUBLISHED_KEYS)]
    return "\n".join(lines) + "\n"


def _read_table(
    table: Mapping[str, Any], keys: Mapping[str, Key], prefix: str, problems: list[str]
) -> Values:
    """The fields of the keys that are sound; the others become problems."""
    values: Values = {}
    known = keys if prefix else (*keys, *TABLES, *LISTS)
    for name, value in table.items():
        if name not in keys:
            problems.append(f"{prefix}{name}: unknown key{nearest(name, tuple(known))}")
            continue
        problem = check_value(value, keys[name])
        if problem:
            problems.append(f"{prefix}{name}: {problem}")
        else:
            values[keys[name].field] = convert_value(value, keys[name])
    missing = [name for name, key in keys.items() if key.required and name not in table]
    problems.extend(f"{prefix}{name}: missing" for name in missing)
    return values


def _read_part(content: Any, table: str, problems: list[str]) -> Values:
    if not isinstance(content, Mapping):
        problems.append(f"{table}: expected a table [{table}], got {describe(content)}")
        return {}
    return _read_table(content, TABLES[table], f"{table}.", problems)


def _read_list(content: Any, table: str, problems: list[str]) -> list[Values]:
    """Rows count from 1 in messages."""
    if not isinstance(content, list) or not all(isinstance(row, Mapping) for row in content):
        problems.append(f"{table}: expected tables [[{table}]], got {describe(content)}")
        return []
    rows = enumerate(content, start=1)
    return [_read_table(row, LISTS[table], f"{table} {number}: ", problems) for number, row in rows]


def _disagreements(values: Values, gpu: Values | None, lists: Mapping[str, Sequence[Values]]) -> list[str]:
    """Values that are fine alone and impossible together; of those that could be read."""
    problems = _more_than(values, "usable_ram_bytes", "ram_bytes", ("usable_ram_gib", "ram_gib"))
    problems += _more_than(
        values,
        "sustained_bandwidth_bytes_per_s",
        "memory_bandwidth_bytes_per_s",
        ("sustained_bandwidth_gb_per_s", "memory_bandwidth_gb_per_s"),
    )
    flags = {"x86_64": X86_FLAGS, "aarch64": ARM_FLAGS}.get(values.get("architecture", ""))
    foreign = [flag for flag in values.get("isa", ()) if flags is not None and flag not in flags]
    if foreign:
        problems.append(f"isa: {', '.join(foreign)}: not of {values['architecture']}")
    if gpu is not None:
        problems += _gpu_disagreements(gpu, values)
    problems += _kernel_disagreements(lists["kernels"])
    return problems + _published_disagreements(lists["published"], has_gpu=gpu is not None)


def _more_than(values: Values, smaller: str, larger: str, keys: tuple[str, str]) -> list[str]:
    if smaller in values and larger in values and values[smaller] > values[larger]:
        return [f"{keys[0]}: is more than {keys[1]}"]
    return []


def _gpu_disagreements(gpu: Values, values: Values) -> list[str]:
    if not gpu.get("shares_ram"):
        return []
    problems = _more_than(
        {**values, **gpu}, "memory_bytes", "ram_bytes", ("gpu.memory_gib", "ram_gib, which the GPU shares")
    )
    if gpu.get("count", 1) != 1:
        problems.append(f"gpu.count: must be 1 for a GPU that shares RAM, got {gpu['count']}")
    return problems


def _kernel_disagreements(rows: Sequence[Values]) -> list[str]:
    seen: dict[tuple[Any, Any], int] = {}
    problems = []
    for number, row in enumerate(rows, start=1):
        first = seen.setdefault((row.get("engine"), row.get("bits")), number)
        if first != number and "engine" in row and "bits" in row:
            problems.append(
                f"kernels {number}: {row['engine']} with {row['bits']} bits is in kernels {first} already"
            )
    return problems


def _published_disagreements(rows: Sequence[Values], *, has_gpu: bool) -> list[str]:
    problems = []
    for number, row in enumerate(rows, start=1):
        if row.get("on_gpu") and not has_gpu:
            problems.append(f"published {number}: on_gpu: the file has no [gpu]")
        if "decode_tokens_per_s" not in row and "prefill_tokens_per_s" not in row:
            problems.append(f"published {number}: needs decode_tokens_per_s or prefill_tokens_per_s, or both")
    return problems


def _dump_table(part: Part, keys: Mapping[str, Key]) -> list[str]:
    defaults = {field.name: field.default for field in dataclasses.fields(part)}
    lines = []
    for name, key in keys.items():
        value = getattr(part, key.field)
        if not key.required and value == defaults[key.field]:
            continue
        if key.factor is not None:
            value = value / key.factor
            value = int(value) if value.is_integer() else value
        lines.append(
            f"{name} = {json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)}"
        )
    return lines
