"""How `edgeport run` is told to write: its options for sampling and constraints, and what they become."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeport.errors import UsageError

if TYPE_CHECKING:
    from edgeport.runtimes import GenerationOptions
    from edgeport.runtimes.constraint import Specification


def add_writing_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-tokens", type=int, help="stop after this many (default: the model's own, 256, or what fits)"
    )
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="stop before this text; may be repeated"
    )
    sampling = parser.add_argument_group(
        "sampling (default: what the model's generation_config.json says, else greedy)"
    )
    sampling.add_argument("--temperature", type=float, help="0 is greedy")
    sampling.add_argument("--top-k", type=int, help="keep the likeliest, 0 keeps all")
    sampling.add_argument("--top-p", type=float, help="keep the fewest that reach this probability")
    sampling.add_argument(
        "--min-p", type=float, help="drop what is less likely than this times the likeliest"
    )
    sampling.add_argument("--repetition-penalty", type=float, help="above 1: less of what occurred")
    sampling.add_argument("--presence-penalty", type=float, help="taken once from what the text has")
    sampling.add_argument("--frequency-penalty", type=float, help="taken for each time the text has it")
    sampling.add_argument(
        "--logit-bias",
        action="append",
        default=[],
        metavar="ID=BIAS",
        help="added to a token's logit, -inf forbids",
    )
    sampling.add_argument(
        "--logprobs", type=int, metavar="N", help="with --json: ln p of each token, and of the N likeliest"
    )
    sampling.add_argument("--seed", type=int, help="the same seed gives the same text")
    form = parser.add_argument_group("form of the text (docs/constrained.md)").add_mutually_exclusive_group()
    form.add_argument("--json-schema", metavar="FILE", help="JSON that satisfies this schema")
    form.add_argument("--grammar", metavar="FILE", help="a text of this grammar (llguidance's Lark)")
    form.add_argument("--regex", metavar="PATTERN", help="a text that matches")


def generation_options(arguments: argparse.Namespace) -> GenerationOptions:
    """Raises UsageError for values out of range and for files that cannot be read."""
    from edgeport.runtimes import GenerationOptions, SamplingChanges
    from edgeport.runtimes.sampling import GREEDY

    given = {item.name: getattr(arguments, item.name) for item in fields(SamplingChanges)}
    changes = replace(SamplingChanges(**given), logit_bias=_logit_bias(arguments.logit_bias))
    changes.applied_to(GREEDY)  # says what is out of range before a model is opened
    return GenerationOptions(
        max_tokens=arguments.max_tokens,
        sampling=changes,
        stop=tuple(arguments.stop),
        logprobs=arguments.logprobs is not None,
        top_logprobs=arguments.logprobs or 0,
        prompt_cache=not arguments.no_cache,
        constraint=_constraint(arguments),
        speculation=arguments.speculation,
    )


def _constraint(arguments: argparse.Namespace) -> Specification | None:
    from edgeport.runtimes import Grammar, JsonSchema, Regex

    if arguments.json_schema is not None:
        return JsonSchema(_read(arguments.json_schema))
    if arguments.grammar is not None:
        return Grammar(_read(arguments.grammar))
    return None if arguments.regex is None else Regex(arguments.regex)


def _read(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(f"{name} cannot be read: {error}") from error


def _logit_bias(words: list[str]) -> dict[int, float] | None:
    bias = {}
    for word in words:
        token, _, value = word.partition("=")
        try:
            bias[int(token)] = float(value)
        except ValueError:
            raise UsageError(
                f"--logit-bias {word!r}", hint="a token id and a number: 42=-5, or 42=-inf"
            ) from None
    return bias or None
