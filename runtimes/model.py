"""A loaded model: text in, text out, from any thread, in plain calls or with await.

Calls are served one at a time in the order they came. Each is a text of its own; what it shares with the text before is not
computed again (edgeport.runtimes.prompt_cache).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType

from edgeport.manifest import base_format
from edgeport.runtimes.asynchronous import AsyncTokenStream, Worker
from edgeport.runtimes.completion import Completion, complete
from edgeport.runtimes.container import Container
from edgeport.runtimes.conversation import Overflow, fit
from edgeport.runtimes.draft_model import Draft
from edgeport.runtimes.drafts import proposer_for
from edgeport.runtimes.embedding import DEFAULTS as EMBEDDING_DEFAULTS
from edgeport.runtimes.embedding import EmbeddingOptions, Embeddings, embed_texts
from edgeport.runtimes.encoder import Encoder, open_encoder
from edgeport.runtimes.engine_settings import EngineSettings
from edgeport.runtimes.engines import ENGINES
from edgeport.runtimes.generate import GenerationOptions, Token, generate, room_for
from edgeport.runtimes.generation_defaults import GenerationDefaults
from edgeport.runtimes.lookup import adaptive_lookup
from edgeport.runtimes.prompt_cache import HeldSession
from edgeport.runtimes.score import Score, score_text
from edgeport.runtimes.session import SessionOptions
from edgeport.runtimes.token_stream import TokenStream
from edgeport.runtimes.tokenizer import Message, Tokenizer
from edgeport.runtimes.turns import Ticket, Turns

DEFAULTS = GenerationOptions()


@dataclass(frozen=True, slots=True)
class Parts:
    """What a model is made of; edgeport.runtimes.artifact puts them together. The model closes session and draft.

    draft: what proposes tokens unless the options say otherwise, see edgeport.runtimes.drafts.proposer_for.
    """

    container: Container
    session: HeldSession
    tokenizer: Tokenizer
    defaults: GenerationDefaults
    choice_reason: str
    draft: Draft | None = None
    options: SessionOptions = SessionOptions()


class Model:
    """See docs/embedding.md. Close it, or use `with`; one that is dropped frees its memory too.

    `timeout_s` is how long a call waits while the model writes another text, None for as long as it takes. Raises
    RuntimeFailure when that is over, and at once where a thread would wait for a text that it is reading itself.
    """

    def __init__(self, parts: Parts) -> None:
        self.container, self.tokenizer = parts.container, parts.tokenizer
        self.session, self.draft = parts.session, parts.draft
        self.lookup = adaptive_lookup()
        self.defaults, self.choice_reason = parts.defaults, parts.choice_reason
        self._options = parts.options
        self._encoder: Encoder | None = None
        self._turns, self._worker = Turns(), Worker()
        closers = (
            [self.session.close] if self.draft is None else [self.session.close, self.draft.session.close]
        )
        self._closers: list[Callable[[], None]] = closers
        self._free = weakref.finalize(self, _close_all, self._closers)

    @property
    def format(self) -> str:
        return self.container.format

    @property
    def engine(self) -> str:
        return ENGINES[base_format(self.format)].name

    @property
    def settings(self) -> EngineSettings:
        """How the engine computes: what was asked for or tuned; None in a field is the adapter's choice."""
        return self._options.settings or EngineSettings()

    @property
    def context_length(self) -> int:
        """Tokens of prompt and text together."""
        return self.session.context_length

    def stream(
        self, prompt: str, options: GenerationOptions = DEFAULTS, *, timeout_s: float | None = None
    ) -> TokenStream:
        """Continue `prompt`, token by token. Raises RuntimeFailure for what does not fit the context."""
        self._turns.check_open()
        return self._open(self.tokenizer.encode(prompt), options, timeout_s)

    def generate(
        self, prompt: str, options: GenerationOptions = DEFAULTS, *, timeout_s: float | None = None
    ) -> Completion:
        """The whole continuation of `prompt` at once."""
        return complete(self.stream(prompt, options, timeout_s=timeout_s))

    def stream_chat(
        self,
        messages: Sequence[Message],
        options: GenerationOptions = DEFAULTS,
        *,
        overflow: Overflow = "error",
        timeout_s: float | None = None,
    ) -> TokenStream:
        """Answer the last of `messages` in the model's own chat template.

        overflow: what to do with a conversation that leaves no room for the answer (edgeport.runtimes.conversation); room is
        max_tokens, or without that a quarter of the context.
        """
        self._turns.check_open()
        answer_tokens = options.max_tokens or min(self.defaults.max_tokens, self.context_length // 4)
        limit = self.context_length - answer_tokens + 1
        prompt, dropped = fit(messages, self.chat_tokens, limit, overflow)
        return self._open(prompt, options, timeout_s, dropped)

    def chat(
        self,
        messages: Sequence[Message],
        options: GenerationOptions = DEFAULTS,
        *,
        overflow: Overflow = "error",
        timeout_s: float | None = None,
    ) -> Completion:
        """The whole answer to `messages` at once."""
        return complete(self.stream_chat(messages, options, overflow=overflow, timeout_s=timeout_s))

    def chat_tokens(self, messages: Sequence[Message]) -> list[int]:
        """The prompt of a conversation; the template writes the special tokens itself."""
        return self.tokenizer.encode(self.tokenizer.chat_prompt(messages), add_special_tokens=False)

    def embed(
        self,
        texts: Sequence[str],
        options: EmbeddingOptions = EMBEDDING_DEFAULTS,
        *,
        timeout_s: float | None = None,
    ) -> Embeddings:
        """A vector for each text, from the states after the last layer. The first call opens the container a second time."""
        return self._embed(texts, options, timeout_s, Ticket())

    def score(self, text: str, *, stride: int | None = None, timeout_s: float | None = None) -> Score:
        """How likely `text` is: ln p of each token, perplexity, bits per byte. stride: for texts beyond the context."""
        return self._score(text, stride, timeout_s, Ticket())

    def astream(
        self, prompt: str, options: GenerationOptions = DEFAULTS, *, timeout_s: float | None = None
    ) -> AsyncTokenStream:
        """`async for token in model.astream(prompt)`; leaving the loop or cancelling the task stops within one token."""
        return self._worker.stream(self._turns, partial(self.stream, prompt, options, timeout_s=timeout_s))

    def astream_chat(
        self,
        messages: Sequence[Message],
        options: GenerationOptions = DEFAULTS,
        *,
        overflow: Overflow = "error",
        timeout_s: float | None = None,
    ) -> AsyncTokenStream:
        return self._worker.stream(
            self._turns, partial(self.stream_chat, messages, options, overflow=overflow, timeout_s=timeout_s)
        )

    async def agenerate(
        self, prompt: str, options: GenerationOptions = DEFAULTS, *, timeout_s: float | None = None
    ) -> Completion:
        return await self._worker.complete(
            self._turns, partial(self.stream, prompt, options, timeout_s=timeout_s)
        )

    async def achat(
        self,
        messages: Sequence[Message],
        options: GenerationOptions = DEFAULTS,
        *,
        overflow: Overflow = "error",
        timeout_s: float | None = None,
    ) -> Completion:
        return await self._worker.complete(
            self._turns, partial(self.stream_chat, messages, options, overflow=overflow, timeout_s=timeout_s)
        )

    async def aembed(
        self,
        texts: Sequence[str],
        options: EmbeddingOptions = EMBEDDING_DEFAULTS,
        *,
        timeout_s: float | None = None,
    ) -> Embeddings:
        return await self._worker.run(self._turns, partial(self._embed, texts, options, timeout_s))

    async def ascore(self, text: str, *, stride: int | None = None, timeout_s: float | None = None) -> Score:
        return await self._worker.run(self._turns, partial(self._score, text, stride, timeout_s))

    def close(self) -> None:
        """Free the engine's memory, after the token that is being computed; whoever reads or waits for a text gets a
        RuntimeFailure. Closing twice is harmless.
        """
        self._turns.close()
        with self._turns.alone():
            self._free()
        self._worker.close()

    async def aclose(self) -> None:
        await self._worker.close_elsewhere(self.close)

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Model:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _open(
        self,
        prompt: Sequence[int],
        options: GenerationOptions,
        timeout_s: float | None,
        dropped_messages: tuple[Message, ...] = (),
    ) -> TokenStream:
        room_for(self.context_length, len(prompt), options, self.defaults)
        return TokenStream(self._turns, prompt, partial(self._begin, options), timeout_s, dropped_messages)

    def _begin(self, options: GenerationOptions, stream: TokenStream) -> Generator[Token]:
        """Called when it is the stream's turn: put the sessions where its prompt parts from what they hold."""
        sampling = self.defaults.sampling_for(options.sampling)
        proposer = proposer_for(options.speculation, sampling, self.draft, self.lookup)
        stream.cached_tokens = self._place(self.session, stream, options)
        if isinstance(proposer, Draft) and isinstance(proposer.session, HeldSession):
            self._place(proposer.session, stream, options)
        settled = replace(options, sampling=sampling)
        return generate(self.session, self.tokenizer, stream.prompt, settled, proposer, self.defaults)

    def _embed(
        self, texts: Sequence[str], options: EmbeddingOptions, timeout_s: float | None, ticket: Ticket
    ) -> Embeddings:
        with self._turns.held(ticket, timeout_s):
            if self._encoder is None:
                self._encoder = open_encoder(self.format, self.container.path, self._options)
                self._closers.append(self._encoder.close)
            stop = ticket.raise_if_cancelled
            return embed_texts(self._encoder, self.tokenizer, texts, options, before_each=stop)

    def _score(self, text: str, stride: int | None, timeout_s: float | None, ticket: Ticket) -> Score:
        with self._turns.held(ticket, timeout_s):
            self.session.ticket = ticket
            return score_text(self.session, self.tokenizer, text, stride=stride)

    @staticmethod
    def _place(session: HeldSession, stream: TokenStream, options: GenerationOptions) -> int:
        session.ticket = stream.ticket
        if options.prompt_cache:
            return session.rewind_to_shared(stream.prompt)
        session.rewind(0)
        return 0


def _close_all(closers: Sequence[Callable[[], None]]) -> None:
    for close in closers:
        close()
