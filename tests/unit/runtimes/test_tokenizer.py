"""Tokenizers against transformers, and chat templates in their sandbox."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edgeport.errors import ArtifactError, UsageError
from edgeport.runtimes.llama_vocabulary import LlamaVocabulary
from edgeport.runtimes.tokenizer import FileTokenizer, Tokenizer, render_chat

TEXTS = ["", "def f(x):\n\treturn x  # Größe", "  leading", "a <|im_end|> b", "你好 😀 3.14159", "x .  y , z"]
MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi <b>"}]


@pytest.fixture(params=["file", "gguf"])
def tokenizer(request: pytest.FixtureRequest, packed_dir: Path) -> Tokenizer:
    return (
        FileTokenizer(packed_dir / "onnx")
        if request.param == "file"
        else LlamaVocabulary(packed_dir / "gguf")
    )


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_and_text_equal_transformers(tokenizer: Tokenizer, text: str, tiny_qwen2_dir: Path) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(tiny_qwen2_dir)
    tokens = tokenizer.encode(text)
    assert tokens == theirs.encode(text)
    assert tokenizer.decode(tokens) == theirs.decode(
        tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )


def test_the_chat_prompt_equals_transformers(tokenizer: Tokenizer, tiny_qwen2_dir: Path) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(tiny_qwen2_dir)
    expected = theirs.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    assert tokenizer.chat_prompt(MESSAGES) == expected


def test_the_end_of_a_turn_stops(tokenizer: Tokenizer) -> None:
    (end,) = tokenizer.encode("<|im_end|>", add_special_tokens=False)
    (letter,) = tokenizer.encode("x", add_special_tokens=False)
    assert tokenizer.is_stop(end) and not tokenizer.is_stop(letter)


def test_begin_token_is_added_when_the_file_says_so_and_not_twice(tiny_llama_dir: Path) -> None:
    tokenizer = FileTokenizer(tiny_llama_dir)
    assert tokenizer.encode("a")[0] == 0 and tokenizer.encode("a", add_special_tokens=False)[0] != 0


def test_several_stop_tokens_are_read(tiny_qwen2_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_qwen2_dir, tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 1]}))
    assert FileTokenizer(folder).stop_ids == {0, 1, 2}, "2 is the eos_token of tokenizer_config.json"


def test_a_template_can_refuse_and_cannot_reach_out() -> None:
    with pytest.raises(UsageError, match="roles must alternate"):
        render_chat("{{ raise_exception('roles must alternate') }}", MESSAGES, {})
    for attack in (
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages.__init__.__globals__ }}",
    ):
        with pytest.raises(UsageError, match="refuses these messages"):
            render_chat(attack, MESSAGES, {})


def test_a_template_that_breaks_is_an_error_of_ours() -> None:
    for template in (
        "{% for i in range(10 ** 9) %}x{% endfor %}",
        "{{ 1 / 0 }}",
        "{{ unclosed",
        "{{ messages[9].content }}",
    ):
        with pytest.raises(UsageError, match="refuses these messages"):
            render_chat(template, MESSAGES, {})


def test_json_in_a_template_is_not_escaped_for_html() -> None:
    assert render_chat("{{ messages[1] | tojson }}", MESSAGES, {}) == '{"role": "user", "content": "hi <b>"}'


def test_no_template_is_said_so() -> None:
    with pytest.raises(UsageError, match="no chat template"):
        render_chat(None, MESSAGES, {})


def test_a_missing_or_broken_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no tokenizer\.json"):
        FileTokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(ArtifactError, match=r"tokenizer\.json cannot be read"):
        FileTokenizer(tmp_path)
