"""The readers of the bandwidth probe: real figures are in test_probe, here is which bytes they read."""

from __future__ import annotations

import threading
import time

import pytest

from edgeport.devices import bandwidth


@pytest.mark.parametrize(
    ("threads", "expected"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 8, 12])],
)
def test_thread_counts_double_up_to_the_last(threads: int, expected: list[int]) -> None:
    assert bandwidth._thread_counts(threads) == expected


def test_readers_stay_in_their_own_part_and_read_all_of_it() -> None:
    """Two readers of the same bytes would measure the cache."""
    address, size, threads = 10**6, 40 * 2**20, 3
    reads: dict[int, set[tuple[int, int]]] = {}

    def record(start: int, byte: int, length: int) -> None:
        reads.setdefault(threading.get_ident(), set()).add((start, start + length))
        time.sleep(0.001)  # as memchr does, let the other readers have the interpreter

    rate = bandwidth._run(record, address, size, threads, 0.3)
    assert rate > 0
    assert len(reads) == threads
    extents = sorted((min(a for a, _ in spans), max(b for _, b in spans)) for spans in reads.values())
    share = size // threads
    assert extents == [(address + index * share, address + (index + 1) * share) for index in range(threads)]


def test_a_system_without_memchr_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: object) -> None:
        raise OSError("no such library")

    monkeypatch.setattr(bandwidth.ctypes, "CDLL", refuse)
    with pytest.raises(bandwidth.EdgeportError, match="cannot be measured"):
        bandwidth.measure_memory_bandwidth(1, seconds=0.01)
