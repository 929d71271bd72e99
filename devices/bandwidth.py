"""How fast this machine reads memory, with the standard library alone.

Decoding reads every weight once per token and writes almost nothing, so the figure that predicts it is read bandwidth,
not the copy bandwidth of memcpy. The C library's memchr, searching for a byte that is not there, reads at full speed;
ctypes releases the interpreter lock around it, so that threads really run side by side.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeport.errors import EdgeportError

SMALLEST_BUFFER_BYTES = 256 * 2**20
Memchr = Callable[[int, int, int], object]
PIECE_BYTES = 4 * 2**20
"""One memchr call: long enough to hide the cost of the call, short enough to stop in time."""


@dataclass(frozen=True, slots=True)
class BandwidthPoint:
    threads: int
    read_bytes_per_s: int


@dataclass(frozen=True, slots=True)
class MemoryBandwidth:
    """The best of several runs for each thread count, and the best of those."""

    read_bytes_per_s: int
    threads: int
    points: tuple[BandwidthPoint, ...]
    buffer_bytes: int


def measure_memory_bandwidth(
    threads: int, *, seconds: float = 1.0, last_level_cache_bytes: int = 0, available_bytes: int | None = None
) -> MemoryBandwidth:
    """Read a buffer much larger than the caches with 1, 2, 4 … `threads` threads, about `seconds` in all.

    The buffer is four times the last-level cache (at least 256 MiB), but never more than a quarter of `available_bytes`.
    """
    size = max(SMALLEST_BUFFER_BYTES, 4 * last_level_cache_bytes)
    if available_bytes is not None:
        size = max(PIECE_BYTES * threads, min(size, available_bytes // 4))
    memchr = _memchr()
    counts = _thread_counts(threads)
    with mmap.mmap(-1, size) as memory:
        anchor = ctypes.c_char.from_buffer(memory)
        address = ctypes.addressof(anchor)
        try:
            # Untouched pages are all the same physical zero page, which would be read from cache.
            ctypes.memset(address, 1, size)
            points = []
            for count in counts:
                best = max(
                    _run(memchr, address, size, count, seconds / len(counts) / 3) for _repeat in range(3)
                )
                points.append(BandwidthPoint(count, round(best)))
        finally:
            del anchor
    top = max(points, key=lambda point: point.read_bytes_per_s)
    return MemoryBandwidth(top.read_bytes_per_s, top.threads, tuple(points), size)


def _thread_counts(threads: int) -> Sequence[int]:
    counts = [1]
    while counts[-1] * 2 < threads:
        counts.append(counts[-1] * 2)
    return counts if threads == 1 else [*counts, threads]


def _run(memchr: Memchr, address: int, size: int, threads: int, seconds: float) -> float:
    """Bytes per second of `threads` readers, each going round in its own part of the buffer."""
    read_bytes = [0] * threads
    share = size // threads
    barrier = threading.Barrier(threads + 1)
    deadline = [0.0]

    def reader(index: int) -> None:
        start = address + index * share
        offset = 0
        barrier.wait()
        while time.perf_counter() < deadline[0]:
            length = min(PIECE_BYTES, share - offset)
            memchr(start + offset, 2, length)
            read_bytes[index] += length
            offset = (offset + length) % share

    workers = [threading.Thread(target=reader, args=(index,), daemon=True) for index in range(threads)]
    for worker in workers:
        worker.start()
    began = time.perf_counter()
    deadline[0] = began + seconds
    barrier.wait()
    for worker in workers:
        worker.join()
    return sum(read_bytes) / (time.perf_counter() - began)


def _memchr() -> Memchr:
    try:
        function = ctypes.CDLL(None).memchr
    except (OSError, TypeError, AttributeError) as error:
        raise EdgeportError(
            "the memory bandwidth of this system cannot be measured: its C library has no memchr that can be called",
            hint="write a profile by hand: docs/add-a-device.md",
        ) from error
    function.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
    function.restype = ctypes.c_void_p
    return function
