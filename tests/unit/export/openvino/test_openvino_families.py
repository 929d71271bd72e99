"""What families do otherwise than Llama, in the container's own engine: logits of both its forms, windows, fusions, the way back.

The reference is transformers' class over the dequantized weights (tests/families/family_proof.py). Windows are 16 tokens, the
prompt is 64 and 32 are decoded, so that most of what is compared lies past the window.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino
import pytest
from family_proof import DECODE_TOKENS, PREFILL_TOKENS, Proof, dequantized_network, relative_error
from openvino import opset13 as ops
from openvino._offline_transformations import paged_attention_transformation

from edgeport.errors import UnsupportedModel
from edgeport.export.checkpoint import Checkpoint, tensor_digest, weights_id
from edgeport.export.families.decoder import DecoderSpec
from edgeport.export.formats.openvino import OpenVinoFormat, write_model
from edgeport.export.formats.openvino_masks import Masks
from edgeport.export.verify.read_openvino import read_weights
from edgeport.runtimes.encoders.openvino import open_encoder
from edgeport.runtimes.openvino import OpenVinoSession, open_session
from edgeport.runtimes.openvino_paged import PagedSession
from edgeport.runtimes.openvino_windows import RT_INFO, check_windows, paged_windows
from edgeport.runtimes.session import Session, SessionOptions

Floats = npt.NDArray[np.float32]
Run = Callable[..., dict[str, Any]]

FAMILIES = ("mistral", "qwen2-window", "qwen3", "gemma2", "gemma3", "phi3", "phi4-mini", "granite", "olmo2")
NOT_PAGED = ("gemma2",)
"""Soft-capped scores: PagedAttention has no cap, and the graph no ScaledDotProductAttention."""
TOLERANCE = 1e-4  # the allowed 1e-3 would hide a wrong epsilon
FIRST_PIECE = 23
LENGTH = PREFILL_TOKENS + DECODE_TOKENS
EXACT = SessionOptions(threads=1, context_length=LENGTH, exact=True)


@dataclass(frozen=True, slots=True)
class Case:
    """A family's twin in int4 and its IR without the tokenizer, whose conversion takes a second."""

    proof: Proof
    folder: Path

    @property
    def spec(self) -> DecoderSpec:
        return self.proof.source.spec

    def network(self) -> Any:
        checkpoint = self.proof.checkpoint
        weights = {name: checkpoint.tensor(name).dequantize() for name in checkpoint.names()}
        return dequantized_network(self.proof.model, weights)


@pytest.fixture(scope="module")
def case(family_twin: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    made: dict[str, Case] = {}

    def make(family: str) -> Case:
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            proof = Proof(family, family_twin(family), "int4", folder / "work")
            made[family] = Case(proof, write(proof.checkpoint, folder / "ir"))
        return made[family]

    return make


def write(checkpoint: Checkpoint, folder: Path) -> Path:
    folder.mkdir()
    write_model(checkpoint, folder / "openvino_model.xml", "twin")
    shutil.copyfile(checkpoint.source_directory / "config.json", folder / "config.json")
    return folder


@pytest.fixture
def without_paging(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise UnsupportedModel("a graph that cannot be paged")

    monkeypatch.setattr("edgeport.runtimes.openvino.paged", refuse)


def logits_of(session: Session, case: Case) -> Floats:
    """[LENGTH, vocab_size], the prompt in two pieces. The session is closed."""
    prompt, (_, tokens) = case.proof.prompt, case.proof.expected
    pieces = [prompt[:FIRST_PIECE], prompt[FIRST_PIECE:], *([token] for token in tokens)]
    rows = np.concatenate([session.feed(piece, all_logits=True) for piece in pieces])
    session.close()
    return rows


def check(session: Session, case: Case) -> None:
    want, tokens = case.proof.expected
    whole = session.feed(case.proof.prompt, all_logits=True)
    assert relative_error(whole, want[:PREFILL_TOKENS]) < TOLERANCE
    session.rewind(0)
    last = session.feed(case.proof.prompt)
    assert relative_error(last, want[PREFILL_TOKENS - 1 : PREFILL_TOKENS]) < TOLERANCE
    session.rewind(0)
    got = logits_of(session, case)
    assert relative_error(got, want) < TOLERANCE
    assert got[PREFILL_TOKENS - 1 : -1].argmax(axis=1).tolist() == tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_greedy_tokens_are_transformers(family: str, case: Callable[[str], Case]) -> None:
    session = open_session(case(family).folder, EXACT)
    assert isinstance(session, OpenVinoSession if family in NOT_PAGED else PagedSession)
    check(session, case(family))


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in NOT_PAGED])
def test_the_stateful_form_gives_the_same(
    family: str, case: Callable[[str], Case], without_paging: None
) -> None:
    session = open_session(case(family).folder, EXACT)
    assert isinstance(session, OpenVinoSession)
    check(session, case(family))


def test_a_window_survives_a_rewind(case: Callable[[str], Case]) -> None:
    want, tokens = case("gemma3").proof.expected
    session = open_session(case("gemma3").folder, EXACT)
    session.feed([*case("gemma3").proof.prompt, *tokens])
    session.rewind(40)
    got = session.feed(case("gemma3").proof.prompt[40:], all_logits=True)
    session.close()
    assert relative_error(got, want[40:PREFILL_TOKENS]) < TOLERANCE


def test_a_long_rope_model_is_not_run_past_its_short_factors(case: Callable[[str], Case]) -> None:
    session = open_session(case("phi3").folder, SessionOptions(threads=1, exact=True))
    assert session.context_length == case("phi3").spec.context_length == 128
    session.close()


def test_products_spelt_out_have_few_shapes(case: Callable[[str], Case]) -> None:
    """The plug-in makes a kernel for each shape and keeps it: keys are counted in steps of 256."""
    core = openvino.Core()
    model = core.read_model(str(case("gemma2").folder / "openvino_model.xml"))
    shares = next(node for node in model.get_ordered_ops() if node.get_type_name() == "Softmax")
    model.add_outputs([shares.output(0)])
    request = core.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": 1}).create_infer_request()
    keys = []
    for count in (1, 2, 253, 1):
        seen = sum(keys_of for keys_of, _ in keys) + count
        positions = np.arange(seen - count, seen)[None]
        inputs = {"input_ids": np.full((1, count), 5), "attention_mask": np.ones((1, seen), np.int64)}
        request.infer({**inputs, "position_ids": positions, "beam_idx": np.zeros(1, np.int32)})
        keys.append((count, request.get_output_tensor(1).shape[-1]))
    assert keys == [(1, 256), (2, 256), (253, 256), (1, 512)]


def block(spec: DecoderSpec, **changes: Any) -> DecoderSpec:
    return replace(spec, block=replace(spec.block, **changes))


def longer(spec: DecoderSpec, by: int) -> DecoderSpec:
    return replace(spec, windows=tuple(window and window + by for window in spec.windows))


def rope(spec: DecoderSpec, **changes: Any) -> DecoderSpec:
    return replace(spec, rope=replace(spec.rope, **changes))


FAULTS: Mapping[str, tuple[str, Callable[[DecoderSpec], DecoderSpec]]] = {
    "a window one longer": ("mistral", lambda spec: longer(spec, 1)),
    "a window one shorter": ("phi3-4k", lambda spec: longer(spec, -1)),
    "the wrong layers slide": ("qwen2-window", lambda spec: replace(spec, windows=spec.windows[::-1])),
    "no norm of heads": ("qwen3", lambda spec: block(spec, query_key_norm="")),
    "no norm of all heads": ("olmo2", lambda spec: block(spec, query_key_norm="")),
    "no cap on scores": ("gemma2", lambda spec: block(spec, attention_softcap=None)),
    "no cap on logits": ("gemma2", lambda spec: replace(spec, logit_softcap=None)),
    "no scale of the embedding": ("gemma2", lambda spec: replace(spec, embedding_scale=1.0)),
    "another activation": ("gemma2", lambda spec: block(spec, activation="silu")),
    "one rotary base": ("gemma3", lambda spec: replace(spec, window_rope=None)),
    "no scale of scores": ("granite", lambda spec: block(spec, attention_scale=None)),
    "no scale of branches": ("granite", lambda spec: block(spec, residual_scale=1.0)),
    "no scale of logits": ("granite", lambda spec: replace(spec, logit_scale=1.0)),
    "no attention factor": ("phi3", lambda spec: rope(spec, attention_factor=1.0)),
    "a narrower rotation": (
        "phi4-mini",
        lambda spec: rope(spec, rotary_dim=16, short_factors=spec.rope.short_factors[:8]),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_shows(fault: str, case: Callable[[str], Case], tmp_path: Path) -> None:
    family, change = FAULTS[fault]
    found = case(family)
    broken = Checkpoint(found.proof.checkpoint.directory, change(found.spec))
    session = open_session(write(broken, tmp_path / "ir"), EXACT)
    assert relative_error(logits_of(session, found), found.proof.expected[0]) > 1e-3


def test_paged_attention_has_the_windows_of_the_layers(case: Callable[[str], Case]) -> None:
    windows = {
        family: paged_windows(rewritten(case(family).folder))
        for family in ("mistral", "qwen2-window", "gemma3", "qwen3")
    }
    assert windows == {
        "mistral": [16, 16],
        "qwen2-window": [0, 16],
        "gemma3": [16, 16, 16, 16, 16, 0],
        "qwen3": [0, 0],
    }


def rewritten(folder: Path) -> Any:
    model = openvino.Core().read_model(str(folder / "openvino_model.xml"))
    paged_attention_transformation(model)
    return model


def test_a_mask_that_openvino_does_not_know_runs_in_the_stateful_form(
    case: Callable[[str], Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same conditions joined otherwise: no window is found, nothing is said, and only the comparison with the file tells."""

    def joined_otherwise(self: Any, window: int) -> Any:
        near = ops.greater(self._keys, ops.add(self._queries, ops.constant(-window, dtype=openvino.Type.i64)))
        allowed = ops.logical_and(ops.logical_and(self._causal, near), self._real)
        return ops.select(allowed, ops.constant(np.float32(0)), ops.constant(np.float32(-65504)))

    monkeypatch.setattr(Masks, "_last", joined_otherwise)
    folder = write(case("mistral").proof.checkpoint, tmp_path / "ir")
    assert paged_windows(rewritten(folder)) == [0, 0]
    with pytest.raises(UnsupportedModel, match=r"windows \[0, 0\], its file says \[16, 16\]"):
        check_windows(rewritten(folder))
    session = open_session(folder, EXACT)
    assert isinstance(session, OpenVinoSession)
    check(session, case("mistral"))


def test_a_file_that_names_no_windows_is_taken_as_it_is(case: Callable[[str], Case]) -> None:
    model = rewritten(case("qwen3").folder)
    assert not model.has_rt_info(RT_INFO)
    check_windows(model)


def test_a_cap_on_logits_behind_a_paged_head(case: Callable[[str], Case], tmp_path: Path) -> None:
    """Gemma 3 with the last cap of Gemma 2: the head is found behind its tanh."""
    found = case("gemma3")
    capped = Checkpoint(found.proof.checkpoint.directory, replace(found.spec, logit_softcap=3.0))
    session = open_session(write(capped, tmp_path / "ir"), EXACT)
    assert isinstance(session, PagedSession)
    want = 3.0 * np.tanh(found.proof.expected[0] / 3.0)
    assert relative_error(logits_of(session, found), want) < TOLERANCE


@pytest.mark.parametrize("family", ["gemma2", "granite", "olmo2"])
def test_hidden_states_are_those_before_scale_and_cap(family: str, case: Callable[[str], Case]) -> None:
    import torch

    prompt = case(family).proof.prompt[:40]
    with torch.inference_mode():
        want = case(family).network().model(torch.tensor([prompt])).last_hidden_state[0].numpy()
    encoder = open_encoder(case(family).folder, EXACT)
    (got,) = encoder.encode([prompt])
    encoder.close()
    assert relative_error(got, want) < TOLERANCE


def test_left_padding_beside_a_window(case: Callable[[str], Case], run_engine: Run, tmp_path: Path) -> None:
    import torch

    found = case("mistral")
    tokens = np.random.default_rng(3).integers(0, found.spec.vocab_size, (2, 40))
    mask = np.ones_like(tokens)
    mask[0, :5] = 0
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    run_engine(
        "logits", xml=found.folder / "openvino_model.xml", tokens=tokens, out=tmp_path / "out.npy", exact=True,
        split=30, mask=mask, positions=positions,
    )  # fmt: skip
    with torch.inference_mode():
        arrays = {"input_ids": tokens, "attention_mask": mask, "position_ids": positions}
        want = found.network()(**{name: torch.from_numpy(values) for name, values in arrays.items()})
    got, want = np.load(tmp_path / "out.npy"), want.logits.numpy()
    assert relative_error(got[0, 5:], want[0, 5:]) < TOLERANCE
    assert relative_error(got[1], want[1]) < TOLERANCE


NORMS_OF_A_LAYER = {
    "mistral": 2,
    "qwen3": 4,
    "gemma2": 4,
    "gemma3": 6,
    "phi4-mini": 2,
    "granite": 2,
    "olmo2": 4,
}


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=pytest.mark.slow if family in ("mistral", "qwen3", "granite") else ())
        for family in NORMS_OF_A_LAYER
    ],
)
def test_the_plug_in_fuses_norms_rotations_and_attention(
    family: str, case: Callable[[str], Case], run_engine: Run
) -> None:
    nodes = run_engine("execution", xml=case(family).folder / "openvino_model.xml")["nodes"]
    counts, layers = Counter(kind for kind, _, _ in nodes), case(family).spec.layers
    assert counts["RoPE"] == 2 * layers
    assert counts["RMS"] == NORMS_OF_A_LAYER[family] * layers + 1
    attentions = [kinds for kind, _, kinds in nodes if kind == "ScaledDotProductAttention"]
    # With the cache among its inputs.
    assert len(attentions) == (0 if family in NOT_PAGED else layers)
    assert all(len(kinds) >= 7 for kinds in attentions)
    weights = {kinds[1] for kind, _, kinds in nodes if kind == "FullyConnected"}
    assert weights <= {"u4", "u8"}


@pytest.mark.parametrize("family", [*FAMILIES, "phi3-4k"])
def test_weights_read_back_equal_the_checkpoint(family: str, case: Callable[[str], Case]) -> None:
    checkpoint = case(family).proof.checkpoint
    found = dict(read_weights(case(family).folder))
    assert set(found) == set(checkpoint.names())
    for name, values in found.items():
        np.testing.assert_array_equal(values, checkpoint.tensor(name).dequantize(), err_msg=name)
    digests = {name: tensor_digest(values) for name, values in found.items()}
    assert weights_id(digests) == checkpoint.weights_id


@pytest.mark.parametrize(
    ("family", "change", "missing"),
    [
        ("qwen3", {"query_key_norm": ""}, ["k_norm", "q_norm"]),
        ("gemma2", {"norm_placement": "pre"}, ["post_feedforward_layernorm", "pre_feedforward_layernorm"]),
    ],
)
def test_a_norm_that_was_not_drawn_is_not_read_back(
    family: str, change: dict[str, Any], missing: list[str], case: Callable[[str], Case], tmp_path: Path
) -> None:
    checkpoint = case(family).proof.checkpoint
    broken = Checkpoint(checkpoint.directory, block(case(family).spec, **change))
    found = {name for name, _ in read_weights(write(broken, tmp_path / "ir"))}
    lacking = {name.removesuffix(".weight").split(".")[-1] for name in set(checkpoint.names()) - found}
    assert sorted(lacking) == missing


@pytest.mark.parametrize(
    "family",
    [
        "gemma3",
        pytest.param("mistral", marks=pytest.mark.slow),
        pytest.param("gemma2", marks=pytest.mark.slow),
    ],
)
def test_genai_pipeline_generates_what_transformers_does(
    family: str, case: Callable[[str], Case], run_engine: Run
) -> None:
    """By paged attention, its default, past the window; Gemma 2 in the stateful form it falls back to."""
    proof = case(family).proof
    folder = proof.written("openvino").parent
    prompt = np.array([proof.prompt], np.int64)
    found = run_engine("greedy", directory=folder, tokens=prompt, count=DECODE_TOKENS)
    assert found["ids"] == proof.expected[1]


def test_what_no_graph_is_drawn_for_is_refused(case: Callable[[str], Case]) -> None:
    def reasons(spec: DecoderSpec) -> list[str]:
        return OpenVinoFormat().reasons_against(spec, (), case("phi4-mini").proof.model)

    spec = case("phi4-mini").spec
    assert reasons(spec) == []
    assert reasons(block(spec, norm="layer", norm_bias=True)) == [
        "the OpenVINO graph has no layer norm with biases, only RMSNorm without"
    ]
    assert reasons(block(spec, gated=False)) == ["the OpenVINO graph has no feed-forward without a gate"]
    (reason,) = reasons(rope(spec, rotary_dim=23))
    assert reason == "the rotary width 23 is odd, rotary embeddings turn pairs"
