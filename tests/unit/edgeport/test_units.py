"""Quantities: a GiB is 2**30 bytes, a GB is 10**9, and what is printed can be read back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeport.errors import UsageError
from edgeport.units import (
    format_bytes,
    format_count,
    format_seconds,
    parse_bytes,
    parse_seconds,
    parse_share,
)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("123", 123),
        ("4 GiB", 4 << 30),
        ("300MB", 300_000_000),
        ("1.5GiB", 3 << 29),
        ("7kib", 7168),
        ("2 TB", 2 * 10**12),
    ],
)
def test_parse_bytes(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GiB", "-1", "4 GiBi", "4 G", "1,5 GB", "1e9"])
def test_parse_bytes_refuses(text: str) -> None:
    with pytest.raises(UsageError, match="not a size"):
        parse_bytes(text)


@given(st.integers(min_value=0, max_value=2**50))
def test_printed_bytes_read_back_within_three_digits(count: int) -> None:
    assert parse_bytes(format_bytes(count)) == pytest.approx(count, rel=0.006, abs=0.6)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1023 * 1024, "1023 KiB"),
        (1570 << 20, "1.53 GiB"),
        (1023700, "1000 KiB"),
    ],
)
def test_format_bytes(count: int, text: str) -> None:
    assert format_bytes(count) == text


def test_format_count_and_seconds() -> None:
    assert [format_count(n) for n in (12, 5_900_000, 494_000_000, 999_900_000, 1_240_000_000)] == [
        "12",
        "5.9M",
        "494M",
        "1000M",
        "1.24B",
    ]
    assert [format_seconds(s) for s in (0.85, 12.34, 200)] == ["850 ms", "12.3 s", "3 min 20 s"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30m", 1800),
        ("1h30m", 5400),
        ("90", 90),
        ("45 s", 45),
        ("1.5h", 5400),
        ("2 min", 120),
        ("1h 5s", 3605),
    ],
)
def test_parse_seconds(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-5m", "5 fortnights", "0", "0s", "1h30", "5m,"])
def test_parse_seconds_refuses(text: str) -> None:
    with pytest.raises(UsageError, match="not a duration"):
        parse_seconds(text)


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("0.05", 0.05), ("0%", 0), ("100 %", 1), ("0", 0)])
def test_parse_share(text: str, share: float) -> None:
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "5", "1", "%", "-1%", "101%", "5 percent"])
def test_parse_share_refuses(text: str) -> None:
    with pytest.raises(UsageError, match="not a share"):
        parse_share(text)
