"""Put a model together: its file is checked, opened in its engine, and given its vocabulary, its settings and its draft."""

from __future__ import annotations

from dataclasses import replace

from edgeport.errors import UsageError
from edgeport.runtimes.container import Container
from edgeport.runtimes.drafts import DRAFT_CHOICES, open_draft
from edgeport.runtimes.engines import open_session
from edgeport.runtimes.generation_defaults import read_defaults
from edgeport.runtimes.model import Model, Parts
from edgeport.runtimes.prompt_cache import PIECE_TOKENS, HeldSession
from edgeport.runtimes.safe_load import check_load
from edgeport.runtimes.session import SessionOptions
from edgeport.runtimes.tokenizer import open_tokenizer
from edgeport.runtimes.tuning.store import tuned_settings


def open_model(
    container: Container, reason: str, options: SessionOptions | None, draft: str, check: str, tuned: bool
) -> Model:
    """See edgeport.runtimes.artifact.load; `reason` says why this container was chosen."""
    if draft not in DRAFT_CHOICES:
        raise UsageError(f"draft is {draft!r}", hint=f"it can be {' or '.join(DRAFT_CHOICES)}")
    check_load(container, check)
    options = options or SessionOptions()
    if tuned and options.settings is None:
        options = replace(options, settings=tuned_settings(container))
    session = HeldSession(open_session(container.format, container.path, options), _piece_tokens(options))
    try:
        tokenizer = open_tokenizer(container)
        helper = open_draft(container, session, tokenizer, options, check) if draft == "auto" else None
        defaults = read_defaults(container)
        return Model(Parts(container, session, tokenizer, defaults, reason, helper, options))
    except BaseException:
        session.close()
        raise


def _piece_tokens(options: SessionOptions) -> int:
    """Never less than what the engine was told to compute at once."""
    asked = options.settings.prompt_chunk_tokens if options.settings is not None else None
    return max(PIECE_TOKENS, asked or 0)
