"""`edgeport run DIR "prompt"`: stream text from an exported model, or talk to it with --chat.

stdout is the text alone (or one JSON document), stderr says which engine was chosen and how fast it was.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from edgeport.cli.chat_loop import say, show, talk
from edgeport.cli.emulation import add_emulation_arguments, emulation_of
from edgeport.cli.run_encoder import answer_encoder
from edgeport.cli.run_options import add_writing_arguments, generation_options
from edgeport.errors import UsageError

if TYPE_CHECKING:
    from edgeport.runtimes import GenerationOptions, Model
    from edgeport.runtimes.acceptance import Acceptance
    from edgeport.runtimes.conversation import Overflow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", help="an artifact folder, one of its sub-folders, or a model file")
    parser.add_argument("prompt", nargs="?", help="the text to continue; '-' reads it from stdin")
    parser.add_argument(
        "--chat",
        action="store_true",
        help="use the chat template; without a prompt, talk until end of input (Ctrl-C stops an answer)",
    )
    parser.add_argument("--system", help="system message for --chat")
    parser.add_argument(
        "--overflow",
        choices=("error", "drop_oldest_messages"),
        help="a conversation too long for the context (default: an error; in a talk, the oldest messages are left out)",
    )
    parser.add_argument(
        "--runtime", help="gguf, onnx, openvino or safetensors (default: the best one installed)"
    )
    add_writing_arguments(parser)
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
        "--speculation",
        choices=("auto", "none", "lookup"),
        default="auto",
        help="who proposes tokens: the draft, nobody, or a look back into the text (docs/drafts.md)",
    )
    engine.add_argument(
        "--no-cache", action="store_true", help="compute every prompt anew, shared beginnings too"
    )
    engine.add_argument(
        "--no-tuned", action="store_true", help="not with the settings `edgeport tune` found for this machine"
    )
    engine.add_argument(
        "--exact", action="store_true", help="the engine's most exact arithmetic, slow; for comparisons"
    )
    engine.add_argument(
        "--check",
        choices=("auto", "always", "never"),
        default="auto",
        help="open the file in a child process first (default: auto, when it was never loaded here)",
    )
    add_emulation_arguments(engine)
    parser.add_argument(
        "--stats", action="store_true", help="say more: settings, tokens, cache, why it ended"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document instead of streamed text")


def run(arguments: argparse.Namespace) -> int:
    """0; under emulation the same in a process that has the device's limits. DoesNotFit when they end it."""
    emulation, _ = emulation_of(arguments)
    if emulation is None:
        return answer(**vars(arguments))
    from edgeport.runtimes.isolation import run_isolated

    say(f"as {emulation}")
    for note in emulation.notes:
        say(note)
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
    from edgeport.runtimes import EncoderModel, SessionOptions, load

    arguments = argparse.Namespace(**values)
    prompt = _prompt(arguments)
    options = generation_options(arguments)
    session_options = SessionOptions(arguments.threads, arguments.context_length, arguments.exact)
    with load(
        arguments.directory,
        runtime=arguments.runtime,
        options=session_options,
        draft=arguments.draft,
        check=arguments.check,
        tuned=not arguments.no_tuned,
    ) as model:
        say(f"{model.engine} ({model.format}): {model.choice_reason}")
        if isinstance(model, EncoderModel):
            return answer_encoder(model, prompt, arguments)
        if arguments.stats:
            _say_settings(model, options)
        if prompt is None:
            overflow: Overflow = arguments.overflow or "drop_oldest_messages"
            return talk(model, options, arguments.system, overflow, arguments.stats)
        if arguments.json:
            return _print_json(model, prompt, options, arguments)
        _answer(model, prompt, options, arguments)
        _say_proposals(model)
    return 0


def _prompt(arguments: argparse.Namespace) -> str | None:
    """None means an interactive chat."""
    if not arguments.chat and (arguments.system is not None or arguments.overflow is not None):
        raise UsageError("--system and --overflow are about conversations", hint="add --chat")
    if arguments.prompt == "-":
        return sys.stdin.read()
    if arguments.prompt is None and (not arguments.chat or arguments.json):
        raise UsageError("no prompt", hint='edgeport run DIR "text", or --chat to talk')
    return str(arguments.prompt) if arguments.prompt is not None else None


def _messages(prompt: str, system: str | None) -> list[dict[str, str]]:
    opening = [{"role": "system", "content": system}] if system else []
    return [*opening, {"role": "user", "content": prompt}]


def _answer(model: Model, prompt: str, options: GenerationOptions, arguments: argparse.Namespace) -> None:
    """One prompt, streamed: a plain continuation repeats the prompt, a chat answer or a constrained text stands alone."""
    if arguments.chat:
        messages = _messages(prompt, arguments.system)
        show(model.stream_chat(messages, options, overflow=arguments.overflow or "error"), arguments.stats)
        return
    stream = model.stream(prompt, options)
    if options.constraint is None:
        sys.stdout.write(prompt)
    show(stream, arguments.stats)


def _print_json(model: Model, prompt: str, options: GenerationOptions, arguments: argparse.Namespace) -> int:
    from edgeport.manifest import to_json

    answer = (
        model.chat(_messages(prompt, arguments.system), options, overflow=arguments.overflow or "error")
        if arguments.chat
        else model.generate(prompt, options)
    )
    document = {
        "format": model.format,
        "engine": model.engine,
        "choice_reason": model.choice_reason,
        "prompt": prompt,
        "sampling": to_json(model.defaults.sampling_for(options.sampling)),
        "draft": None if model.draft is None else to_json(model.draft.acceptance()),
    }
    print(json.dumps({**document, **to_json(answer)}, ensure_ascii=False, indent=2))
    return 0


def _say_settings(model: Model, options: GenerationOptions) -> None:
    sampling, defaults = model.defaults.sampling_for(options.sampling), model.defaults
    values = {name: getattr(sampling, name) for name in ("temperature", "top_k", "top_p", "min_p")}
    say(f"sampling: {', '.join(f'{name} {value:g}' for name, value in values.items())}")
    say(f"engine: {model.settings}")
    say(f"the model's own settings: {defaults.origin}; context {model.context_length} tokens")
    if defaults.ignored:
        say(f"without effect here: {', '.join(defaults.ignored)}")


def _say_proposals(model: Model) -> None:
    """What draft and lookup brought; nothing of one that was never asked."""
    if model.draft is not None and model.draft.acceptance().steps:
        _say_acceptance("draft", model.draft.acceptance(), model.draft.is_off)
    if model.lookup.acceptance().steps:
        _say_acceptance("lookup", model.lookup.acceptance(), model.lookup.is_off)


def _say_acceptance(who: str, found: Acceptance, is_off: bool) -> None:
    verdict = "; switched off, the model is faster alone" if is_off else ""
    say(
        f"{who}: {found.rate:.0%} of its proposals kept, {found.tokens_per_step:.2f} tokens per step{verdict}"
    )
