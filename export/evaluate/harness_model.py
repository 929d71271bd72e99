"""An artifact as a model of the lm-evaluation-harness: log likelihoods and generation over any of its containers.

Imported by the harness when `--model edgeport` is asked for, and by nothing else: it needs the extra `harness`. Interface:
lm_eval/api/model.py of lm-evaluation-harness 0.4. One sequence at a time; a beginning shared with the request before is not
fed again. What does not fit the context is cut from the left, as the harness's other models do, and every cut is said.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from edgeport.errors import UsageError
from edgeport.export.evaluate.choices import Scorer
from edgeport.export.evaluate.engines import engine_for
from edgeport.lazy import load
from edgeport.progress import Progress
from edgeport.runtimes.artifact import choose
from edgeport.runtimes.container import find_containers
from edgeport.runtimes.generate import GenerationOptions, generate
from edgeport.runtimes.sampling import GREEDY, Sampling
from edgeport.runtimes.session import Session, SessionOptions
from edgeport.runtimes.tokenizer import open_tokenizer

DEFAULT_NEW_TOKENS = 256
_GENERATION_KEYS = frozenset({"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k", "min_p"})
_log = logging.getLogger(__name__)

Encoded = tuple[tuple[str, str], list[int], list[int]]


class EdgeportModel(TemplateLM):  # type: ignore[misc]  # the harness is not typed
    """`--model_args artifact=DIR,runtime=onnx`; runtime is a container's format, by default the best that is installed.

    threads: of the engine. max_length: tokens of context (default: the model's, at most 2048). prefix_token: the token that
    an empty context stands for (default: the begin token, or the first that ends a text).
    """

    def __init__(
        self,
        artifact: str,
        runtime: str | None = None,
        threads: int | None = None,
        max_length: int | None = None,
        prefix_token: int | None = None,
        **harness: Any,
    ) -> None:
        super().__init__()
        _check_harness_arguments(harness)
        container, _ = choose(find_containers(Path(artifact)), runtime)
        engine = engine_for(container.format)
        options = SessionOptions(threads=threads, context_length=max_length)
        self._session: Session = load(engine.opener, extra=engine.extra)(container.path, options)
        self._vocabulary = open_tokenizer(container)
        self._begin = self._vocabulary.encode("")
        self._prefix_token = prefix_token
        self._artifact = artifact

    @property
    def max_length(self) -> int:
        return self._session.context_length

    @property
    def eot_token_id(self) -> int:
        """The first token that ends a text."""
        for token in range(self._session.vocab_size):
            if self._vocabulary.is_stop(token):
                return token
        raise UsageError(
            "this model names no token that ends a text", hint="give prefix_token=ID in --model_args"
        )

    @property
    def prefix_token_id(self) -> int:
        if self._prefix_token is not None:
            return self._prefix_token
        return self._begin[0] if self._begin else self.eot_token_id

    @property
    def tokenizer_name(self) -> str:
        return self._artifact.replace("/", "__")

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        if not add_generation_prompt:
            raise UsageError(
                "edgeport writes chat prompts that the model answers; prefilled answers are not offered"
            )
        return self._vocabulary.chat_prompt(chat_history)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """As the artifact's tokenizer does; a begin token that the text brings itself (chat templates) is not doubled."""
        plain = self._vocabulary.encode(string, add_special_tokens=False)
        brought = bool(self._begin) and plain[: len(self._begin)] == self._begin
        if add_special_tokens is False or (add_special_tokens is None and brought):
            return plain
        return self._vocabulary.encode(string)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """ln p of each whole text after the prefix token, in windows that overlap by one token."""
        scorer, results = Scorer(self._session), []
        for request in _progress(requests, "loglikelihood_rolling", disable_tqdm):
            (text,) = request.args
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text, add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            total = sum(
                scorer.score(context, [continuation])[0].log_probability
                for context, continuation in map(make_disjoint_window, windows)
            )
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
            results.append(total)
        return results

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The text up to a stop string, a stop token or `max_gen_toks`; greedy unless `do_sample` is asked for."""
        results = []
        for request in _progress(requests, "generate_until", disable_tqdm):
            context, wanted = request.args
            text = self._generate(context, wanted)
            self.cache_hook.add_partial("generate_until", request.args, text)
            results.append(text)
        return results

    def _loglikelihood_tokens(
        self, requests: Sequence[Encoded], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        scorer, results = Scorer(self._session), []
        for texts, context, continuation in _progress(requests, "loglikelihood", disable_tqdm):
            prefix = self._fitting(context or [self.prefix_token_id], len(continuation))
            (score,) = scorer.score(prefix, [continuation])
            result = (score.log_probability, score.greedy)
            self.cache_hook.add_partial("loglikelihood", texts, result)
            results.append(result)
        return results

    def _generate(self, context: str, wanted: Mapping[str, Any]) -> str:
        for key in sorted(set(wanted) - _GENERATION_KEYS):
            _log.warning("generation argument %s=%r is not known here and has no effect", key, wanted[key])
        until = wanted.get("until") or ()
        stop = (until,) if isinstance(until, str) else tuple(until)
        new_tokens = min(int(wanted.get("max_gen_toks", DEFAULT_NEW_TOKENS)), self.max_length - 1)
        prompt = self._fitting(self.tok_encode(context) or [self.prefix_token_id], new_tokens)
        options = GenerationOptions(max_tokens=new_tokens, sampling=_sampling(wanted), stop=stop)
        self._session.rewind(0)
        return "".join(token.text for token in generate(self._session, self._vocabulary, prompt, options))

    def _fitting(self, context: list[int], following: int) -> list[int]:
        """The end of `context` that leaves room for `following` tokens, of which the last is never fed."""
        room = self.max_length - following + 1
        if room < 1:
            raise UsageError(
                f"a continuation of {following} tokens does not fit a context of {self.max_length}",
                hint="raise max_length in --model_args, if the model can hold more",
            )
        if len(context) > room:
            _log.warning("a context of %d tokens is cut from the left to %d", len(context), room)
        return context[-room:]


def _check_harness_arguments(arguments: Mapping[str, Any]) -> None:
    """The harness passes its own three to every model; anything else is a misspelled --model_args."""
    unknown = sorted(set(arguments) - {"batch_size", "max_batch_size", "device"})
    if unknown:
        raise UsageError(
            f"unknown in --model_args: {', '.join(unknown)}",
            hint="known are artifact, runtime, threads, max_length, prefix_token",
        )
    if str(arguments.get("batch_size") or 1) not in ("1", "auto"):
        _log.warning("batch_size %s has no effect: sequences run one at a time", arguments["batch_size"])
    if str(arguments.get("device") or "cpu") != "cpu":
        _log.warning("device %s has no effect: the engine chooses its own", arguments["device"])


def _sampling(wanted: Mapping[str, Any]) -> Sampling:
    temperature = float(wanted.get("temperature") or 0.0)
    if not wanted.get("do_sample", temperature > 0) or temperature == 0:
        return GREEDY
    return Sampling(
        temperature=temperature,
        top_k=int(wanted.get("top_k") or 0),
        top_p=float(wanted.get("top_p") or 1.0),
        min_p=float(wanted.get("min_p") or 0.0),
        seed=0,
    )


def _progress(items: Sequence[Any], title: str, disabled: bool) -> Iterator[Any]:
    with Progress(quiet=disabled).stage(title, total=len(items)) as stage:
        for item in items:
            yield item
            stage.advance()
