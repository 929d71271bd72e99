"""The draft of an artifact: a smaller model in a folder of it, a whole artifact by itself, opened beside the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath

from edgeport.errors import ArtifactError, UsageError
from edgeport.manifest import DraftEntry, read_manifest
from edgeport.runtimes.container import Container, find_containers
from edgeport.runtimes.draft_model import Draft
from edgeport.runtimes.engines import open_session
from edgeport.runtimes.generate import Speculation
from edgeport.runtimes.lookup import PromptLookup
from edgeport.runtimes.pace import Pace
from edgeport.runtimes.prompt_cache import HeldSession
from edgeport.runtimes.proposer import Proposer
from edgeport.runtimes.safe_load import check_load
from edgeport.runtimes.sampling import Sampling
from edgeport.runtimes.session import Session, SessionOptions
from edgeport.runtimes.tokenizer import Tokenizer, open_tokenizer
from edgeport.runtimes.window import choose_context_length

DRAFT_CHOICES = ("auto", "none")
_COMPARED_TOKENS = 512
_COMPARED_TEXT = (
    "def area(self) -> float:\n\treturn 3.14159 * self.radius ** 2  # Größe, naïve, 你好, 😀\n\n   x"
)


def draft_folder(artifact: Path, entry: DraftEntry) -> Path:
    """Where the draft lies. Raises ArtifactError for a folder outside of the artifact, or one that is not there."""
    place = PurePosixPath(entry.folder)
    if place.is_absolute() or ".." in place.parts or not place.parts:
        raise ArtifactError(f"the manifest places the draft in {entry.folder!r}, outside of the artifact")
    folder = artifact / place
    if not folder.is_dir():
        raise ArtifactError(
            f"{folder} is missing: the manifest names it as the draft",
            hint="copy the whole artifact folder, or run without a draft",
        )
    return folder


def open_draft(
    container: Container, target: Session, tokenizer: Tokenizer, options: SessionOptions, check: str = "auto"
) -> Draft | None:
    """The draft of the artifact that `container` belongs to, in the same engine; None where it has no draft.

    check: see edgeport.runtimes.safe_load. Raises ArtifactError for a damaged draft, UsageError for one with another vocabulary.
    """
    entry = container.manifest.draft if container.manifest else None
    if entry is None:
        return None
    folder = draft_folder(container.folder.parent, entry)
    manifest = read_manifest(folder)
    own = {item.format: item for item in find_containers(folder)}
    if container.format not in own:
        return None  # a second engine for a helper would cost more memory than the draft itself
    check_load(own[container.format], check)
    limit = manifest.model.context_length
    wanted = min(options.context_length or choose_context_length(None, limit), limit)
    session = open_session(
        container.format, own[container.format].path, replace(options, context_length=wanted)
    )
    try:
        check_vocabulary(tokenizer, open_tokenizer(own[container.format]), target.vocab_size)
        return Draft(HeldSession(session), target, entry.drafted_tokens, Pace())
    except BaseException:
        session.close()
        raise


def proposer_for(
    speculation: Speculation, sampling: Sampling, draft: Draft | None, lookup: PromptLookup
) -> Proposer | None:
    """Who proposes tokens of one text.

    A seed promises the same text again, and with a draft that the clock may switch off the random numbers would not be used
    up in the same order; a lookup draws nothing.
    """
    if speculation == "lookup":
        return lookup
    is_free = sampling.temperature == 0 or sampling.seed is None
    return draft if speculation == "auto" and is_free else None


def check_vocabulary(target: Tokenizer, draft: Tokenizer, vocab_size: int) -> None:
    """Raises UsageError unless both cut one hard text alike and agree on tokens spread over the vocabulary."""
    sample = range(0, vocab_size, max(vocab_size // _COMPARED_TOKENS, 1))
    different = next((token for token in sample if target.decode([token]) != draft.decode([token])), None)
    if different is not None or target.encode(_COMPARED_TEXT) != draft.encode(_COMPARED_TEXT):
        where = "cuts a text differently" if different is None else f"has another token {different}"
        raise UsageError(f"the draft's tokenizer {where}", hint="a draft must have the model's own tokenizer")
