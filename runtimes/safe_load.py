"""The first load of a file happens in a child process: a damaged file ends the child and is an error here.

Engines are native code and trust what they read: llama.cpp asserts, a parser may read past the end of a cut file. Files whose
sha256 is that of the manifest are what was exported; they and all others become known good by one successful load on this
engine version (edgeport.runtimes.load_records). After that a load costs a look at the files' size and time.

What this sees: any change to a file of an artifact with a manifest; without one, what the engine or its first logits see. A
flipped bit in a bare file's weights can go unseen: nothing says what it was.
"""

from __future__ import annotations

import faulthandler
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from edgeport.devices.cpu import read_cpu
from edgeport.errors import ArtifactError, EdgeportError, MissingExtra, UnsupportedModel, UsageError
from edgeport.manifest import base_format
from edgeport.progress import NO_PROGRESS, Progress
from edgeport.runtimes.container import Container
from edgeport.runtimes.container_files import container_files
from edgeport.runtimes.engines import ENGINES, open_session, require_engine
from edgeport.runtimes.isolation import run_isolated
from edgeport.runtimes.load_records import content_sha256s, load_key, remember_load, was_loaded
from edgeport.runtimes.session import SessionOptions

Check = Literal["auto", "always", "never"]
_CHILD = "edgeport.runtimes.safe_load:load_in_child"
_CHILD_ENVIRONMENT = {"EDGEPORT_ENGINE_LOG": "1"}
_TIMEOUT_S = 120.0
_SLOWEST_BYTES_PER_S = 10e6
_PROBE_TEXT = "def main():"
_ADVICE = "copy or download it again, or export again; `edgeport verify` names every file that differs from the manifest"


def check_load(container: Container, check: str = "auto", progress: Progress = NO_PROGRESS) -> None:
    """Return when `container` can be opened in this process without danger to it.

    check: "auto" trusts contents this engine version has loaded before; "always" reads every byte and loads in a child again;
    "never" does nothing. Raises ArtifactError naming the file that is damaged, missing or not what the manifest says, with the
    engine's last log lines when it died; MissingExtra and UnsupportedModel as opening would.
    """
    if check not in get_args(Check):
        raise UsageError(f"check is {check!r}", hint=f"it can be {', '.join(get_args(Check))}")
    if check == "never":
        return
    require_engine(container.format)  # before anything is blamed on the file
    digests = _digests(container, read_again=check == "always", progress=progress)
    key = load_key(digests, _engine_version(container.format))
    if check == "auto" and was_loaded(key):
        return
    if not _is_python(sys.executable):
        if check == "always":
            raise UsageError(
                f"{sys.executable or 'this program'} is no Python interpreter: no child process can be started",
                hint='use check="auto": files of an artifact are then still compared with its manifest',
            )
        return
    with progress.stage("check load"):
        _load_isolated(container, sum(file.stat().st_size for file in container_files(container)))
    remember_load(key, sorted(digests))


def load_in_child(format_name: str, path: str) -> None:
    """The child's side: open the container and its vocabulary, feed a few tokens, look at the logits."""
    import numpy as np

    from edgeport.runtimes.encoder_container import is_encoder
    from edgeport.runtimes.tokenizer import open_tokenizer

    faulthandler.enable()  # a crash leaves the Python lines that led to it beside the engine's own log
    container = Container(format_name, Path(path))
    if is_encoder(container):
        _try_encoder(container)
        return
    tokens = open_tokenizer(container).encode(_PROBE_TEXT) or [0]
    session = open_session(format_name, container.path, SessionOptions())
    try:
        logits = session.feed(tokens[: session.context_length])
    finally:
        session.close()
    if not np.isfinite(logits).all():
        raise ArtifactError(f"{path} loads, but its logits are not finite numbers", hint=_ADVICE)


def _try_encoder(container: Container) -> None:
    """The same of an encoder: hidden states of a few tokens."""
    import numpy as np

    from edgeport.runtimes.encoder_container import open_encoder_container
    from edgeport.runtimes.encoder_opening import open_text_encoder

    tokens = open_text_encoder(container).encode(_PROBE_TEXT) or [0]
    encoder = open_encoder_container(container.format, container.path, SessionOptions())
    try:
        states = encoder.encode([tokens[: encoder.context_length]])[0]
    finally:
        encoder.close()
    if not np.isfinite(states).all():
        raise ArtifactError(f"{container.path} loads, but its states are not finite numbers", hint=_ADVICE)


def _load_isolated(container: Container, size_bytes: int) -> None:
    engine = ENGINES[base_format(container.format)]
    arguments = {"format_name": container.format, "path": str(container.path)}
    limit_s = _TIMEOUT_S + size_bytes / _SLOWEST_BYTES_PER_S
    try:
        run_isolated(_CHILD, arguments, timeout_s=limit_s, environment=_CHILD_ENVIRONMENT)
    except (MissingExtra, UnsupportedModel):
        raise
    except EdgeportError as error:
        reason = error.message.replace(_CHILD, engine.name)
        named = any(file.name in reason for file in container_files(container))
        if isinstance(error, ArtifactError) and named:
            raise
        message = reason if named else f"{_model_files(container)} cannot be loaded: {reason}"
        raise ArtifactError(message, hint=error.hint or _ADVICE) from error


def _digests(container: Container, *, read_again: bool, progress: Progress) -> Mapping[str, str]:
    """File name to sha256. Raises ArtifactError for a file that is missing or not what the manifest says."""
    expected = container_files(container)
    try:
        found = content_sha256s(expected, read_again=read_again, progress=progress)
    except OSError as error:
        raise ArtifactError(f"{error.filename} cannot be read: {error.strerror}", hint=_ADVICE) from error
    for file, digest in found.items():
        listed = expected[file]
        if listed is not None and digest != listed:
            raise ArtifactError(
                f"{file} is damaged or was changed: its sha256 is {digest[:16]}, the manifest says {listed[:16]}",
                hint=_ADVICE,
            )
    return {file.name: digest for file, digest in found.items()}


def _model_files(container: Container) -> str:
    """Where a death without a word may come from: the graph and the weights, not the text files beside them."""
    files = [file for file in container_files(container) if file.suffix not in (".json", ".jinja", ".txt")]
    return f"{container.folder}: {', '.join(file.name for file in files)}"


def _engine_version(format_name: str) -> str:
    """The engine with its version, and the processor: kernels are chosen, or compiled, for that one."""
    from edgeport.runtimes.bench.environment import package_version

    package = ENGINES[base_format(format_name)].packages[-1]
    names = {"llama_cpp": "llama-cpp-python", "numpy": "edgeport"}
    return f"{package} {package_version(names.get(package, package))} on {read_cpu().model}"


def _is_python(executable: str | None) -> bool:
    """Whether `executable -m` runs a module; a frozen program or an embedding host would start itself again."""
    name = Path(executable or "").stem.lower()
    return not getattr(sys, "frozen", False) and name.startswith(("python", "pypy"))
