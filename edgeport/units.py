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
