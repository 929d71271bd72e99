"""Parse and print quantities. A GiB is 2**30 bytes and a GB is 10**9, here and everywhere."""

from __future__ import annotations

import re

from edgeport.errors import UsageError

_BYTE_UNITS = {
    "": 1, "B": 1,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip


def parse_bytes(text: str) -> int:
    """`"4 GiB"`, `"300MB"`, `"1.5GiB"`, `"123"` -> bytes. Raises UsageError for anything else."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    unit = match.group(2).upper() if match else ""
    if match is None or unit not in _BYTE_UNITS:
        raise UsageError(
            f"not a size: {text!r}", hint="write a number with B, KB, MB, GB, KiB, MiB or GiB: 300MB, 4GiB"
        )
    return int(float(match.group(1)) * _BYTE_UNITS[unit])


_DURATION_UNITS = {"": 1.0, "S": 1.0, "MIN": 60.0, "M": 60.0, "H": 3600.0, "D": 86400.0}


def parse_seconds(text: str) -> float:
    """`"30m"`, `"1h30m"`, `"45 s"`, `"90"` -> seconds. Raises UsageError for anything else, and for zero."""
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)", text)
    whole = re.fullmatch(r"\s*(?:[0-9]+(?:\.[0-9]+)?\s*[A-Za-z]*\s*)+", text)
    known = all(unit.upper() in _DURATION_UNITS for _, unit in parts)
    total = sum(float(number) * _DURATION_UNITS[unit.upper()] for number, unit in parts) if known else 0.0
    if whole is None or not known or total <= 0 or (len(parts) > 1 and not all(unit for _, unit in parts)):
        raise UsageError(f"not a duration: {text!r}", hint="write a number with s, m or h: 90s, 30m, 1h30m")
    return total


def parse_share(text: str) -> float:
    """`"5%"` and `"0.05"` -> 0.05. Raises UsageError for anything else: a bare `5` could mean either."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(%?)\s*", text)
    value = float(match.group(1)) / (100 if match.group(2) else 1) if match else -1.0
    if not 0 <= value <= 1 or (value == 1 and match is not None and not match.group(2)):
        raise UsageError(f"not a share: {text!r}", hint="write percent, or a fraction below one: 5%, 0.05")
    return value


def format_bytes(count: float) -> str:
    """Bytes with a binary unit and three significant digits: `1.46 GiB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{_three_digits(size)} {unit}"
        size /= 1024
    return f"{_three_digits(size)} TiB"


def format_count(count: float) -> str:
    """Parameters and tokens the way the field writes them: `494M`, `1.24B`."""
    for limit, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if abs(count) >= limit:
            return f"{_three_digits(count / limit)}{unit}"
    return f"{count:.0f}"


def _three_digits(value: float) -> str:
    """`1.46`, `494`, `1012`: never an exponent, which `:.3g` alone gives from 999.5 on."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def format_seconds(seconds: float) -> str:
    """`850 ms`, `12.3 s`, `3 min 20 s`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"
