"""Constraints without an engine: masks, ends, forced tokens, and what is said about rules that cannot be used."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from byte_vocabulary import ByteVocabulary

from edgeport.errors import RuntimeFailure, UnsupportedModel, UsageError
from edgeport.runtimes.constraint import Constraint, Grammar, JsonSchema, Regex, Specification, constraint_for
from edgeport.runtimes.tokenizer import FileTokenizer, Tokenizer

REFERENCE = Path(__file__).resolve().parents[3] / "models" / "reference"


@pytest.fixture(scope="module")
def tokenizer() -> Iterator[FileTokenizer]:
    yield FileTokenizer(REFERENCE)


def walk(constraint: Constraint, tokens: list[int]) -> None:
    for token in tokens:
        assert constraint.allowed()[token]
        constraint.accept(token)


def options(constraint: Constraint, tokenizer: Tokenizer) -> set[str]:
    return {tokenizer.decode([int(token)]) for token in np.flatnonzero(constraint.allowed())}


def test_the_mask_is_what_may_come_next(tokenizer: FileTokenizer) -> None:
    constraint = constraint_for(Regex("(ab|ac)d?"), tokenizer)
    assert options(constraint, tokenizer) == {"a", "ab", "ac"}
    walk(constraint, tokenizer.encode("a"))
    assert options(constraint, tokenizer) <= {"b", "c", "bd", "cd"}
    assert not constraint.is_complete


def test_stop_tokens_are_allowed_where_the_text_may_end_and_nowhere_else(tokenizer: FileTokenizer) -> None:
    constraint = constraint_for(Regex("yes( yes)?"), tokenizer)
    stops = sorted(tokenizer.stop_ids)
    assert len(stops) == 2 and not constraint.allowed()[stops].any()
    walk(constraint, tokenizer.encode("yes"))
    assert constraint.allowed()[stops].all() and not constraint.is_complete
    walk(constraint, tokenizer.encode(" yes"))
    assert constraint.is_complete and np.flatnonzero(constraint.allowed()).tolist() == stops


def test_a_stop_token_completes_it(tokenizer: FileTokenizer) -> None:
    constraint = constraint_for(Regex("a*"), tokenizer)
    walk(constraint, [min(tokenizer.stop_ids)])
    assert constraint.is_complete


def test_a_token_that_is_not_allowed_is_refused(tokenizer: FileTokenizer) -> None:
    constraint = constraint_for(JsonSchema({"type": "boolean"}), tokenizer)
    with pytest.raises(RuntimeFailure):
        constraint.accept(tokenizer.encode("[")[0])


def test_forced_tokens_are_the_only_text_there_is(tokenizer: FileTokenizer) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "null"}}, "required": ["name"], "additionalProperties": False}  # fmt: skip
    constraint = constraint_for(JsonSchema(schema), tokenizer)
    forced = constraint.forced()
    assert '{"name": null}'.startswith(tokenizer.decode(forced)) and len(forced) > 2
    assert constraint.admits(forced) == len(forced)
    assert constraint.admits([*forced[:2], forced[0]]) == 2
    walk(constraint, tokenizer.encode('{"name": null}'))
    assert constraint.is_complete and not constraint.forced()


def test_json_is_one_line_with_a_space_after_each_separator(tokenizer: FileTokenizer) -> None:
    text = '{"a": [1, 2]}'
    constraint = constraint_for(JsonSchema('{"type": "object", "properties": {"a": {"type": "array"}}}'), tokenizer)  # fmt: skip
    walk(constraint, tokenizer.encode(text))
    assert constraint.is_complete
    for other in ('{"a":[', '{ "a', '{"a": [1,2', "{\n"):
        fresh = constraint_for(JsonSchema({"type": "object"}), tokenizer)
        tokens = tokenizer.encode(other)
        assert fresh.admits(tokens) < len(tokens), other


def test_text_that_looks_like_a_special_token_is_text(tokenizer: FileTokenizer) -> None:
    """Cut as the tokenizer cuts it, an enum of `<|im_end|>` would end the text in its middle."""
    constraint = constraint_for(JsonSchema({"const": "a<|im_end|>b"}), tokenizer)
    forced = constraint.forced()
    assert not tokenizer.stop_ids & set(forced)
    assert "".join(tokenizer.decode([token]) for token in forced) == '"a<|im_end|>b"'
    walk(constraint, forced)
    assert constraint.is_complete


WRONG_SCHEMAS: list[tuple[Any, str, str]] = [
    ({"type": "strin"}, "/", "Invalid type"),
    ({"properties": {"a/b": {"items": {"type": "strin"}}}}, "/properties/a~1b/items", "Invalid type"),
    ({"anyOf": [{"type": "null"}, {"type": "array", "prefixItems": [{"pattern": "("}]}]}, "/anyOf/1/prefixItems/0", "unclosed"),
    ({"$defs": {"n": {"minimum": 5, "maximum": 3, "type": "integer"}}, "$ref": "#/$defs/n"}, "/$defs/n", "minimum .5."),
    ({"properties": {"x": {"$ref": "#/$defs/none"}}}, "/properties/x", "does not exist"),
    ({"type": "object", "required": ["a"], "properties": {"a": False}}, "/", "'a' is unsatisfiable"),
    ({"properties": {"x": {"not": {"type": "null"}}}}, "/properties/x", "not"),
    ({"enum": []}, "/", "empty"),
    ({"additionalProperties": {"format": "foo", "type": "string"}}, "/additionalProperties", "foo"),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "place", "cause"), WRONG_SCHEMAS, ids=lambda value: str(value)[:40])
def test_a_schema_that_cannot_be_used_is_refused_by_its_place(
    tokenizer: FileTokenizer, schema: Any, place: str, cause: str
) -> None:
    for document in (schema, json.dumps(schema)):
        with pytest.raises(UsageError, match=cause) as caught:
            constraint_for(JsonSchema(document), tokenizer)
        assert f"at #{place}:" in caught.value.message


WRONG: list[tuple[Specification, str]] = [
    (JsonSchema('{"type": }'), "no JSON.*line 1, column 10"),
    (JsonSchema("[1]"), "must be an object"),
    (Regex("(a"), "regular expression.*unclosed group"),
    (Regex("(?=a)b"), "look-around"),
    (Grammar("start: foo"), 'unknown name: "foo"'),
    (Grammar(""), "grammar"),
    ("text", "cannot be str"),  # type: ignore[list-item]
]


@pytest.mark.parametrize(("specification", "message"), WRONG, ids=lambda value: str(value)[:30])
def test_rules_that_cannot_be_read_are_refused(
    tokenizer: FileTokenizer, specification: Specification, message: str
) -> None:
    with pytest.raises(UsageError, match=f"(?s){message}"):
        constraint_for(specification, tokenizer)


def test_a_vocabulary_of_bytes_writes_characters_of_several_tokens() -> None:
    tokenizer = ByteVocabulary()
    constraint = constraint_for(Regex("[ä-ö]|€"), tokenizer)
    assert np.flatnonzero(constraint.allowed()).tolist() == [0xC3, 0xE2]
    walk(constraint, list("€".encode()))
    assert constraint.is_complete


def test_a_tokenizer_that_cannot_tell_bytes_is_refused(byte_tokenizer: Tokenizer) -> None:
    with pytest.raises(UnsupportedModel, match="bytes of each token"):
        constraint_for(Regex("a"), byte_tokenizer)


def test_without_the_package_the_extra_is_named() -> None:
    program = (
        "import sys; sys.modules['llguidance'] = None\n"
        "from edgeport.errors import MissingExtra\n"
        "from edgeport.runtimes.constraint import Regex, constraint_for\n"
        "try: constraint_for(Regex('a'), None)\n"
        "except MissingExtra as error: print(error.hint)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "pip install 'edgeport[constrained]'"
