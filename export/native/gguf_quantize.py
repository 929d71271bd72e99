"""llama.cpp's own quantizer, called through its C interface in a process of its own.

Spec: `llama_model_quantize` in llama.h of the llama.cpp that llama-cpp-python 0.3.36 carries. It maps the source file,
works tensor by tensor and returns 1 for an exception, of which only its log tells; an assertion ends the process.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeport.errors import RuntimeFailure
from edgeport.lazy import missing_extra
from edgeport.progress import Progress, Stage
from edgeport.runtimes.isolation import run_isolated

_BUFFER_BYTES = 256 << 20
"""Rows of one tensor held in float32 beside their result; llama.cpp's default is 8 GiB."""
_LONGEST_VALUE_BYTES = 127
_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class QuantizeJob:
    """source, target: GGUF files; file_type: `llama_ftype`; imatrix: llama.cpp's file or None.

    metadata: keys to set in the target; text of at most 127 bytes or whole numbers. size_bytes: as forecast.
    """

    source: Path
    target: Path
    file_type: int
    size_bytes: int
    threads: int
    imatrix: Path | None = None
    metadata: Mapping[str, str | int] = field(default_factory=dict)


def quantize_file(job: QuantizeJob, *, title: str, progress: Progress) -> None:
    """Write `job.target` whole or not at all. Raises RuntimeFailure with llama.cpp's reason."""
    temporary = job.target.with_name(job.target.name + ".part")
    arguments = {
        "source": str(job.source),
        "target": str(temporary),
        "file_type": job.file_type,
        "threads": job.threads,
        "imatrix": None if job.imatrix is None else str(job.imatrix),
        "metadata": dict(job.metadata),
    }
    try:
        with progress.stage(title, total=job.size_bytes) as stage, _growth_of(temporary, stage):
            run_isolated(f"{__name__}:quantize_in_child", arguments, timeout_s=None)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    temporary.replace(job.target)


@contextmanager
def _growth_of(path: Path, stage: Stage) -> Iterator[None]:
    """Advance `stage` by the bytes written so far: the child tells nothing before it is done."""
    finished = threading.Event()

    def watch() -> None:
        while not finished.wait(_POLL_S):
            if path.exists():
                stage.advance(path.stat().st_size - stage.done)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        finished.set()
        watcher.join()


def quantize_in_child(
    source: str,
    target: str,
    file_type: int,
    threads: int,
    imatrix: str | None,
    metadata: Mapping[str, str | int],
) -> None:
    """In the child: one call of `llama_model_quantize`."""
    with missing_extra("gguf", purpose="llama.cpp's quantizer"):
        import llama_cpp.llama_cpp as native

    from edgeport.runtimes import llama_library

    llama_library.start()
    parameters = native.llama_model_quantize_default_params()
    parameters.ftype = file_type
    parameters.nthread = threads
    parameters.max_buf_size = _BUFFER_BYTES
    # The arrays must live until the call returns: the structure only holds their addresses.
    overrides = _overrides(native, metadata)
    parameters.kv_overrides = overrides
    if imatrix is not None:
        entries, _values = _importance(native, Path(imatrix))
        parameters.imatrix = entries
    status = native.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(parameters))
    if status != 0:
        raise RuntimeFailure(
            f"llama.cpp does not quantize {Path(source).name}: {llama_library.last_cause()}",
            hint="another scheme may work; see the log above",
        )


def _importance(native: Any, path: Path) -> tuple[Any, list[Any]]:
    """`llama_model_imatrix_data[]`, ended by an entry without a name, and the values it points to."""
    from edgeport.export.native.gguf_imatrix import read_imatrix

    means = read_imatrix(path)
    entries = (native.llama_model_imatrix_data * (len(means) + 1))()
    for entry, (name, values) in zip(entries, means.items(), strict=False):
        entry.name = name.encode()
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = values.size
    return entries, list(means.values())


def _overrides(native: Any, metadata: Mapping[str, str | int]) -> Any:
    """`llama_model_kv_override[]`, ended by an entry without a key."""
    entries = (native.llama_model_kv_override * (len(metadata) + 1))()
    for entry, (key, value) in zip(entries, metadata.items(), strict=False):
        entry.key = key.encode()
        if isinstance(value, int):
            entry.tag, entry.value.val_i64 = native.LLAMA_KV_OVERRIDE_TYPE_INT, value
        else:
            entry.tag = native.LLAMA_KV_OVERRIDE_TYPE_STR
            entry.value.val_str = value.encode()[:_LONGEST_VALUE_BYTES]
    return entries
