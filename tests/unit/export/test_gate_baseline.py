"""The source is asked first: what it does not know itself, no export can lose. And the work of a judgement is bounded."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeport.errors import UsageError
from edgeport.export.gate.baseline import Baseline, measure_baseline
from edgeport.export.gate.heldout import find_heldout
from edgeport.export.gate.run import (
    LEAST_CHUNKS,
    MOST_CHUNKS,
    PROMPTS,
    GateReport,
    check_source,
    count_tokens,
    plan_extent,
)
from edgeport.export.source import SourceModel, open_source
from edgeport.progress import NO_PROGRESS

ROOT = Path(__file__).resolve().parents[3]
REFERENCE = ROOT / "models" / "reference"


@pytest.fixture(scope="module")
def reference() -> SourceModel:
    return open_source(str(REFERENCE))


def test_a_trained_model_is_sane_on_its_own_text_and_on_the_built_in_one(reference: SourceModel) -> None:
    for text in (REFERENCE / "text" / "heldout.txt", None):
        found = measure_baseline(reference, text, NO_PROGRESS)
        assert isinstance(found, Baseline) and found.problem is None
        assert found.perplexity is not None and 5 < found.perplexity < 100 and found.chance == 4096
        assert found.accuracy > 0.2 and found.tokens > 150


def test_the_figures_are_those_of_transformers(reference: SourceModel) -> None:
    """The same windows through torch: mean surprise over everything after the first quarter of each."""
    import torch
    from transformers import AutoModelForCausalLM

    from edgeport.export.gate.baseline import _windows

    found = measure_baseline(reference, None, NO_PROGRESS)
    assert isinstance(found, Baseline) and found.perplexity is not None
    model = AutoModelForCausalLM.from_pretrained(REFERENCE, dtype=torch.float32).eval()
    losses = []
    for window in _windows(reference, None):
        with torch.inference_mode():
            rows = torch.log_softmax(model(torch.tensor([window])).logits[0, :-1], dim=1)
        picked = rows[torch.arange(len(window) - 1), torch.tensor(window[1:])]
        losses.append(-picked[len(window) // 4 :])
    assert math.exp(torch.cat(losses).mean().item()) == pytest.approx(found.perplexity, rel=1e-4)


def test_random_weights_are_no_baseline(tiny_llama_dir: Path) -> None:
    source = open_source(str(tiny_llama_dir))
    found = check_source(source, None, NO_PROGRESS)
    assert isinstance(found, GateReport) and found.verdict == "not judged"
    assert found.reason.startswith("baseline not sane: the source's perplexity on text is")


def test_logits_that_are_not_finite_are_no_baseline(tiny_llama_dir: Path, edited: Any) -> None:
    def blow_up(state: dict[str, Any]) -> None:
        state["model.norm.weight"][:] = 3e38

    source = open_source(str(edited(tiny_llama_dir, tensors=blow_up)))
    found = measure_baseline(source, None, NO_PROGRESS)
    assert isinstance(found, Baseline) and found.perplexity is None
    assert found.problem == "the source's own logits are not finite"


def test_a_source_that_cannot_run_is_told_and_not_raised(reference: SourceModel, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    (tmp_path / "tokenizer.json").write_bytes((REFERENCE / "tokenizer.json").read_bytes())
    found = check_source(replace(reference, directory=tmp_path), None, NO_PROGRESS)
    assert isinstance(found, GateReport) and "mamba" in found.reason


def test_sanity_is_a_share_of_chance() -> None:
    assert Baseline(51.0, 0.1, 100, 512).problem is None
    assert Baseline(52.0, 0.1, 100, 512).problem is not None


def test_small_models_are_judged_in_full(reference: SourceModel) -> None:
    extent = plan_extent(reference, 4, 2, tokens=100_000)
    assert (extent.chunks, extent.n_ctx, extent.prompts, extent.note) == (MOST_CHUNKS, 512, PROMPTS, "")


def test_large_models_are_judged_in_less_time_and_it_is_said(reference: SourceModel) -> None:
    wide = replace(reference.spec, hidden_size=4096, intermediate_size=14336, layers=32, vocab_size=128256)
    large = replace(reference, spec=wide)
    extent = plan_extent(large, 4, 2, tokens=100_000)
    assert extent.chunks == LEAST_CHUNKS and extent.prompts < PROMPTS
    assert f"{LEAST_CHUNKS} chunks of 512 tokens" in extent.note and "parameters" in extent.note
    assert plan_extent(large, 1, 64, tokens=100_000).seconds < extent.seconds


def test_short_texts_are_cut_into_shorter_chunks(reference: SourceModel) -> None:
    assert plan_extent(reference, 4, 2, tokens=1023).n_ctx == 256
    assert plan_extent(reference, 4, 2, tokens=10).n_ctx == 128, "evaluation says that it is too short"
    assert count_tokens(REFERENCE / "text" / "heldout.txt", reference) > 50_000


def test_held_out_text_is_what_was_named_or_lies_beside_the_model(
    reference: SourceModel, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    embedded = find_heldout(None, reference)
    assert embedded is not None and embedded.path == REFERENCE / "text" / "heldout.txt"
    named = tmp_path / "mine.txt"
    named.write_text("text")
    found = find_heldout(named, reference)
    assert found is not None and found.path == named and len(found.sha256()) == 64
    assert find_heldout(None, open_source(str(tiny_llama_dir))) is None
    with pytest.raises(UsageError, match="no such held-out text"):
        find_heldout(tmp_path / "none.txt", reference)
