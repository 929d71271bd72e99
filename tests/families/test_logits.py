"""Family x container x scheme: what docs/families.md says of each is what happens here.

A cell is proven when the container's weights read back as the checkpoint's, the logits of its engine in exact mode are
transformers' for a prefill of 64 tokens and 32 decode steps, past every window, and the greedy tokens are the same.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_proof import (
    ENGINES,
    PREFILL_TOKENS,
    RECORDS,
    SCHEMES,
    TOLERANCE,
    Outcome,
    Proof,
    read_records,
    relative_error,
    stock_network,
    to_line,
    transformers_run,
)

from edgeport.errors import UsageError
from edgeport.manifest import read_manifest
from edgeport.runtimes.engines import open_session
from edgeport.runtimes.session import SessionOptions

ROOT = Path(__file__).resolve().parents[2]
FamilyTwin = Callable[..., Path]
FAMILIES = (
    "llama", "llama3", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "phi4-mini", "granite", "olmo2",
    "llama-biases", "mistral-v0.3", "qwen2-window", "gemma2-27b", "phi3-4k",
)  # fmt: skip
LONG_ROPE_CONTEXT = 128
FAST = (
    ("gemma2", "gguf"), ("gemma3", "openvino"), ("phi4-mini", "onnx"), ("granite", "gguf"), ("olmo2", "openvino"),
    ("qwen2-window", "onnx"), ("gemma3", "safetensors"), ("mistral", "onnx"),
)  # fmt: skip
"""Each engine meets what is special to it; `slow` runs every family through every container."""


def recorded() -> dict[tuple[str, ...], Outcome]:
    return {outcome.facts[:4]: outcome for outcome in read_records(RECORDS)}


def check(proof: Proof, container: str, engine: str) -> None:
    outcome = proof.outcome(container, engine)
    assert outcome.verdict != "differs", outcome.reason
    known = recorded().get(outcome.facts[:4])
    assert known is not None, "docs/families.jsonl lacks it: python docs/generate_families.py --prove"
    assert outcome.facts == known.facts, "docs/families.jsonl says otherwise: prove again"


def check_family(family: str, scheme: str, model: Path, work: Path, containers: tuple[str, ...] = ()) -> None:
    proof = Proof(family, model, scheme, work)
    for container, engine in ENGINES:
        if not containers or container in containers:
            check(proof, container, engine)


@pytest.mark.parametrize(("family", "container"), FAST)
def test_a_container_answers_as_transformers(
    family: str, container: str, family_twin: FamilyTwin, tmp_path: Path
) -> None:
    check_family(family, "int4", family_twin(family), tmp_path / "work", (container,))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_container_of_a_family_answers_as_transformers(
    family: str, scheme: str, family_twin: FamilyTwin, tmp_path: Path
) -> None:
    check_family(family, scheme, family_twin(family), tmp_path / "work")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_other_weights_and_other_tokens_answer_alike(
    family: str, seed: int, family_twin: FamilyTwin, tmp_path: Path
) -> None:
    proof = Proof(family, family_twin(family, seed=seed), "int4", tmp_path / "work")
    proof.prompt = (
        np.random.default_rng(seed).integers(0, proof.source.spec.vocab_size, PREFILL_TOKENS).tolist()
    )
    for container, engine in ENGINES:
        check(proof, container, engine)


FORGOTTEN: dict[str, tuple[str, dict[str, Any]]] = {
    "the window": ("mistral", {"sliding_window": None}),
    "Gemma 2's pattern of windows": ("gemma2", {"layer_types": ["full_attention", "sliding_attention"]}),
    "the cap on scores": ("gemma2", {"attn_logit_softcapping": None}),
    "the cap on logits": ("gemma2", {"final_logit_softcapping": None}),
    "the scale of scores": ("gemma2", {"query_pre_attn_scalar": 64}),
    "the embedding's multiplier": ("granite", {"embedding_multiplier": 1.0}),
    "the residual's multiplier": ("granite", {"residual_multiplier": 1.0}),
    "the scores' multiplier": ("granite", {"attention_multiplier": 0.25}),
    "the scale of logits": ("granite", {"logits_scaling": 1.0}),
    "long rope's factors": ("phi3", {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}),
    "Llama 3's scaled rope": ("llama3", {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}),
    "Gemma 3's second rope": (
        "gemma3",
        {
            "rope_parameters": {
                kind: {"rope_type": "default", "rope_theta": 1000000.0}
                for kind in ("full_attention", "sliding_attention")
            }
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FORGOTTEN)
def test_what_a_writer_could_forget_is_far_outside_the_tolerance(
    case: str, family_twin: FamilyTwin, tmp_path: Path
) -> None:
    """The twins must be able to tell: transformers with one setting less is another model."""
    family, changes = FORGOTTEN[case]
    model = family_twin(family)
    for path in model.iterdir():
        if path.name != "config.json":
            (tmp_path / path.name).symlink_to(path)
    document = {**json.loads((model / "config.json").read_text()), **changes}
    (tmp_path / "config.json").write_text(json.dumps(document))
    prompt = np.random.default_rng(11).integers(0, 400, PREFILL_TOKENS).tolist()
    wanted, _ = transformers_run(stock_network(model), prompt, 4)
    got, _ = transformers_run(stock_network(tmp_path), prompt, 4)
    assert relative_error(got, wanted) > 10 * TOLERANCE


@pytest.mark.parametrize("family", ["phi3", "phi4-mini"])
def test_no_engine_takes_more_than_the_short_context_of_long_rope(
    family: str, family_twin: FamilyTwin, tmp_path: Path
) -> None:
    """Beyond it every key would have to be turned anew."""
    proof = Proof(family, family_twin(family), "int4", tmp_path / "work")
    written = [name for name in dict(ENGINES) if not proof.reasons_against(name)]
    assert {"onnx", "safetensors"} <= set(written)
    for container in written:
        options = SessionOptions(threads=1, context_length=LONG_ROPE_CONTEXT + 1)
        with pytest.raises(UsageError, match=f"1 to {LONG_ROPE_CONTEXT} tokens"):
            open_session(container, proof.written(container), options).close()


def test_a_damaged_container_is_not_proven(family_twin: FamilyTwin, tmp_path: Path) -> None:
    proof = Proof("qwen3", family_twin("qwen3"), "int8", tmp_path / "work")
    data = proof.written("onnx").parent / "model.onnx.data"
    changed = bytearray(data.read_bytes())
    changed[len(changed) // 2] ^= 0x40
    data.write_bytes(changed)
    outcome = proof.outcome("onnx", "ONNX Runtime")
    assert outcome.verdict == "differs" and "read back" in outcome.reason
    with pytest.raises(AssertionError):
        check(proof, "onnx", "ONNX Runtime")


def test_other_logits_and_other_tokens_are_not_proven(
    family_twin: FamilyTwin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof = Proof("llama", family_twin("llama"), "int8", tmp_path / "work")
    want, tokens = proof.expected
    proof.__dict__["expected"] = (want * 1.01, tokens)
    assert proof.outcome("onnx", "ONNX Runtime").reason == "logits by 9.9e-03"
    proof.__dict__["expected"] = (want, tokens)
    monkeypatch.setattr(proof, "_run", lambda *_: (want, [*tokens[:-1], tokens[-1] + 1]))
    assert proof.outcome("onnx", "ONNX Runtime").reason == "other greedy tokens"


def test_a_record_survives_its_line() -> None:
    outcome = Outcome("gemma3", "gguf", "llama.cpp", "int4", "proven", "", 3.46e-7)
    assert Outcome(**json.loads(to_line(outcome))).relative_error == 3e-7
    refused = Outcome("mistral", "gguf", "llama.cpp", "int4", "refused", "no window")
    assert Outcome(**json.loads(to_line(refused))) == refused


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_command_exports_what_the_table_says(
    family: str, family_twin: FamilyTwin, tmp_path: Path
) -> None:
    """`edgeport export` as a user runs it: what is proven is written and verified, what is refused is named and left out."""
    cells = [outcome for key, outcome in recorded().items() if key[0] == family and key[3] == "int4"]
    proven = {cell.container for cell in cells if cell.verdict == "proven"}
    refused = {cell.container: cell.reason for cell in cells if cell.verdict == "refused"}
    words = [
        "export",
        str(family_twin(family)),
        "--device",
        "edge",
        "-o",
        str(tmp_path / "out"),
        "--solver",
        "rtn",
    ]
    words += ["--format", "gguf,onnx,openvino,safetensors", "--no-gate"]
    done = subprocess.run(
        [sys.executable, "-m", "edgeport", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(tmp_path / "out")
    assert {entry.format for entry in manifest.containers if entry.verified} == proven
    assert {entry.weights_id for entry in manifest.containers} == {manifest.weights_id}
    for container, reason in refused.items():
        assert container in done.stderr + done.stdout and reason[:40] in done.stderr + done.stdout
