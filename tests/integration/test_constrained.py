"""Twenty schemas on every engine: the reference model, greedy and sampled, writes nothing but valid JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from edgeport.runtimes import GenerationOptions, Model, Sampling, SessionOptions, load
from edgeport.runtimes.artifact import choose
from edgeport.runtimes.constraint import Grammar, JsonSchema, Regex, constraint_for
from edgeport.runtimes.container import find_containers
from edgeport.runtimes.engines import ENGINES, unavailable_because
from edgeport.runtimes.generate import SPECULATIONS
from edgeport.runtimes.tokenizer import open_tokenizer


def closed(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An object with these properties and no others, all of them required unless `more` says otherwise."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
        **more,
    }


def integers(least: int, most: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": least, "maximum": most}


SHORT = {"type": "string", "maxLength": 8}
BOOLEAN, NULL = {"type": "boolean"}, {"type": "null"}
SCHEMAS: Mapping[str, dict[str, Any]] = {
    "object": closed({"name": SHORT, "age": integers(0, 150)}),
    "nested": closed({"outer": closed({"inner": closed({"x": BOOLEAN})})}),
    "array with bounds": {"type": "array", "items": BOOLEAN, "minItems": 2, "maxItems": 4},
    "tuple": {"type": "array", "prefixItems": [integers(0, 9), SHORT], "items": False, "minItems": 2},
    "enum": {"enum": ["red", "green", "blue", 3, None]},
    "const": {"const": {"version": [1, 2], "ok": True}},
    "pattern": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
    "integer range": integers(-5, 1024),
    "number range": {"type": "number", "minimum": 0, "exclusiveMaximum": 10, "multipleOf": 0.25},
    "exclusive bounds": {"type": "integer", "exclusiveMinimum": 10, "exclusiveMaximum": 14},
    "anyOf": {"anyOf": [integers(0, 99), NULL, {"type": "array", "items": NULL, "maxItems": 2}]},
    "oneOf": {"oneOf": [{"const": "on"}, {"const": "off"}]},
    "allOf": {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 7}]},
    "ref": closed(
        {"from": {"$ref": "#/$defs/point"}, "to": {"$ref": "#/$defs/point"}},
        **{"$defs": {"point": closed({"x": integers(0, 9)})}},
    ),
    "optional properties": closed({"a": BOOLEAN, "b": NULL, "c": {"enum": [1, 2]}}, required=["b"]),
    "unicode": closed(
        {
            "größe": {"enum": ["klein", "groß", "riesig 😀"]},
            "名前": {"type": "string", "minLength": 1, "maxLength": 6},
        }
    ),
    "lengths": {"type": "string", "minLength": 3, "maxLength": 5},
    "format": closed({"day": {"type": "string", "format": "date"}}),
    "named by pattern": {
        "type": "object",
        "patternProperties": {"^k[0-9]$": integers(0, 9)},
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 2,
    },
    "array of objects": {
        "type": "array",
        "items": closed({"id": integers(1, 9), "kind": {"enum": ["x", "y"]}}),
        "minItems": 1,
        "maxItems": 2,
    },
}
PROMPT = "def load_config():\n    return "
WRITINGS = {"greedy": Sampling(), "sampled": Sampling(temperature=1.0, seed=7)}


@pytest.fixture(scope="module", params=list(ENGINES))
def model(request: pytest.FixtureRequest, reference_containers: Path) -> Iterator[Model]:
    reason = unavailable_because(request.param)
    if reason is not None:
        pytest.skip(reason)
    with load(
        reference_containers / request.param, options=SessionOptions(threads=1), check="never"
    ) as opened:
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
    answer = model.generate(
        PROMPT, GenerationOptions(40, stop=("inner",), constraint=JsonSchema(SCHEMAS["nested"]))
    )
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


@pytest.mark.parametrize("engine", list(ENGINES))
def test_forced_tokens_and_lookup_change_nothing(reference_containers: Path, engine: str) -> None:
    """In exact arithmetic: several tokens judged in one call, or one by one."""
    if (reason := unavailable_because(engine)) is not None:
        pytest.skip(reason)
    options = SessionOptions(threads=1, context_length=256, exact=True)
    with load(reference_containers / engine, options=options, check="never") as model:
        for name, writing in product(("nested", "ref", "unicode", "array of objects"), WRITINGS.values()):
            constrained = GenerationOptions(96, writing, constraint=JsonSchema(SCHEMAS[name]))
            forced, one_by_one, looked_up = (
                model.generate(PROMPT, replace(constrained, speculation=speculation)).tokens
                for speculation in SPECULATIONS
            )
            assert one_by_one == forced == looked_up, name


def test_a_gguf_files_own_vocabulary_allows_what_tokenizer_json_allows(reference_containers: Path) -> None:
    if (reason := unavailable_because("gguf")) is not None:
        pytest.skip(reason)
    tokenizers = [
        open_tokenizer(choose(find_containers(reference_containers), name)[0]) for name in ("gguf", "onnx")
    ]
    schema = JsonSchema(SCHEMAS["unicode"])
    first, second = (constraint_for(schema, tokenizer) for tokenizer in tokenizers)
    for token in tokenizers[0].encode('{"größe": "riesig 😀", "名前": "a\\n\\"é"}'):
        size = min(first.allowed().size, second.allowed().size)
        assert (first.allowed()[:size] == second.allowed()[:size]).all()
        assert first.forced() == second.forced()
        first.accept(token)
        second.accept(token)
    assert first.is_complete and second.is_complete
