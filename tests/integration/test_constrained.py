"""Twenty schemas on every engine: the reference model, greedy and sampled, writes nothing but valid JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from edgeport.runtimes import GenerationOptions, Model, Sampling, SessionOptions, load
from edgeport.runtimes.constraint import Grammar, JsonSchema, Regex
from edgeport.runtimes.engines import ENGINES, unavailable_because

SHORT = {"type": "string", "maxLength": 8}
SCHEMAS: Mapping[str, dict[str, Any]] = {
    "object": {
        "type": "object",
        "properties": {"name": SHORT, "age": {"type": "integer", "minimum": 0, "maximum": 150}},
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    "nested": {
        "type": "object",
        "properties": {
            "outer": {
                "type": "object",
                "properties": {"inner": {"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"], "additionalProperties": False}},
                "required": ["inner"],
                "additionalProperties": False,
            }
        },
        "required": ["outer"],
        "additionalProperties": False,
    },
    "array with bounds": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    "tuple": {"type": "array", "prefixItems": [{"type": "integer", "minimum": 0, "maximum": 9}, SHORT], "items": False, "minItems": 2},
    "enum": {"enum": ["red", "green", "blue", 3, None]},
    "const": {"const": {"version": [1, 2], "ok": True}},
    "pattern": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
    "integer range": {"type": "integer", "minimum": -5, "maximum": 1024},
    "number range": {"type": "number", "minimum": 0, "exclusiveMaximum": 10, "multipleOf": 0.25},
    "exclusive bounds": {"type": "integer", "exclusiveMinimum": 10, "exclusiveMaximum": 14},
    "anyOf": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 99}, {"type": "null"}, {"type": "array", "items": {"type": "null"}, "maxItems": 2}]},
    "oneOf": {"oneOf": [{"const": "on"}, {"const": "off"}]},
    "allOf": {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 7}]},
    "ref": {
        "$defs": {"point": {"type": "object", "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["x"], "additionalProperties": False}},
        "type": "object",
        "properties": {"from": {"$ref": "#/$defs/point"}, "to": {"$ref": "#/$defs/point"}},
        "required": ["from", "to"],
        "additionalProperties": False,
    },
    "optional properties": {
        "type": "object",
        "properties": {"a": {"type": "boolean"}, "b": {"type": "null"}, "c": {"enum": [1, 2]}},
        "required": ["b"],
        "additionalProperties": False,
    },
    "unicode": {
        "type": "object",
        "properties": {"größe": {"enum": ["klein", "groß", "riesig 😀"]}, "名前": {"type": "string", "minLength": 1, "maxLength": 6}},
        "required": ["größe", "名前"],
        "additionalProperties": False,
    },
    "lengths": {"type": "string", "minLength": 3, "maxLength": 5},
    "format": {"type": "object", "properties": {"day": {"type": "string", "format": "date"}}, "required": ["day"], "additionalProperties": False},
    "named by pattern": {"type": "object", "patternProperties": {"^k[0-9]$": {"type": "integer", "minimum": 0, "maximum": 9}}, "additionalProperties": False, "minProperties": 1, "maxProperties": 2},
    "array of objects": {
        "type": "array",
        "items": {"type": "object", "properties": {"id": {"type": "integer", "minimum": 1, "maximum": 9}, "kind": {"enum": ["x", "y"]}}, "required": ["id", "kind"], "additionalProperties": False},
        "minItems": 1,
        "maxItems": 2,
    },
}  # fmt: skip
PROMPT = "def load_config():\n    return "
WRITINGS = {"greedy": Sampling(), "sampled": Sampling(temperature=1.0, seed=7)}


@pytest.fixture(scope="module", params=list(ENGINES))
def model(request: pytest.FixtureRequest, reference_containers: Path) -> Iterator[Model]:
    reason = unavailable_because(request.param)
    if reason is not None:
        pytest.skip(reason)
    with load(reference_containers / request.param, options=SessionOptions(threads=1)) as opened:
        yield opened


@pytest.mark.parametrize("writing", list(WRITINGS))
@pytest.mark.parametrize("name", list(SCHEMAS))
def test_the_text_is_json_that_satisfies_the_schema(model: Model, name: str, writing: str) -> None:
    schema = SCHEMAS[name]
    jsonschema.Draft202012Validator.check_schema(schema)
    options = GenerationOptions(96, WRITINGS[writing], constraint=JsonSchema(schema))
    answer = model.generate(PROMPT, options)
    assert answer.finish_reason == "stop"
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.Draft202012Validator(schema, format_checker=checker).validate(json.loads(answer.text))


def test_without_a_constraint_the_model_writes_something_else(model: Model) -> None:
    """Otherwise the test above would show nothing."""
    with pytest.raises(json.JSONDecodeError):
        json.loads(model.generate(PROMPT, GenerationOptions(40)).text)


def test_a_text_cut_by_its_tokens_says_so(model: Model) -> None:
    answer = model.generate(PROMPT, GenerationOptions(3, constraint=JsonSchema(SCHEMAS["nested"])))
    assert answer.finish_reason == "length" and len(answer.tokens) == 3
    assert '{"outer": {"inner": {"x": '.startswith(answer.text)


def test_stop_strings_end_a_constrained_text_too(model: Model) -> None:
    answer = model.generate(PROMPT, GenerationOptions(40, stop=("inner",), constraint=JsonSchema(SCHEMAS["nested"])))  # fmt: skip
    assert (answer.finish_reason, answer.text) == ("stop", '{"outer": {"')


PATTERNS: Mapping[str, tuple[Regex | Grammar, Callable[[str], object]]] = {
    "regex": (Regex(r"[a-z]{2,4}: (yes|no)"), re.compile(r"[a-z]{2,4}: (yes|no)").fullmatch),
    "grammar": (
        Grammar('start: sum\nsum: NUMBER ("+" NUMBER){1,3}\nNUMBER: /[0-9]{1,2}/'),
        re.compile(r"\d{1,2}(\+\d{1,2}){1,3}").fullmatch,
    ),
}


@pytest.mark.parametrize("name", list(PATTERNS))
@pytest.mark.parametrize("writing", list(WRITINGS))
def test_regular_expressions_and_grammars(model: Model, name: str, writing: str) -> None:
    constraint, matches = PATTERNS[name]
    answer = model.generate(PROMPT, GenerationOptions(40, WRITINGS[writing], constraint=constraint))
    assert answer.finish_reason == "stop" and matches(answer.text), answer.text


@pytest.mark.parametrize("name", ["nested", "ref", "unicode", "array of objects"])
@pytest.mark.parametrize("writing", list(WRITINGS))
def test_forced_tokens_and_lookup_change_nothing(
    reference_containers: Path, engine: str, name: str, writing: str
) -> None:
    """In exact arithmetic: several tokens judged in one call, or one by one."""
    options = SessionOptions(threads=1, context_length=256, exact=True)
    with load(reference_containers / engine, options=options) as exact:
        texts = {
            how: exact.generate(
                PROMPT,
                GenerationOptions(
                    96, WRITINGS[writing], constraint=JsonSchema(SCHEMAS[name]), speculation=how
                ),
            ).tokens
            for how in ("none", "auto", "lookup")
        }
    assert texts["none"] == texts["auto"] == texts["lookup"]


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> str:
    reason = unavailable_because(request.param)
    if reason is not None:
        pytest.skip(reason)
    return str(request.param)
