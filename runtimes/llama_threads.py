"""Worker threads of llama.cpp that outlive a call.

Built with OpenMP, llama.cpp uses that library's threads: they wait for work polling for some milliseconds and then sleep.
Built without it, each decode starts and joins its threads anew unless a pool is attached; ours polls between tokens.

OpenMP keeps one team for each thread that calls in, and when all teams together outnumber the processors it lets waiting
threads sleep at every barrier, dozens of times per token. One thread should therefore do all decoding of a process.
Spec: ggml_threadpool_params in ggml.h, llama_attach_threadpool in llama.h.
"""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp.llama_cpp as native

_MAX_THREADS = 512
_POLL = 50
"""ggml's own default of 0 (sleep at once) to 100."""
_DEVICE_TYPE_CPU = 0


class _Parameters(ctypes.Structure):
    _fields_ = (
        ("cpumask", ctypes.c_bool * _MAX_THREADS),
        ("n_threads", ctypes.c_int),
        ("prio", ctypes.c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", ctypes.c_bool),
        ("paused", ctypes.c_bool),
        ("reserve", ctypes.c_char * 1024),  # another version of the library may write more
    )


def uses_openmp() -> bool:
    return b"OPENMP = 1" in native.llama_print_system_info()


class ThreadPool:
    """Threads attached to one context. Free it after the context."""

    def __init__(self, pool: int) -> None:
        self._pool = pool

    def free(self) -> None:
        _function("ggml_threadpool_free", None, ctypes.c_void_p)(self._pool)


def attach_threads(context: Any, threads: int, *, spinning: bool) -> ThreadPool | None:
    """A pool of `threads` for both decoding and prompts; None where the library has threads of its own or needs none."""
    if threads < 2 or uses_openmp():
        return None
    parameters = _Parameters()
    native._lib.ggml_threadpool_params_init(ctypes.byref(parameters), ctypes.c_int(threads))
    if parameters.n_threads != threads:  # laid out otherwise in this version: better no pool than a wrong one
        return None
    parameters.poll = _POLL if spinning else 0
    pool = _function("ggml_threadpool_new", ctypes.c_void_p, ctypes.c_void_p)(ctypes.addressof(parameters))
    if not pool:
        return None
    attach = native._lib.llama_attach_threadpool
    attach.restype = None
    attach(ctypes.c_void_p(_address(context)), ctypes.c_void_p(pool), ctypes.c_void_p(pool))
    return ThreadPool(pool)


def _function(name: str, result: Any, *arguments: Any) -> Any:
    """A function of the CPU back end, which may be a library loaded by llama.cpp itself, by its registry."""
    library = native._lib
    library.ggml_backend_dev_by_type.restype = ctypes.c_void_p
    library.ggml_backend_dev_backend_reg.restype = ctypes.c_void_p
    library.ggml_backend_reg_get_proc_address.restype = ctypes.c_void_p
    device = library.ggml_backend_dev_by_type(ctypes.c_int(_DEVICE_TYPE_CPU))
    registry = library.ggml_backend_dev_backend_reg(ctypes.c_void_p(device))
    address = library.ggml_backend_reg_get_proc_address(ctypes.c_void_p(registry), name.encode())
    return ctypes.CFUNCTYPE(result, *arguments)(address)


def _address(context: Any) -> int:
    return int(context if isinstance(context, int) else ctypes.cast(context, ctypes.c_void_p).value or 0)
