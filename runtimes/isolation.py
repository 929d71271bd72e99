"""Run one function in a fresh Python process, so that an engine that aborts cannot take the caller with it.

Engines are native code: a failed assertion in llama.cpp or an out-of-memory kill ends the whole process. `run_isolated`
starts `python -m edgeport.runtimes.isolation`, hands over JSON and returns JSON. Whatever goes wrong in the child comes
back as an EdgeportError: its own one unchanged, anything else as RuntimeFailure with the last lines the engine wrote.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import edgeport.errors
from edgeport.errors import EdgeportError, RuntimeFailure
from edgeport.runtimes.confinement import ConfinedChild, Confinement, confined

STDERR_LINES_KEPT = 12


def run_isolated(
    target: str,
    arguments: Mapping[str, Any],
    *,
    timeout_s: float | None = 600.0,
    environment: Mapping[str, str] | None = None,
    confinement: Confinement | None = None,
    own_streams: bool = True,
) -> Any:
    """Call `package.module:function` with keyword `arguments` (JSON values) in a new process; return its JSON result.

    confinement: processors and memory it may use. own_streams: what it prints is kept for the error message; False leaves
    it the caller's stdin, stdout and stderr.
    Raises RuntimeFailure when the child crashes, runs past `timeout_s`, raises, or returns what JSON cannot hold; DoesNotFit
    when it was ended by the confinement; an EdgeportError raised in the child is raised here with the same type, message
    and hint.
    """
    with (
        tempfile.TemporaryDirectory(prefix="edgeport-isolated-") as folder,
        confined(confinement) if confinement else nullcontext() as limits,
    ):
        request, result, log = (Path(folder) / name for name in ("request.json", "result.json", "stderr.txt"))
        request.write_text(json.dumps({"target": target, "arguments": dict(arguments)}), encoding="utf-8")
        log.touch()
        command = [sys.executable, "-m", "edgeport.runtimes.isolation", str(request), str(result)]
        extra = child_environment(environment or {})
        try:
            return_code = _run(command, limits, log if own_streams else None, extra, timeout_s)
        except subprocess.TimeoutExpired as error:
            message = f"{target} did not finish within {timeout_s:g} s in its own process"
            raise RuntimeFailure(
                message + log_tail(log), hint="allow more time or use a smaller input"
            ) from error
        if limits is not None:
            limits.check()
        return _read_result(target, return_code, result, log)


def _run(
    command: Sequence[str],
    limits: ConfinedChild | None,
    log: Path | None,
    environment: Mapping[str, str],
    timeout_s: float | None,
) -> int:
    """The exit code. `log` None leaves the child the caller's streams."""
    with log.open("wb") if log else nullcontext() as stream:
        # stdout goes to the log too: engines print there, and the caller's stdout is its result
        process = subprocess.Popen(
            limits.command(command) if limits else command,
            stdin=subprocess.DEVNULL if log else None,
            stdout=stream,
            stderr=subprocess.STDOUT if log else None,
            env=environment,
        )
        with process, limits.watching(process) if limits else nullcontext():
            try:
                return process.wait(timeout_s)
            except BaseException:  # a timeout or an interrupt: no engine is left behind
                process.kill()
                raise


def child_environment(extra: Mapping[str, str]) -> dict[str, str]:
    # the child sees the parent's module path in the same order, so that it imports the same edgeport;
    # without GGML_NO_BACKTRACE an aborting llama.cpp starts gdb
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    return {**os.environ, "PYTHONPATH": path, "GGML_NO_BACKTRACE": "1", **extra}


def _read_result(target: str, return_code: int, result: Path, log: Path) -> Any:
    if not result.exists():
        raise RuntimeFailure(f"{target} {how_it_ended(return_code)}{log_tail(log)}")
    document = json.loads(result.read_text(encoding="utf-8"))
    if "error" not in document:
        return document["value"]
    raise error_of(target, document["error"], log)


def error_of(target: str, error: Mapping[str, Any], log: Path) -> EdgeportError:
    """What a child told of its error, as the exception it was; one that is not ours becomes a RuntimeFailure."""
    kind = getattr(edgeport.errors, error["type"], None)
    if isinstance(kind, type) and issubclass(kind, EdgeportError):
        return kind(error["message"], hint=error["hint"])
    return RuntimeFailure(f"{target} raised {error['type']}: {error['message']}{log_tail(log)}")


def how_it_ended(return_code: int) -> str:
    if return_code >= 0:
        return f"ended its process with exit code {return_code} and no result"
    try:
        name = signal.Signals(-return_code).name
    except ValueError:
        name = f"signal {-return_code}"
    cause = " (the kernel's out-of-memory killer sends this)" if name == "SIGKILL" else ""
    return f"killed its process: {name}{cause}"


def log_tail(log: Path) -> str:
    lines = [
        line.rstrip()
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.strip()
    ]
    return "".join(f"\n  | {line}" for line in lines[-STDERR_LINES_KEPT:])


def told_error(error: Exception) -> dict[str, str | None]:
    """An error of the child's as JSON for `error_of`; the traceback of one that is not ours goes to the log."""
    if isinstance(error, EdgeportError):
        return {"type": type(error).__name__, "message": error.message, "hint": error.hint}
    import traceback

    traceback.print_exc()
    return {"type": type(error).__name__, "message": str(error), "hint": None}


def _serve(request: Path, result: Path) -> int:
    """The child's side: one call, one result file (written whole, then renamed)."""
    from edgeport.lazy import load

    document = json.loads(request.read_text(encoding="utf-8"))
    try:
        reply = json.dumps({"value": load(document["target"])(**document["arguments"])})
    except Exception as error:  # noqa: BLE001 - a process boundary: every error has to cross it as text
        reply = json.dumps({"error": told_error(error)})
    sys.stderr.flush()
    temporary = result.with_suffix(".part")
    temporary.write_text(reply, encoding="utf-8")
    temporary.replace(result)
    return 0


if __name__ == "__main__":
    sys.exit(_serve(Path(sys.argv[1]), Path(sys.argv[2])))
