"""`load` an artifact: choose the engine for this host, and say why.

    with load("artifact") as model:
        for token in model.stream("def main("):
            print(token.text, end="")

Importing this module costs next to nothing: numpy and everything above it come with the first model.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeport.errors import MissingExtra, UsageError
from edgeport.lazy import missing_extra
from edgeport.manifest import base_format, is_native
from edgeport.runtimes.container import Container, find_containers
from edgeport.runtimes.engines import ENGINES, unavailable_because

if TYPE_CHECKING:
    from edgeport.runtimes.encoder_model import EncoderModel
    from edgeport.runtimes.model import Model
    from edgeport.runtimes.session import SessionOptions


def load(
    path: str | Path,
    *,
    runtime: str | None = None,
    options: SessionOptions | None = None,
    draft: str = "none",
    check: str = "auto",
    tuned: bool = True,
) -> Model | EncoderModel:
    """Open an artifact folder, one of its sub-folders or a model file: a `Model`, or of an encoder an `EncoderModel`.

    runtime: the container to use by its format (gguf, onnx, openvino, safetensors, gguf-q4_k_m); None takes the best that is
    installed here, and `choice_reason` of the model says why. draft: "auto" also opens the artifact's draft, where it has one,
    and lets it propose tokens. check: "auto" opens a file that was never loaded here in a child process first, because a
    damaged one may end the process ("always", "never": see edgeport.runtimes.safe_load). tuned: take the engine settings that
    `edgeport tune` found for this container here, unless `options` has its own.
    Raises UsageError for a runtime the path does not have, MissingExtra when no engine for it is installed, ArtifactError for
    a damaged file, RuntimeFailure with the engine's reason when it refuses the file.
    """
    container, reason = choose(find_containers(Path(path)), runtime)
    with missing_extra(ENGINES[base_format(container.format)].extra, purpose="running a model"):
        from edgeport.runtimes.encoder_container import is_encoder
        from edgeport.runtimes.encoder_opening import open_encoder_model
        from edgeport.runtimes.opening import open_model
    if is_encoder(container):
        return open_encoder_model(container, reason, options, check)
    return open_model(container, reason, options, draft, check, tuned)


def choose(containers: Sequence[Container], runtime: str | None) -> tuple[Container, str]:
    """The container to open, and why this one."""
    by_format = {container.format: container for container in containers}
    if runtime is not None:
        if runtime not in by_format:
            raise UsageError(f"no {runtime!r} container here", hint=f"there is {', '.join(by_format)}")
        return by_format[runtime], "asked for by name"
    order = _preference()
    kinds = sorted(
        (kind for kind in by_format if base_format(kind) in order),
        key=lambda kind: (order.index(base_format(kind)), is_native(kind)),
    )
    reasons = {kind: unavailable_because(kind) for kind in kinds}
    usable = [kind for kind, reason in reasons.items() if reason is None]
    missing = [reason for reason in reasons.values() if reason is not None]
    if not usable:
        raise MissingExtra(
            "no engine for this model is installed: " + "; ".join(missing), hint="install one of them"
        )
    rates = {kind: rate for kind in usable if (rate := _measured_rate(by_format[kind])) is not None}
    best = max(rates, key=lambda kind: rates[kind]) if rates else usable[0]
    why = (
        f"fastest here: {rates[best]:.1f} tokens/s measured on this processor"
        if rates
        else ENGINES[base_format(best)].why
    )
    return by_format[best], "; ".join([why, *missing])


def _measured_rate(container: Container) -> float | None:
    """Decoded tokens per second from the manifest, when it was measured on a processor like this one."""
    from edgeport.devices.cpu import read_cpu

    try:
        speed = container.speed()
        rate, cpu_model = float(speed["decode"]["tokens_per_s"]), speed["environment"]["cpu_model"]
    except (KeyError, TypeError, ValueError):  # not measured, or by another version
        return None
    return rate if cpu_model == read_cpu().model else None


def _preference() -> list[str]:
    """Best first. OpenVINO's kernels are made for x86; elsewhere llama.cpp's are ahead."""
    order = list(ENGINES)
    if platform.machine().lower() not in ("x86_64", "amd64"):
        order.remove("openvino")
        order.insert(order.index("gguf") + 1, "openvino")
    return order
