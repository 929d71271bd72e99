"""Put a draft into an artifact: measure on text how often it is right, copy it in, and note both in the manifest.

The draft is an artifact as `edgeport export` writes it, of a smaller model with the same tokenizer: a pruned and recovered
one, or the small sibling of a family. What is measured is the acceptance of greedy text, which no clock disturbs; whether
it pays is decided where it runs (edgeport.runtimes.pace).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgeport.errors import ArtifactError, UsageError
from edgeport.manifest import DraftEntry, Manifest, from_json, read_manifest, write_manifest
from edgeport.progress import Progress
from edgeport.runtimes.acceptance import Acceptance
from edgeport.runtimes.artifact import choose
from edgeport.runtimes.container import Container, find_containers
from edgeport.runtimes.draft_model import DEFAULT_DRAFTED_TOKENS
from edgeport.runtimes.drafts import check_vocabulary
from edgeport.runtimes.engines import open_session
from edgeport.runtimes.isolation import run_isolated
from edgeport.runtimes.session import SessionOptions
from edgeport.runtimes.speculative import measure_acceptance
from edgeport.runtimes.tokenizer import open_tokenizer

DRAFT_FOLDER = "draft"


@dataclass(frozen=True, slots=True)
class DraftTrial:
    """How acceptance is measured: greedy continuations of `prompts` places spread evenly over a text."""

    prompts: int = 8
    prompt_tokens: int = 32
    new_tokens: int = 48
    drafted_tokens: int = DEFAULT_DRAFTED_TOKENS


def attach_draft(
    artifact: Path,
    draft: Path,
    text: Path,
    trial: DraftTrial = DraftTrial(),
    *,
    threads: int | None,
    progress: Progress,
) -> DraftEntry:
    """Copy the artifact `draft` to `artifact`/draft, in place of an older one, and return its entry in the manifest.

    text: a UTF-8 file that neither model was calibrated on. Raises ArtifactError for what is no artifact, UsageError for a
    draft that cannot belong to this model, RuntimeFailure when an engine fails.
    """
    manifest, found = read_manifest(artifact), read_manifest(draft)
    _check(manifest, found)
    with progress.stage("measure the draft", total=1) as stage:
        acceptance = _measure(artifact, draft, text, trial, threads)
        stage.advance(1)
    target, part = artifact / DRAFT_FOLDER, artifact / f".{DRAFT_FOLDER}.part"
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(draft, part)
    if target.exists():
        # Between these lines the manifest may name a draft that is not there, which `verify` tells.
        shutil.rmtree(target)
    part.replace(target)
    entry = DraftEntry(
        DRAFT_FOLDER, found.weights_id, trial.drafted_tokens, acceptance.rate, acceptance.tokens_per_step
    )
    write_manifest(replace(manifest, draft=entry), artifact)
    return entry


def measure_pair(
    containers: Sequence[Sequence[str]], text: str, trial: dict[str, Any], threads: int | None
) -> dict[str, Any]:
    """In a child process: the acceptance of one pair; `containers` are (format, path) of the model and of the draft."""
    model, helper = (Container(name, Path(path)) for name, path in containers)
    settings = DraftTrial(**trial)
    tokenizer = open_tokenizer(model)
    prompts = _prompts(tokenizer.encode(Path(text).read_text(encoding="utf-8")), settings)
    options = SessionOptions(threads, settings.prompt_tokens + settings.new_tokens)
    target = open_session(model.format, model.path, options)
    try:
        check_vocabulary(tokenizer, open_tokenizer(helper), target.vocab_size)
        draft = open_session(helper.format, helper.path, options)
        try:
            found = measure_acceptance(
                target, draft, prompts, settings.new_tokens, drafted_tokens=settings.drafted_tokens
            )
        finally:
            draft.close()
    finally:
        target.close()
    return asdict(found)


def _measure(artifact: Path, draft: Path, text: Path, trial: DraftTrial, threads: int | None) -> Acceptance:
    own = {item.format: item for item in find_containers(draft)}
    shared = [item for item in find_containers(artifact) if item.format in own]
    chosen, _ = choose(shared, None)
    pair = [(item.format, str(item.path)) for item in (chosen, own[chosen.format])]
    arguments = {"containers": pair, "text": str(text), "trial": asdict(trial), "threads": threads}
    found = run_isolated("edgeport.export.evaluate.draft:measure_pair", arguments, timeout_s=None)
    acceptance = from_json(Acceptance, found)
    assert isinstance(acceptance, Acceptance)
    return acceptance


def _check(manifest: Manifest, found: Manifest) -> None:
    sizes = found.model.vocab_size, manifest.model.vocab_size
    if sizes[0] != sizes[1]:
        raise UsageError(
            f"the draft has {sizes[0]} tokens in its vocabulary, the model {sizes[1]}",
            hint="take a draft with the model's own tokenizer",
        )
    if found.draft is not None:
        raise ArtifactError(
            f"the artifact {found.name} has a draft of its own", hint="take its draft instead"
        )
    formats = {entry.format for entry in found.containers} & {entry.format for entry in manifest.containers}
    if not formats:
        raise UsageError(
            "the draft has no container in a format of the model's",
            hint=f"export it with --format {','.join(entry.format for entry in manifest.containers)}",
        )


def _prompts(tokens: Sequence[int], trial: DraftTrial) -> list[list[int]]:
    last = len(tokens) - trial.prompt_tokens
    if last < 0:
        raise UsageError(
            f"the text has {len(tokens)} tokens, a prompt needs {trial.prompt_tokens}",
            hint="give a longer text",
        )
    starts = [last * number // max(trial.prompts - 1, 1) for number in range(trial.prompts)]
    return [list(tokens[start : start + trial.prompt_tokens]) for start in dict.fromkeys(starts)]
