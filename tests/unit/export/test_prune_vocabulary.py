"""A trimmed vocabulary: the same pieces for the text it was made from, every other text still written, the same logits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeport.errors import UnsupportedModel, UsageError
from edgeport.export.calibrate.text import CalibrationText
from edgeport.export.prune.bpe import closed_tokens, trimmed, way_to
from edgeport.export.prune.plan import PrunePlan, plan_prune
from edgeport.export.prune.run import prune
from edgeport.export.prune.settings import settings_from
from edgeport.export.source import open_source
from edgeport.progress import NO_PROGRESS

REFERENCE = Path(__file__).resolve().parents[3] / "models" / "reference"
TEXT = (
    "def area(self) -> float:\n    return self.width * self.height\n\n\nclass Größe(Shape):\n    pass\n" * 40
)
OTHER = "An entirely different text: ΣΔ, 你好 😀 \t 0x1F — `lambda x: x**2` <|im_end|>\n"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def planned(model: Path, corpus: Path | str, **settings: Any) -> PrunePlan:
    return plan_prune(open_source(str(model)), settings_from({"vocabulary": str(corpus), **settings}))


def cut(plan: PrunePlan, out: Path, windows: Any = None) -> Path:
    if windows is None:
        assert plan.vocabulary is not None
        windows = np.random.default_rng(1).choice(plan.vocabulary.tokens, (4, 32))
    text = CalibrationText(windows, "drawn", "drawn")
    prune(plan, text, out, work=out.with_name("work"), threads=1, progress=NO_PROGRESS)
    return out


def tokenizer(folder: Path) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def test_the_way_to_a_token_is_every_merge_on_it() -> None:
    ranks = {("a", "b"): 0, ("c", "d"): 1, ("ab", "cd"): 2, ("b", "c"): 3}
    assert way_to("abcd", ranks) == ["ab", "cd", "abcd"]
    assert way_to("ac", ranks) == [] and way_to("a", ranks) == []


def test_merges_that_lead_to_no_kept_token_go() -> None:
    vocabulary = {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4, "bc": 5}
    document = {
        "model": {"vocab": vocabulary, "merges": ["a b", ["ab", "c"], ["b", "c"]]},
        "added_tokens": [],
    }
    kept = closed_tokens(document, {4})
    assert kept == [0, 1, 2, 3, 4]
    small = trimmed(document, {number: place for place, number in enumerate(kept)})
    assert small["model"]["merges"] == ["a b", ["ab", "c"]]


@pytest.mark.parametrize(
    "name", ["reference", "llama", "qwen2", "smollm2-135m", "qwen2.5-0.5b", "llama-3.1-8b"]
)
def test_the_text_has_the_same_tokens_and_other_text_survives(
    name: str,
    corpus: Path,
    tiny_llama_dir: Path,
    tiny_qwen2_dir: Path,
    tiny_twin: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    known = {"reference": REFERENCE, "llama": tiny_llama_dir, "qwen2": tiny_qwen2_dir}
    model = known.get(name) or tiny_twin(name)
    plan = planned(model, corpus)
    out = cut(plan, tmp_path / "cut")
    assert plan.vocabulary is not None
    before, after = tokenizer(model), tokenizer(out)
    assert after.get_vocab_size() == plan.spec.vocab_size < before.get_vocab_size() + 1
    old, new = before.encode(TEXT), after.encode(TEXT)
    assert new.tokens == old.tokens
    assert plan.vocabulary.tokens[new.ids].tolist() == old.ids
    assert after.decode(after.encode(OTHER).ids, skip_special_tokens=False) == before.decode(
        before.encode(OTHER).ids, skip_special_tokens=False
    )
    assert {token.content for token in after.get_added_tokens_decoder().values()} == {
        token.content for token in before.get_added_tokens_decoder().values()
    }


def test_logits_are_the_kept_rows_and_generation_stops_at_the_same_token(
    corpus: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    plan = planned(REFERENCE, corpus)
    out = cut(plan, tmp_path / "cut")
    assert plan.vocabulary is not None
    before = AutoModelForCausalLM.from_pretrained(REFERENCE, dtype=torch.float32).eval()
    after = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    ids = tokenizer(REFERENCE).encode(TEXT).ids[:100]
    small = AutoTokenizer.from_pretrained(out)
    assert small(TEXT)["input_ids"] == tokenizer(out).encode(TEXT).ids
    with torch.inference_mode():
        wanted = before(torch.tensor([ids])).logits[..., torch.from_numpy(plan.vocabulary.tokens)]
        got = after(torch.tensor([tokenizer(out).encode(TEXT).ids[:100]])).logits
    assert torch.allclose(got, wanted, rtol=1e-5, atol=1e-5)
    eos = tokenizer(out).id_to_token(after.config.eos_token_id)
    assert eos == tokenizer(REFERENCE).id_to_token(before.config.eos_token_id) == small.eos_token


def test_named_ids_follow_the_tokens(tiny_qwen2_dir: Path, corpus: Path, edited: Any, tmp_path: Path) -> None:
    """Ids in the middle of the vocabulary, which move, in both configurations and in the template of the tokenizer."""
    model = edited(tiny_qwen2_dir, config={"eos_token_id": [2, 400], "pad_token_id": 500, "vocab_size": 512})
    (model / "generation_config.json").write_text(
        json.dumps({"eos_token_id": 400, "suppress_tokens": [500, 2]})
    )
    names = tokenizer(model)
    out = cut(planned(model, corpus), tmp_path / "cut")
    config = json.loads((out / "config.json").read_text())
    generation = json.loads((out / "generation_config.json").read_text())
    written = tokenizer(out)

    def named(numbers: list[int]) -> list[str]:
        return [written.id_to_token(number) for number in numbers]

    assert named(config["eos_token_id"]) == [names.id_to_token(2), names.id_to_token(400)]
    assert named([config["pad_token_id"], generation["eos_token_id"]]) == [
        names.id_to_token(500),
        names.id_to_token(400),
    ]
    assert named(generation["suppress_tokens"]) == [names.id_to_token(500), names.id_to_token(2)]
    assert config["pad_token_id"] != 500


def test_stale_tokenizer_files_are_left_behind(
    tiny_twin: Callable[[str], Path], corpus: Path, tmp_path: Path
) -> None:
    out = cut(planned(tiny_twin("qwen2.5-0.5b"), corpus), tmp_path / "cut")
    assert not any((out / name).exists() for name in ("vocab.json", "merges.txt", "added_tokens.json"))


def test_unmeasurable_windows_are_not_measured(corpus: Path, tmp_path: Path) -> None:
    plan = planned(REFERENCE, corpus)
    assert plan.vocabulary is not None
    gone = np.setdiff1d(np.arange(4096), plan.vocabulary.tokens)[:32]
    text = CalibrationText(np.stack([gone] * 3), "drawn", "drawn")
    report = prune(plan, text, tmp_path / "cut", work=tmp_path / "work", threads=1, progress=NO_PROGRESS)
    assert (report.held_windows, report.perplexity_before, report.perplexity_after) == (0, None, None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]]},
            "its model is Unigram",
        ),
        ({"byte_fallback": True}, "falls back to bytes"),
        ({"end_of_word_suffix": "</w>"}, "marks word ends"),
    ],
)
def test_other_tokenizers_are_refused(
    change: dict[str, Any], reason: str, tiny_qwen2_dir: Path, corpus: Path, edited: Any
) -> None:
    model = edited(tiny_qwen2_dir)
    document = json.loads((model / "tokenizer.json").read_text())
    document["model"] |= change
    (model / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(UnsupportedModel, match=reason):
        planned(model, corpus)


def test_a_tokenizer_that_works_on_characters_is_refused(
    tiny_qwen2_dir: Path, corpus: Path, edited: Any
) -> None:
    model = edited(tiny_qwen2_dir)
    document = json.loads((model / "tokenizer.json").read_text())
    document["pre_tokenizer"] = {"type": "Whitespace"}
    (model / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(UnsupportedModel, match="does not work on bytes"):
        planned(model, corpus)


def test_a_lost_merge_is_noticed(tiny_qwen2_dir: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of the trimmed tokenizer says no when one merge is missing."""
    from edgeport.export.prune import vocabulary

    def damaged(tokenizer: Any, renamed: Any) -> Any:
        document = trimmed(tokenizer, renamed)
        document["model"]["merges"] = document["model"]["merges"][1:]
        return document

    monkeypatch.setattr(vocabulary, "trimmed", damaged)
    with pytest.raises(UnsupportedModel, match="into other tokens"):
        planned(tiny_qwen2_dir, corpus)


def test_a_text_that_is_not_there_is_refused(tiny_qwen2_dir: Path) -> None:
    with pytest.raises(UsageError, match="no text 'nowhere.txt'"):
        planned(tiny_qwen2_dir, "nowhere.txt")
