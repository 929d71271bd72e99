"""`edgeport run DIR "prompt"`: stream text from an exported model, or talk to it with --chat.

stdout is the text alone (or one JSON document), stderr says which engine was chosen and how fast it was.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from edgeport.cli.emulation import add_emulation_arguments, emulation_of
from edgeport.errors import UsageError

if TYPE_CHECKING:
    from edgeport.runtimes import GenerationOptions, Model, Token


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", help="an artifact folder, one of its sub-folders, or a model file")
    parser.add_argument("prompt", nargs="?", help="the text to continue; '-' reads it from stdin")
    parser.add_argument(
        "--chat", action="store_true", help="use the chat template; without a prompt, talk until end of input"
    )
    parser.add_argument("--system", help="system message for --chat")
    parser.add_argument(
        "--runtime", help="gguf, onnx, openvino or safetensors (default: the best one installed)"
    )
    parser.add_argument(
        "--max-tokens", type=int, help="stop after this many (default: 256, or what fits the context)"
    )
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="stop before this text; may be repeated"
    )
    sampling = parser.add_argument_group("sampling (greedy unless --temperature is above 0)")
    sampling.add_argument("--temperature", type=float, default=0.0)
    sampling.add_argument("--top-k", type=int, default=0, help="0 keeps all (default)")
    sampling.add_argument("--top-p", type=float, default=1.0)
    sampling.add_argument("--min-p", type=float, default=0.0)
    sampling.add_argument("--repetition-penalty", type=float, default=1.0)
    sampling.add_argument("--seed", type=int, help="the same seed gives the same text")
    engine = parser.add_argument_group("engine")
    engine.add_argument("--threads", type=int, help="default: the physical cores this process may use")
    engine.add_argument(
        "--context-length", type=int, help="tokens of prompt and text (default: the model's, at most 2048)"
    )
    engine.add_argument(
        "--draft",
        choices=("auto", "none"),
        default="auto",
        help="let the artifact's draft propose tokens while that is faster (default: auto; the text is the same)",
    )
    engine.add_argument(
        "--exact", action="store_true", help="the engine's most exact arithmetic, slow; for comparisons"
    )
    add_emulation_arguments(engine)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of streamed text")


def run(arguments: argparse.Namespace) -> int:
    """0; under emulation the same in a process that has the device's limits. DoesNotFit when they end it."""
    emulation, _ = emulation_of(arguments)
    if emulation is None:
        return answer(**vars(arguments))
    from edgeport.runtimes.isolation import run_isolated

    _say(f"as {emulation}")
    for note in emulation.notes:
        _say(note)
    threads = min(arguments.threads or len(emulation.cpus), len(emulation.cpus))
    code = run_isolated(
        "edgeport.cli.run:answer",
        {**vars(arguments), "threads": threads},
        timeout_s=None,
        confinement=emulation.confinement,
        own_streams=False,
    )
    return int(code)


def answer(**values: Any) -> int:
    """The command's arguments by name, JSON values all of them: load, write the text, close."""
    from edgeport.runtimes import SessionOptions, load

    arguments = argparse.Namespace(**values)
    prompt = _prompt(arguments)
    options = _generation_options(arguments)
    session_options = SessionOptions(arguments.threads, arguments.context_length, arguments.exact)
    with load(
        arguments.directory, runtime=arguments.runtime, options=session_options, draft=arguments.draft
    ) as model:
        _say(f"{model.engine} ({model.format}): {model.choice_reason}")
        if prompt is None:
            return _talk(model, options, arguments.system)
        if arguments.json:
            return _print_json(model, prompt, options, arguments)
        _answer(model, prompt, options, arguments)
        _say_draft(model)
    return 0


def _prompt(arguments: argparse.Namespace) -> str | None:
    """None means an interactive chat."""
    if arguments.prompt == "-":
        return sys.stdin.read()
    if arguments.prompt is None and (not arguments.chat or arguments.json):
        raise UsageError("no prompt", hint='edgeport run DIR "text", or --chat to talk')
    return str(arguments.prompt) if arguments.prompt is not None else None


def _generation_options(arguments: argparse.Namespace) -> GenerationOptions:
    from edgeport.runtimes import GenerationOptions, Sampling

    sampling = Sampling(
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        repetition_penalty=arguments.repetition_penalty,
        seed=arguments.seed,
    )
    return GenerationOptions(arguments.max_tokens, sampling, tuple(arguments.stop))


def _messages(prompt: str, system: str | None) -> list[dict[str, str]]:
    opening = [{"role": "system", "content": system}] if system else []
    return [*opening, {"role": "user", "content": prompt}]


def _answer(model: Model, prompt: str, options: GenerationOptions, arguments: argparse.Namespace) -> None:
    """One prompt, streamed: a plain continuation repeats the prompt, a chat answer stands alone."""
    if arguments.chat:
        _show(model.stream_chat(_messages(prompt, arguments.system), options))
        return
    stream = model.stream(prompt, options)
    sys.stdout.write(prompt)
    _show(stream)


def _show(stream: Iterator[Token]) -> str:
    """Write tokens as they come, then the speed to stderr; return the text."""
    begin = time.perf_counter()
    times, pieces = [], []
    for token in stream:
        times.append(time.perf_counter())
        pieces.append(token.text)
        sys.stdout.write(token.text)
        sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()
    _say(_statistics(begin, times))
    return "".join(pieces)


def _talk(model: Model, options: GenerationOptions, system: str | None) -> int:
    """Read a line, answer, repeat; an empty line or the end of input ends it."""
    messages = [{"role": "system", "content": system}] if system else []
    while True:
        sys.stderr.write("> ")
        sys.stderr.flush()
        line = sys.stdin.readline()
        if not line.strip():
            return 0
        messages.append({"role": "user", "content": line.rstrip("\n")})
        messages.append({"role": "assistant", "content": _show(model.stream_chat(messages, options))})


def _print_json(model: Model, prompt: str, options: GenerationOptions, arguments: argparse.Namespace) -> int:
    from edgeport.manifest import to_json

    answer = (
        model.chat(_messages(prompt, arguments.system), options)
        if arguments.chat
        else model.generate(prompt, options)
    )
    document = {
        "format": model.format,
        "engine": model.engine,
        "choice_reason": model.choice_reason,
        "prompt": prompt,
        "draft": None if model.draft is None else to_json(model.draft.acceptance()),
    }
    print(json.dumps({**document, **to_json(answer)}, ensure_ascii=False, indent=2))
    return 0


def _statistics(begin: float, times: list[float]) -> str:
    first = f"first token after {(times[0] - begin) * 1000:.0f} ms"
    if len(times) < 2:
        return f"{len(times)} token, {first}"
    rate = (len(times) - 1) / (times[-1] - times[0])
    return f"{len(times)} tokens, {first}, then {rate:.1f} tokens/s"


def _say_draft(model: Model) -> None:
    """What the draft brought; nothing when there is none or it was never asked."""
    if model.draft is None or not model.draft.acceptance().steps:
        return
    found = model.draft.acceptance()
    verdict = "; switched off, the model is faster alone" if model.draft.is_off else ""
    _say(
        f"draft: {found.rate:.0%} of its proposals kept, {found.tokens_per_step:.2f} tokens per step{verdict}"
    )


def _say(text: str) -> None:
    print(f"edgeport: {text}", file=sys.stderr)
