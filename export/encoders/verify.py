"""Prove an encoder's artifact: files, weights, tokens and answers of every container, each in a fresh process by its own engine."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgeport.errors import ArtifactError, EdgeportError
from edgeport.export.checkpoint import tensor_digest, weights_id
from edgeport.export.encoders.agreement import agreement_text, compare_states, objections, same_labels
from edgeport.export.encoders.golden import read_golden
from edgeport.export.verify.artifact import (
    WEIGHTS_NAME,
    Check,
    Verification,
    check_files,
    read_digests,
)
from edgeport.lazy import load
from edgeport.manifest import ContainerEntry, Manifest, read_manifest
from edgeport.progress import Progress
from edgeport.runtimes.container import Container
from edgeport.runtimes.encoder_container import open_encoder_container
from edgeport.runtimes.encoder_opening import open_text_encoder, settings_of
from edgeport.runtimes.isolation import run_isolated
from edgeport.runtimes.session import SessionOptions

READERS: Mapping[str, str] = {
    "onnx": "edgeport.export.encoders.read_onnx:read_weights",
    "openvino": "edgeport.export.encoders.read_openvino:read_weights",
    "gguf": "edgeport.export.encoders.read_gguf:read_weights",
}
"""Independent readers: entry point -> (name in the checkpoint, float32 values), one tensor at a time."""


def verify_encoder(
    directory: Path, *, formats: Sequence[str] = (), progress: Progress
) -> tuple[Verification, dict[str, dict[str, Any]]]:
    """Check the named containers (all by default) and measure how near each is to the float model, by format.

    A failed check is a line in the result; raises ArtifactError only for a manifest that cannot be used.
    """
    manifest = read_manifest(directory)
    entries = [manifest.container(name) for name in formats] if formats else list(manifest.containers)
    if not entries:
        raise ArtifactError(f"the manifest in {directory} lists no container", hint="export the model again")
    checks: list[Check] = []
    agreements: dict[str, dict[str, Any]] = {}
    for entry in entries:
        with progress.stage(f"verify {entry.format}"):
            files = functools.partial(check_files, directory, entry)
            weights = functools.partial(_check_weights, directory, entry)
            checks += [_guarded(entry.format, "files", files), _guarded(entry.format, "weights", weights)]
            found, told = _answers(directory, manifest, entry)
            checks += told
            if found is not None:
                agreements[entry.format] = found
    return Verification(tuple(checks)), agreements


def _check_weights(directory: Path, entry: ContainerEntry) -> str:
    """Every weight as an independent reader finds it in the container, against the digests of the export."""
    expected = read_digests(directory / WEIGHTS_NAME)
    arguments = {"format_name": entry.format, "entry_point": str(directory / entry.entry_point)}
    found: dict[str, str] = run_isolated(f"{__name__}:weight_digests", arguments, timeout_s=None)
    wrong = sorted(name for name in {*expected, *found} if found.get(name) != expected.get(name))
    if wrong:
        others = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise ArtifactError(f"weights that are missing, foreign or different: {wrong[0]}{others}")
    identity = weights_id(found)
    if identity != entry.weights_id:
        raise ArtifactError(
            f"read back weights_id {identity[:16]}, the manifest says {entry.weights_id[:16]}"
        )
    return f"{len(found)} tensors read back, weights_id {identity[:16]}"


def weight_digests(format_name: str, entry_point: str) -> dict[str, str]:
    """In the child: digest of every weight in a container. Raises ArtifactError for a name that comes twice."""
    digests: dict[str, str] = {}
    for name, values in load(READERS[format_name], extra="export")(Path(entry_point)):
        if name in digests:
            raise ArtifactError(f"{entry_point} holds {name} twice")
        digests[name] = tensor_digest(values)
    return digests


def _answers(
    directory: Path, manifest: Manifest, entry: ContainerEntry
) -> tuple[dict[str, Any] | None, list[Check]]:
    """The container opened once: its tokens and its states."""
    arguments = {"format_name": entry.format, "entry_point": entry.entry_point, "artifact": str(directory)}
    try:
        answer = run_isolated(f"{__name__}:engine_answers", arguments, timeout_s=None)
    except EdgeportError as error:
        return None, [Check(entry.format, "states", False, error.message)]
    found: dict[str, Any] = answer["agreement"]
    wrong = objections(found, float(manifest.encoder["threshold"]))
    told = agreement_text(found) if not wrong else "; ".join(wrong)
    tokens = answer["tokens"]
    return found, [
        Check(entry.format, "tokens", tokens["same"] == tokens["texts"], tokens["detail"]),
        Check(entry.format, "states", not wrong, told),
    ]


def engine_answers(format_name: str, entry_point: str, artifact: str) -> dict[str, Any]:
    """In the child: the container's own tokens of the golden texts, and the states its engine gives for the golden tokens, all
    texts in one call, so that they are padded against each other."""
    directory = Path(artifact)
    manifest, golden = read_manifest(directory), read_golden(directory)
    container = Container(format_name, directory / entry_point, manifest)
    settings = settings_of(container)
    encoder = open_encoder_container(
        format_name, container.path, SessionOptions(context_length=settings.max_length)
    )
    try:
        states = encoder.encode(golden.ids)
        label = same_labels(encoder.logits(golden.ids), golden.logits) if golden.logits else None
    finally:
        encoder.close()
    agreement = compare_states(states, golden.states, settings.pooling, label)
    return {"agreement": asdict(agreement), "tokens": _compare_tokens(container, golden.texts, golden.ids)}


def _compare_tokens(
    container: Container, texts: Sequence[str], ids: Sequence[Sequence[int]]
) -> dict[str, Any]:
    settings, tokenizer = settings_of(container), open_text_encoder(container)
    prepared = [text.lower() if settings.lower_case else text for text in texts]
    got = [tokenizer.encode(text)[: settings.max_length] for text in prepared]
    different = [text for text, left, right in zip(texts, got, ids, strict=True) if list(left) != list(right)]
    detail = f"{len(texts)} texts cut as tokenizer.json does"
    if different:
        detail = (
            f"{len(different)} of {len(texts)} texts are cut differently, the first is {different[0][:60]!r}"
        )
    return {"texts": len(texts), "same": len(texts) - len(different), "detail": detail}


def _guarded(container: str, name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(container, name, True, check())
    except EdgeportError as error:
        return Check(container, name, False, error.message)
