"""Take a container's files out of the kernel's page cache, so that loading them is timed as after a reboot.

Needs no privilege: POSIX_FADV_DONTNEED drops clean pages of a file that nobody has mapped. Whether they are gone is asked, not
assumed: memory file systems keep them, and so does another process that has the file mapped. Asking by mincore reads nothing;
preadv2 with RWF_NOWAIT would start the kernel's read-ahead. Specs: posix_fadvise(2), mincore(2).
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

CACHED_SHARE = 0.02
PIECE_BYTES = 4 << 20


def drop_from_page_cache(files: Iterable[Path]) -> bool:
    """True when (nearly) nothing of the files is in memory any more; False where that cannot be done or asked."""
    paths = [path for path in files if path.stat().st_size]
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in paths:
        with path.open("rb") as stream:
            os.fsync(stream.fileno())  # dirty pages stay
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        return all(cached_share(path) <= CACHED_SHARE for path in paths)
    except OSError:
        return False


def read_into_page_cache(files: Iterable[Path]) -> None:
    """Read them once, so that what comes next does not wait for the disk."""
    piece = bytearray(PIECE_BYTES)
    for path in files:
        with path.open("rb", buffering=0) as stream:
            while stream.readinto(piece):
                pass


def cached_share(path: Path) -> float:
    """The share of a file's pages that are in memory. Raises OSError where the system does not tell."""
    size = path.stat().st_size
    pages = -(-size // mmap.PAGESIZE)
    resident = (ctypes.c_ubyte * pages)()
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY) as memory:
        anchor = ctypes.c_char.from_buffer(memory)
        try:
            status = ctypes.CDLL(None, use_errno=True).mincore(
                ctypes.c_void_p(ctypes.addressof(anchor)), ctypes.c_size_t(size), resident
            )
        except AttributeError as error:
            raise OSError("the C library has no mincore") from error
        finally:
            del anchor
    if status != 0:
        raise OSError(ctypes.get_errno(), "mincore failed")
    return sum(page & 1 for page in resident) / pages
