"""A specification in llguidance's own form, or a UsageError that names the place that cannot be read or satisfied."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from edgeport.errors import UsageError
from edgeport.runtimes.constraint import Grammar, JsonSchema, Regex, Specification

_LAYOUT: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""One line, spaced as most JSON a model has read. With free whitespace a model can write spaces until its tokens run out."""
_NAMED = ("$defs", "definitions", "properties", "patternProperties")
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_SINGLE = ("items", "additionalProperties")


def rules_of(specification: Specification, vocabulary: LLTokenizer) -> str:
    """The grammar as the matcher takes it; it was compiled once and has no error."""
    if isinstance(specification, JsonSchema):
        return _schema_rules(specification.document, vocabulary)
    if isinstance(specification, Grammar):
        rules, what = LLMatcher.grammar_from_lark(specification.text), "grammar"
    elif isinstance(specification, Regex):
        rules, what = LLMatcher.grammar_from_regex(specification.pattern), "regular expression"
    else:
        raise UsageError(
            f"a constraint cannot be {type(specification).__name__}", hint="JsonSchema, Grammar or Regex"
        )
    cause = _error(rules, vocabulary)
    if cause is not None:
        raise UsageError(
            f"the {what} cannot be used: {cause}", hint="docs/constrained.md says what one may hold"
        )
    return str(rules)


def _schema_rules(document: Mapping[str, Any] | str, vocabulary: LLTokenizer) -> str:
    schema = _read(document)
    rules = _compile(schema)
    cause = _error(rules, vocabulary)
    if cause is not None:
        place = _place(schema, cause, vocabulary)
        raise UsageError(
            f"the JSON schema cannot be used at #{place}: {cause}",
            hint="docs/constrained.md says which keywords there are",
        )
    return rules


def _read(document: Mapping[str, Any] | str) -> dict[str, Any]:
    if isinstance(document, str):
        try:
            document = json.loads(document)
        except json.JSONDecodeError as error:
            raise UsageError(
                f"the JSON schema is no JSON: {error.msg} in line {error.lineno}, column {error.colno}"
            ) from error
    if not isinstance(document, Mapping):
        raise UsageError(f"a JSON schema must be an object, not {json.dumps(document)[:40]}")
    return dict(document)


def _compile(schema: Mapping[str, Any]) -> str:
    try:
        return str(LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=_LAYOUT))
    except (TypeError, ValueError) as error:
        raise UsageError(f"the JSON schema cannot be read: {error}") from error


def _error(rules: str, vocabulary: LLTokenizer) -> str | None:
    is_error, messages = LLMatcher.validate_grammar_with_warnings(rules, vocabulary)
    # behind a $ref it also says where it came from, which differs from place to place
    return str(messages[0]).partition("\n  while processing")[0].rstrip() if is_error else None


def _place(schema: Mapping[str, Any], cause: str, vocabulary: LLTokenizer) -> str:
    """JSON pointer to the innermost schema that by itself fails with the same cause; llguidance does not tell."""
    shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}

    def descend(part: Mapping[str, Any], pointer: str) -> str:
        for step, child in _children(part):
            if _error(_compile({**shared, **child}), vocabulary) == cause:
                return descend(child, pointer + step)
        return pointer

    return descend(schema, "") or "/"


def _children(schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every schema directly inside one, with the steps of the pointer that lead there."""
    for keyword in _NAMED:
        for name, child in _items(schema.get(keyword)):
            if isinstance(child, Mapping):
                yield f"/{keyword}/{_escaped(name)}", child
    for keyword in _LISTED:
        children = schema.get(keyword)
        for index, child in enumerate(children if isinstance(children, list) else ()):
            if isinstance(child, Mapping):
                yield f"/{keyword}/{index}", child
    for keyword in _SINGLE:
        if isinstance(schema.get(keyword), Mapping):
            yield f"/{keyword}", schema[keyword]


def _items(value: Any) -> list[tuple[str, Any]]:
    return [(str(name), child) for name, child in value.items()] if isinstance(value, Mapping) else []


def _escaped(name: str) -> str:
    """RFC 6901."""
    return name.replace("~", "~0").replace("/", "~1")
