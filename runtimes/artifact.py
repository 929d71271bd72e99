"""`load` an artifact: choose the engine for this host, say why, and give text in, text out.

    with load("artifact") as model:
        for token in model.stream("def main("):
            print(token.text, end="")

Everything heavy is imported when an engine is opened, not when this module is.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeport.devices.cpu import read_cpu
from edgeport.errors import MissingExtra, UsageError
from edgeport.manifest import base_format, is_native
from edgeport.runtimes.container import Container, find_containers
from edgeport.runtimes.drafts import DRAFT_CHOICES, open_draft
from edgeport.runtimes.engines import ENGINES, open_session, unavailable_because
from edgeport.runtimes.generate import FinishReason, GenerationOptions, Token, generate
from edgeport.runtimes.generation_defaults import PLAIN
from edgeport.runtimes.session import Session, SessionOptions
from edgeport.runtimes.speculative import Draft
from edgeport.runtimes.tokenizer import Message, Tokenizer, open_tokenizer

if TYPE_CHECKING:
    from types import TracebackType

DEFAULTS = GenerationOptions()


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer. ttft_ms: the prompt fed and the first token chosen, tokenization excluded; decode excludes that token."""

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    ttft_ms: float
    decode_tokens_per_s: float | None


def load(
    path: str | Path,
    *,
    runtime: str | None = None,
    options: SessionOptions | None = None,
    draft: str = "none",
) -> Model:
    """Open an artifact folder, one of its sub-folders or a model file.

    runtime: the container to use by its format (gguf, onnx, openvino, safetensors, gguf-q4_k_m); None takes the best that is
    installed here. draft: "auto" also opens the artifact's draft, where it has one, and lets it propose tokens.
    Raises UsageError for a runtime the path does not have, MissingExtra when no engine for it is installed.
    """
    if draft not in DRAFT_CHOICES:
        raise UsageError(f"draft is {draft!r}", hint=f"it can be {' or '.join(DRAFT_CHOICES)}")
    container, reason = choose(find_containers(Path(path)), runtime)
    options = options or SessionOptions()
    session = open_session(container.format, container.path, options)
    try:
        tokenizer = open_tokenizer(container)
        helper = open_draft(container, session, tokenizer, options) if draft == "auto" else None
        return Model(container, session, tokenizer, reason, helper)
    except BaseException:
        session.close()
        raise


class Model:
    """One loaded container with its tokenizer. Each call starts a new text; not thread-safe. Close it, or use `with`.

    draft: what proposes tokens for greedy text, and for sampled text without a seed. A seed promises the same text again,
    and with a draft that the clock may switch off the random numbers would not be used up in the same order.
    """

    def __init__(
        self,
        container: Container,
        session: Session,
        tokenizer: Tokenizer,
        choice_reason: str,
        draft: Draft | None = None,
    ) -> None:
        self.container = container
        self.session = session
        self.tokenizer = tokenizer
        self.choice_reason = choice_reason
        self.draft = draft

    @property
    def format(self) -> str:
        return self.container.format

    @property
    def engine(self) -> str:
        return ENGINES[base_format(self.format)].name

    def stream(self, prompt: str, options: GenerationOptions = DEFAULTS) -> Iterator[Token]:
        """Continue `prompt`, token by token. Closing the iterator stops at once."""
        return self._stream(self.tokenizer.encode(prompt), options)

    def stream_chat(
        self, messages: Sequence[Message], options: GenerationOptions = DEFAULTS
    ) -> Iterator[Token]:
        """Answer the last of `messages` in the model's own chat template."""
        return self._stream(self.chat_tokens(messages), options)

    def generate(self, prompt: str, options: GenerationOptions = DEFAULTS) -> Completion:
        """The whole continuation of `prompt` at once."""
        return self._complete(self.tokenizer.encode(prompt), options)

    def chat(self, messages: Sequence[Message], options: GenerationOptions = DEFAULTS) -> Completion:
        """The whole answer to `messages` at once."""
        return self._complete(self.chat_tokens(messages), options)

    def chat_tokens(self, messages: Sequence[Message]) -> list[int]:
        # the template writes the special tokens itself
        return self.tokenizer.encode(self.tokenizer.chat_prompt(messages), add_special_tokens=False)

    def close(self) -> None:
        """Free the engine's memory; closing twice is harmless."""
        self.session.close()
        if self.draft is not None:
            self.draft.session.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _stream(self, prompt: Sequence[int], options: GenerationOptions) -> Iterator[Token]:
        self.session.rewind(0)
        sampling = PLAIN.sampling_for(options.sampling)
        if self.draft is None or (sampling.temperature > 0 and sampling.seed is not None):
            return generate(self.session, self.tokenizer, prompt, options)
        self.draft.session.rewind(0)
        return generate(self.session, self.tokenizer, prompt, options, self.draft)

    def _complete(self, prompt: Sequence[int], options: GenerationOptions) -> Completion:
        begin = time.perf_counter()
        tokens, times = [], []
        for token in self._stream(prompt, options):
            tokens.append(token)
            times.append(time.perf_counter())
        decode_s = times[-1] - times[0]
        return Completion(
            text="".join(token.text for token in tokens),
            tokens=tuple(token.id for token in tokens),
            finish_reason=tokens[-1].finish_reason or "length",
            prompt_tokens=len(prompt),
            ttft_ms=(times[0] - begin) * 1000,
            decode_tokens_per_s=(len(times) - 1) / decode_s if decode_s > 0 else None,
        )


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
