"""Encoder x task x container x scheme: what docs/families.md says of each is what happens here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoder_proof import ENGINES, FAMILIES, SCHEMES, TASKS, EncoderProof
from family_proof import Outcome, read_records

RECORDS = Path(__file__).resolve().parents[2] / "docs" / "encoders.jsonl"


def check(proof: EncoderProof) -> None:
    recorded = {outcome.facts[:4]: outcome.facts for outcome in read_records(RECORDS)}
    for outcome in proof.outcomes():
        assert outcome.verdict != "differs", outcome.reason
        assert recorded.get(outcome.facts[:4]) == outcome.facts, "python docs/generate_families.py --prove"


@pytest.mark.parametrize(("family", "task"), [("xlm-roberta", "labels of texts"), ("bert", "features")])
def test_every_container_answers_as_transformers(family: str, task: str, tmp_path: Path) -> None:
    check(EncoderProof(family, task, "int8", tmp_path / "work"))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_task_in_every_scheme(family: str, task: str, scheme: str, tmp_path: Path) -> None:
    check(EncoderProof(family, task, scheme, tmp_path / "work"))


def test_what_llama_cpp_differs_by_is_its_gelu(tmp_path: Path) -> None:
    """Its table: the tanh formula of the input in float16, in float16."""
    import torch

    class Table(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.nn.functional.gelu(x.half().float(), approximate="tanh").half().float()
            return torch.where(x <= -10, 0.0, torch.where(x >= 10, x, y))

    def look_up(network: Any) -> None:
        for layer in network.bert.encoder.layer:
            layer.intermediate.intermediate_act_fn = Table()

    proof = EncoderProof("bert", "labels of texts", "bf16", tmp_path / "work")
    exact = proof.outcome("gguf", "llama.cpp").relative_error
    proof.expected = proof.transformers_answers(look_up)
    (tmp_path / "work" / "gguf").rename(tmp_path / "first")
    found = proof.outcome("gguf", "llama.cpp").relative_error
    assert exact is not None and found is not None and found < 1e-4 < exact


def test_other_states_and_other_labels_are_not_proven(tmp_path: Path) -> None:
    proof = EncoderProof("distilbert", "labels of texts", "int8", tmp_path / "work")
    good = proof.expected
    states, logits = good[0]
    assert logits is not None
    proof.expected = [(states, -logits), *good[1:]]
    error, same = proof._compare(good)
    assert error > 0.1 and not same
    proof.expected = [(states + np.float32(0.1), logits), *good[1:]]
    assert proof._compare(good)[0] > 1e-3 and proof._compare(good)[1]
    outcome = proof.outcome(*ENGINES[1])
    assert isinstance(outcome, Outcome) and outcome.verdict == "differs"
