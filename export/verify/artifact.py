"""Prove an artifact folder: files, weights, tokenizer, logits and text of every container, each in a fresh process."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeport.devices.probe import read_host
from edgeport.errors import ArtifactError, EdgeportError
from edgeport.export.checkpoint import weights_id
from edgeport.export.verify.golden import golden_name, read_golden
from edgeport.export.verify.tokens import check_tokens
from edgeport.manifest import (
    ContainerEntry,
    DraftEntry,
    Manifest,
    base_format,
    file_entry,
    is_native,
    read_manifest,
)
from edgeport.progress import Progress
from edgeport.runtimes.drafts import draft_folder
from edgeport.runtimes.isolation import run_isolated
from edgeport.units import format_bytes

WEIGHTS_NAME = "weights.json"
"""Digest of every dequantized tensor, by name; the manifest's weights_id is the digest of these."""

EXACT_TOLERANCE = 1e-3
"""Relative error of logits in the engine's most exact arithmetic: float32 in another order of summation."""
EXACT_BYTES_PER_PARAMETER = 10
"""Float32 weights, the engine's packed copy of them, and room for its work."""
SHIPPED_TOLERANCE = 0.2
"""The same as shipped: engines quantize activations to 8 bits, and a random-weight model amplifies that."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of a verification: what was checked in which container, the verdict and the numbers behind it."""

    container: str
    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Verification:
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(check.passed for check in self.checks)

    def container_passed(self, format_name: str) -> bool:
        own = [check.passed for check in self.checks if check.container == format_name]
        return bool(own) and all(own)


def verify_artifact(directory: Path, *, formats: Sequence[str] = (), progress: Progress) -> Verification:
    """Check the named containers (all by default). A failed check is a line in the result; it raises only when
    there is nothing to check: ArtifactError for a missing or unreadable manifest."""
    manifest = read_manifest(directory)
    if not manifest.containers:
        raise ArtifactError(f"the manifest in {directory} lists no container", hint="export the model again")
    entries = [manifest.container(name) for name in formats] if formats else list(manifest.containers)
    checks, expected = [], {}
    if any(not is_native(entry.format) for entry in manifest.containers):
        checks = [_guarded("artifact", "digests", lambda: _check_index(directory, manifest))]
        expected = read_digests(directory / WEIGHTS_NAME) if checks[0].passed else {}
    lacking_bytes = exact_mode_lacks_bytes(manifest.model.parameters)
    for entry in entries:
        with progress.stage(f"verify {entry.format}", total=5) as stage:
            for name, check in _container_checks(directory, entry, expected, lacking_bytes).items():
                checks.append(_guarded(entry.format, name, check))
                stage.advance(1)
    if manifest.draft is not None:
        checks += _draft_checks(directory, manifest, manifest.draft, formats, progress)
    return Verification(tuple(checks))


def _draft_checks(
    directory: Path, manifest: Manifest, draft: DraftEntry, formats: Sequence[str], progress: Progress
) -> list[Check]:
    """That the draft is the one the manifest means and has the model's vocabulary; then everything of its own."""
    identity = _guarded("draft", "identity", lambda: _check_draft(directory, manifest, draft))
    if not identity.passed:
        return [identity]
    folder = draft_folder(directory, draft)
    present = [entry.format for entry in read_manifest(folder).containers]
    wanted = [name for name in formats if name in present]
    if formats and not wanted:
        return [identity]
    own = verify_artifact(folder, formats=wanted, progress=progress)
    return [identity, *(replace(check, container=f"draft/{check.container}") for check in own.checks)]


def _check_draft(directory: Path, manifest: Manifest, draft: DraftEntry) -> str:
    found = read_manifest(draft_folder(directory, draft))
    if found.weights_id != draft.weights_id:
        raise ArtifactError(
            f"the draft has weights_id {found.weights_id[:16]}, the manifest says {draft.weights_id[:16]}"
        )
    if found.draft is not None:
        raise ArtifactError("the draft has a draft of its own, which nothing would use")
    sizes = found.model.vocab_size, manifest.model.vocab_size
    if sizes[0] != sizes[1]:
        raise ArtifactError(f"the draft has {sizes[0]} tokens in its vocabulary, the model {sizes[1]}")
    return f"weights_id {found.weights_id[:16]}, {found.model.parameters} parameters in {draft.folder}"


def _container_checks(
    directory: Path, entry: ContainerEntry, expected: Mapping[str, str], lacking_bytes: int
) -> dict[str, Callable[[], str]]:
    path = directory / entry.entry_point
    modes = ("exact", "shipped") if not lacking_bytes else ("shipped",)
    # Opened once for both checks; an error is not cached, so both lines tell it.
    agreement = functools.cache(functools.partial(_agreement, directory, entry.format, path, modes))
    return {
        "files": lambda: check_files(directory, entry),
        "weights": lambda: _check_weights(entry, path, _expected(directory, entry, expected)),
        "tokens": lambda: check_tokens(
            base_format(entry.format), path, read_golden(directory, golden_name(entry.format)).texts
        ),
        "logits": lambda: _not_run(lacking_bytes) if lacking_bytes else _check_logits(agreement()["exact"]),
        "shipped": lambda: _check_shipped(agreement()["shipped"]),
    }


def _guarded(container: str, name: str, check: Callable[[], str]) -> Check:
    """A check that raises one of our errors has failed, and the error says why."""
    try:
        return Check(container, name, True, check())
    except EdgeportError as error:
        return Check(container, name, False, error.message)


def _check_index(directory: Path, manifest: Manifest) -> str:
    digests = read_digests(directory / WEIGHTS_NAME)
    found = weights_id(digests)
    if found != manifest.weights_id:
        raise ArtifactError(
            f"{WEIGHTS_NAME} gives weights_id {found[:16]}, the manifest says {manifest.weights_id[:16]}"
        )
    read_golden(directory)
    return f"weights_id {found[:16]}, {len(digests)} tensors"


def weights_name(format_name: str) -> str:
    """The file of digests: one for all portable containers, one for each container with a scheme of its own."""
    return f"weights-{format_name}.json" if is_native(format_name) else WEIGHTS_NAME


def _expected(directory: Path, entry: ContainerEntry, portable: Mapping[str, str]) -> Mapping[str, str]:
    return read_digests(directory / weights_name(entry.format)) if is_native(entry.format) else portable


def read_digests(path: Path) -> dict[str, str]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): str(digest) for name, digest in document.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from error


def check_files(directory: Path, entry: ContainerEntry) -> str:
    if entry.entry_point not in [expected.path for expected in entry.files]:
        raise ArtifactError(f"{entry.entry_point} is not among the files of the manifest")
    for expected in entry.files:
        path = directory / expected.path
        if not path.is_file():
            raise ArtifactError(f"{expected.path} is missing")
        found = file_entry(path, directory)
        if found.size_bytes != expected.size_bytes:
            raise ArtifactError(
                f"{expected.path} is {found.size_bytes} bytes, the manifest says {expected.size_bytes}"
            )
        if found.sha256 != expected.sha256:
            raise ArtifactError(
                f"{expected.path} has sha256 {found.sha256[:16]}, the manifest says {expected.sha256[:16]}"
            )
    return f"{len(entry.files)} files, {entry.size_bytes} bytes"


def _check_weights(entry: ContainerEntry, path: Path, expected: Mapping[str, str]) -> str:
    arguments = {"format_name": entry.format, "entry_point": str(path)}
    found: dict[str, str] = run_isolated(
        "edgeport.export.verify.container:weight_digests", arguments, timeout_s=None
    )
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    different = [name for name in expected if name in found and found[name] != expected[name]]
    for label, names in (("missing", missing), ("unexpected", extra), ("different", different)):
        if names:
            others = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ArtifactError(f"{label} weights: {names[0]}{others}")
    identity = weights_id(found)
    if identity != entry.weights_id:
        raise ArtifactError(
            f"read back weights_id {identity[:16]}, the manifest says {entry.weights_id[:16]}"
        )
    return f"{len(found)} tensors read back, weights_id {identity[:16]}"


def _agreement(
    directory: Path, format_name: str, path: Path, modes: tuple[str, ...]
) -> dict[str, dict[str, Any]]:
    arguments = {
        "format_name": format_name,
        "entry_point": str(path),
        "artifact": str(directory),
        "modes": list(modes),
    }
    found: dict[str, dict[str, Any]] = run_isolated(
        "edgeport.export.verify.container:engine_agreement", arguments, timeout_s=None
    )
    return found


def exact_mode_lacks_bytes(parameters: int) -> int:
    """Memory that comparing in float32 needs beyond what this machine has free; 0 when it is enough."""
    return max(0, parameters * EXACT_BYTES_PER_PARAMETER - read_host().available_bytes)


def _not_run(lacking_bytes: int) -> str:
    return f"NOT RUN: exact mode holds the model in float32, for which {format_bytes(lacking_bytes)} of memory are missing"


def _check_logits(found: Mapping[str, Any]) -> str:
    error, same_top = found["relative_error"], found["same_top"]
    if not error <= EXACT_TOLERANCE:
        raise ArtifactError(
            f"logits differ from the dequantized model by {error:.2e}, allowed in exact mode are {EXACT_TOLERANCE:g}"
        )
    return f"relative error {error:.1e} in exact mode, same top token {same_top:.0%}"


def _check_shipped(found: Mapping[str, Any]) -> str:
    error, same_top = found["relative_error"], found["same_top"]
    if not error <= SHIPPED_TOLERANCE:
        raise ArtifactError(
            f"as shipped, logits differ from the dequantized model by {error:.2e}, allowed are {SHIPPED_TOLERANCE:g}"
        )
    generated = len(found["continuation"])
    return (
        f"relative error {error:.1e} as shipped, same top token {same_top:.0%}, {generated} tokens generated"
    )
