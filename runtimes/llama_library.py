"""llama.cpp's C interface through llama-cpp-python's ctypes bindings: load a file, keep the log, name the failure.

The library writes to stderr and has one log callback per process. Ours keeps the last lines, because on failure the calls
return a null pointer and only the log says why. A file it asserts on ends the process: open unknown files in a child
(edgeport.runtimes.isolation) first.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as native

from edgeport.errors import ArtifactError, RuntimeFailure

_MAGIC = b"GGUF"
_LOG_LINES_KEPT = 40
_ECHO = os.environ.get("EDGEPORT_ENGINE_LOG") == "1"
"""Also write the log to stderr: for a child process that may die with it."""
_WORDS_OF_A_CAUSE = ("error", "fail", "unknown", "invalid", "wrong", "missing", "not within")
_LEVEL_DEBUG = 1
_LOAD_MODES = {
    (False, False): native.LLAMA_LOAD_MODE_NONE,
    (True, False): native.LLAMA_LOAD_MODE_MMAP,
    (False, True): native.LLAMA_LOAD_MODE_MLOCK,
    (True, True): native.LLAMA_LOAD_MODE_MMAP_MLOCK,
}
"""(mapped, locked)."""
_log: deque[str] = deque(maxlen=_LOG_LINES_KEPT)


@native.llama_log_callback  # type: ignore[untyped-decorator]
def _keep(level: int, text: bytes, _user_data: Any) -> None:
    line = text.decode("utf-8", "replace").rstrip()
    if not line.strip("."):
        return
    if level != _LEVEL_DEBUG:  # these name every tensor of the graph, and would push out what says why
        _log.append(line)
    if _ECHO:
        os.write(2, f"{line}\n".encode())


def start() -> None:
    """Quiet the library and initialise it; cheap to repeat."""
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # an abort would start gdb to print one
    native.llama_log_set(_keep, ctypes.c_void_p(0))
    native.llama_backend_init()


def find_file(path: Path) -> Path:
    """The .gguf file of a container folder, or `path` itself. A split model opens through its first part."""
    if path.is_file():
        return path
    files = sorted(
        item for item in path.glob("*.gguf") if "-of-" not in item.name or "-00001-of-" in item.name
    )
    if len(files) != 1:
        found = ", ".join(item.name for item in files) or "none"
        raise ArtifactError(f"expected one .gguf in {path}, found {found}", hint="name the file itself")
    return files[0]


def load_model(
    file: Path,
    *,
    vocabulary_only: bool = False,
    repack: bool = True,
    memory_map: bool | None = None,
    lock_memory: bool = False,
) -> Any:
    """A llama_model pointer. Raises ArtifactError for what is not GGUF and RuntimeFailure for what llama.cpp refuses.

    Weights are read into memory and not mapped: kernels for Q4_0 and Q4_K keep a rearranged copy of them, and a mapped
    file would then stay beside it (measured: 616 MiB instead of 428 for a 0.5B model). `repack=False` maps the file, and
    so does `memory_map=True`. lock_memory: the kernel may not swap the weights out (RLIMIT_MEMLOCK permitting).
    """
    start()
    with file.open("rb") as stream:
        if stream.read(4) != _MAGIC:
            raise ArtifactError(f"{file} is not a GGUF file: it does not begin with 'GGUF'")
    parameters = native.llama_model_default_params()
    parameters.n_gpu_layers = 0
    parameters.vocab_only = vocabulary_only
    parameters.use_extra_bufts = repack
    mapped = not repack if memory_map is None else memory_map
    parameters.load_mode = _LOAD_MODES[mapped, lock_memory]
    _log.clear()
    model = native.llama_model_load_from_file(str(file).encode(), parameters)
    if not model:
        raise RuntimeFailure(f"llama.cpp cannot open {file}: {last_cause()}")
    return model


def last_cause() -> str:
    """The line of the log that says what went wrong, as far as one can tell."""
    telling = [line for line in _log if any(word in line.lower() for word in _WORDS_OF_A_CAUSE)]
    lines = telling or list(_log)[-1:]
    return lines[0] if lines else "it gives no reason"


def metadata(model: Any, key: str) -> str | None:
    """One scalar of the file's metadata as text; arrays cannot be read this way."""
    size = native.llama_model_meta_val_str(model, key.encode(), b"", 0)
    if size < 0:
        return None
    buffer = ctypes.create_string_buffer(size + 1)
    native.llama_model_meta_val_str(model, key.encode(), buffer, size + 1)
    return buffer.value.decode("utf-8", "replace")
