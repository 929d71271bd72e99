"""Every family in llama.cpp against transformers on the same dequantized weights, past the sliding window where there is one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgeport.devices.gguf_shape import shape_from_gguf
from edgeport.errors import ArtifactError
from edgeport.export.checkpoint import Checkpoint
from edgeport.export.expressible import container_notes
from edgeport.export.families.decoder import BlockStyle, DecoderSpec, LayerShape, RopeSpec
from edgeport.export.formats import gguf_metadata, gguf_tensors
from edgeport.export.formats.base import WriteOptions
from edgeport.export.formats.gguf import write_file
from edgeport.export.formats.gguf_architecture import architecture, reasons_against
from edgeport.export.formats.safetensors import SafetensorsFormat
from edgeport.export.quantize.run import quantize
from edgeport.export.recipe import Recipe, parse_scheme
from edgeport.export.source import open_source
from edgeport.export.verify.gguf_header import read_header
from edgeport.export.verify.read_gguf import read_weights
from edgeport.progress import NO_PROGRESS
from edgeport.runtimes import reference
from edgeport.runtimes.engine_settings import EngineSettings
from edgeport.runtimes.gguf import GgufSession, open_session
from edgeport.runtimes.session import Session, SessionOptions

Floats = npt.NDArray[np.float32]
PREFILL, DECODE = 64, 32
EXACT = 1e-3
SEEN = 1e-2
ARCHITECTURES = {
    "llama": "llama",
    "llama3": "llama",
    "llama-biases": "llama",
    "mistral": "granite_swa",
    "mistral-v0.3": "llama",
    "qwen2": "qwen2",
    "qwen2-window": "granite_swa",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma2-27b": "gemma2",
    "gemma3": "gemma3",
    "phi3": "phi3",
    "phi3-4k": "granite_swa",
    "phi4-mini": "phi3",
    "granite": "granite",
    "olmo2": "olmo2",
}
DEEP = pytest.param("gemma2-27b", marks=pytest.mark.slow)
"""46 layers: by their number llama.cpp knows the model."""
NAMES = [name if name != "gemma2-27b" else DEEP for name in ARCHITECTURES]


@dataclass(frozen=True, slots=True)
class Proof:
    """A twin's INT4 checkpoint, and what transformers says with its weights: greedy tokens after a prompt, and all logits."""

    model: Path
    checkpoint: Checkpoint
    tokens: list[int]
    logits: Floats


MakeProof = Callable[[str], Proof]


@pytest.fixture(autouse=True, scope="module")
def one_torch_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pack(checkpoint: Checkpoint, path: Path) -> Path:
    write_file(checkpoint, path, WriteOptions("tiny", 64, NO_PROGRESS))
    return path


def quantized(model: Path, directory: Path, **overrides: str) -> Checkpoint:
    """INT4 linears, INT8 embedding and head; overrides: scheme by the last module's name."""
    linear, other = parse_scheme("int4-g32"), parse_scheme("int8-g32")
    patterns = {f"*.{module}.weight": parse_scheme(scheme) for module, scheme in overrides.items()}
    source = open_source(str(model))
    directory.mkdir()
    recipe = Recipe("t", "", linear, other, other, overrides=patterns)
    quantize(source, recipe, directory, threads=1, progress=NO_PROGRESS)
    return Checkpoint(directory, source.spec)


def network_of(checkpoint: Checkpoint, model: Path) -> Any:
    """transformers' own class with the checkpoint's weights, fused and less the offset of Gemma's norms as it stores them."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(model)
    network = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    weights = {name: checkpoint.tensor(name).dequantize() for name in checkpoint.names()}
    state = {}
    for name in network.state_dict():
        if name.endswith("qkv_proj.weight"):
            parts = [weights[name.replace("qkv_proj", f"{part}_proj")] for part in "qkv"]
            state[name] = np.concatenate(parts)
        elif name.endswith("gate_up_proj.weight"):
            parts = [weights[name.replace("gate_up", part)] for part in ("gate", "up")]
            state[name] = np.concatenate(parts)
        elif name == "lm_head.weight" and name not in weights:
            state[name] = weights["model.embed_tokens.weight"]
        else:
            gemma = name.endswith("norm.weight") and config.model_type.startswith("gemma")
            state[name] = weights[name] - np.float32(gemma)
    network.load_state_dict({name: torch.from_numpy(values) for name, values in state.items()}, strict=True)
    return network.eval()


def continued(network: Any, prompt: list[int], count: int) -> tuple[list[int], Floats]:
    """The prompt with its greedy tokens, and the logits of every position."""
    import torch

    tokens = list(prompt)
    with torch.no_grad():
        while True:
            logits = network(torch.tensor([tokens]), use_cache=False).logits[0].numpy()
            if len(tokens) == len(prompt) + count:
                return tokens, logits
            tokens.append(int(logits[-1].argmax()))


@pytest.fixture(scope="session")
def proof(family_twin: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> MakeProof:
    made: dict[str, Proof] = {}

    def make(name: str) -> Proof:
        if name not in made:
            model = family_twin(name, tokenizer="qwen2", dtype="float32")
            checkpoint = quantized(model, tmp_path_factory.mktemp("proof") / "checkpoint")
            prompt = np.random.default_rng(3).integers(0, checkpoint.spec.vocab_size, PREFILL).tolist()
            made[name] = Proof(model, checkpoint, *continued(network_of(checkpoint, model), prompt, DECODE))
        return made[name]

    return make


@pytest.fixture
def opened() -> Iterator[Callable[..., Session]]:
    """opened(path, ...) -> an exact session, closed after the test."""
    sessions: list[Session] = []

    def run(path: Path, **options: Any) -> GgufSession:
        session = open_session(path, SessionOptions(threads=1, exact=True, **options))
        sessions.append(session)
        return session

    yield run
    for session in sessions:
        session.close()


def fed(session: Session, tokens: list[int], *pieces: int) -> Floats:
    """Logits of every token: fed in these pieces, the others one by one."""
    rows, begin = [], 0
    for count in (*pieces, *[1] * (len(tokens) - sum(pieces))):
        rows.append(session.feed(tokens[begin : begin + count], all_logits=True))
        begin += count
    return np.concatenate(rows)


def relative_error(found: Floats, expected: Floats) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", NAMES)
def test_logits_and_greedy_tokens_agree_with_transformers(
    name: str, proof: MakeProof, opened: Callable[..., Session], tmp_path: Path
) -> None:
    known = proof(name)
    path = pack(known.checkpoint, tmp_path / "t.gguf")
    assert read_header(path).metadata["general.architecture"] == ARCHITECTURES[name]
    session = opened(path)
    whole = fed(session, known.tokens, PREFILL)
    assert relative_error(whole, known.logits) < EXACT
    greedy = whole[PREFILL - 1 :].argmax(axis=1).tolist()
    assert greedy[:-1] == known.tokens[PREFILL:]
    session.rewind(0)
    assert relative_error(fed(session, known.tokens, 23, PREFILL - 23), known.logits) < EXACT


def _gelu_through_float16(x: Floats) -> Floats:
    """ggml-cpu's GELU: a table from float16 to float16, and nothing to compute beyond 10 (ggml_vec_geglu_f32 in vec.h)."""
    narrow = x.astype(np.float16).astype(np.float32)
    inner = np.float32(np.sqrt(2 / np.pi)) * narrow * (1 + np.float32(0.044715) * narrow * narrow)
    table = (np.float32(0.5) * narrow * (1 + np.tanh(inner))).astype(np.float16).astype(np.float32)
    return np.where(x <= -10, np.float32(0), np.where(x >= 10, x, table))


@pytest.mark.parametrize("name", ["gemma2", "gemma3", DEEP])
def test_what_gemma_differs_by_is_ggmls_table_of_gelu(
    name: str,
    proof: MakeProof,
    opened: Callable[..., Session],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The oracle with the same table comes far nearer; what is left are values that round the other way, because the last bit
    before the table differs."""
    known = proof(name)
    (tmp_path / "safetensors").mkdir()
    options = WriteOptions("tiny", 64, NO_PROGRESS)
    SafetensorsFormat().write(known.checkpoint, tmp_path / "safetensors", options)
    found = fed(opened(pack(known.checkpoint, tmp_path / "t.gguf")), known.tokens, PREFILL)
    monkeypatch.setitem(reference.ACTIVATIONS, "gelu_tanh", _gelu_through_float16)
    oracle = reference.open_session(tmp_path / "safetensors", SessionOptions(context_length=128))
    with_table = oracle.feed(known.tokens, all_logits=True)
    oracle.close()
    explained, unexplained = (float(np.linalg.norm(found - want)) for want in (with_table, known.logits))
    assert explained < 0.3 * unexplained


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_reads_back_exactly(name: str, proof: MakeProof, tmp_path: Path) -> None:
    checkpoint = proof(name).checkpoint
    found = dict(read_weights(pack(checkpoint, tmp_path / "t.gguf")))
    assert sorted(found) == sorted(checkpoint.names())
    for tensor, values in found.items():
        assert np.array_equal(values, checkpoint.tensor(tensor).dequantize()), tensor


MIXED = [
    {"v_proj": "int8-g32"},
    {"v_proj": "int8-g32", "up_proj": "int8-g64"},
    {"q_proj": "bf16", "gate_proj": "f16"},
    {"k_proj": "f16", "v_proj": "bf16", "q_proj": "int8-g32"},
]


@pytest.mark.parametrize("schemes", MIXED, ids=["value", "value and up", "one float", "all"])
def test_rows_of_several_schemes_share_a_wider_type(
    schemes: dict[str, str], proof: MakeProof, opened: Callable[..., Session], tmp_path: Path
) -> None:
    known = proof("phi3")
    checkpoint = quantized(known.model, tmp_path / "checkpoint", **schemes)
    path = pack(checkpoint, tmp_path / "t.gguf")
    found = dict(read_weights(path))
    for name in checkpoint.names():
        assert np.array_equal(found[name], checkpoint.tensor(name).dequantize()), name
    types = {item.name: item.type.name for item in read_header(path).tensors}
    assert types["blk.0.attn_qkv.weight"] == ("Q8_0" if "q_proj" not in schemes else "F32")
    logits = fed(opened(path), known.tokens, PREFILL)
    _, expected = continued(network_of(checkpoint, known.model), known.tokens, 0)
    assert relative_error(logits, expected) < EXACT


def _spec(**changes: Any) -> Callable[[pytest.MonkeyPatch, DecoderSpec], DecoderSpec]:
    return lambda _, spec: dataclasses.replace(spec, **changes)


def _rope(field: str = "rope", **changes: Any) -> Callable[[pytest.MonkeyPatch, DecoderSpec], DecoderSpec]:
    return lambda _, spec: dataclasses.replace(
        spec, **{field: dataclasses.replace(getattr(spec, field), **changes)}
    )


def _block(**changes: Any) -> Callable[[pytest.MonkeyPatch, DecoderSpec], DecoderSpec]:
    return lambda _, spec: dataclasses.replace(spec, block=dataclasses.replace(spec.block, **changes))


def _all_layers_slide(_: pytest.MonkeyPatch, spec: DecoderSpec) -> DecoderSpec:
    return dataclasses.replace(spec, windows=(16,) * spec.layers)


def _swapped(first: str, second: str) -> Callable[[pytest.MonkeyPatch, DecoderSpec], DecoderSpec]:
    def plant(monkeypatch: pytest.MonkeyPatch, spec: DecoderSpec) -> DecoderSpec:
        names = dict(gguf_tensors._IN_LAYER)
        names[first], names[second] = names[second], names[first]
        monkeypatch.setattr(gguf_tensors, "_IN_LAYER", names)
        return spec

    return plant


def _gate_after_up(monkeypatch: pytest.MonkeyPatch, spec: DecoderSpec) -> DecoderSpec:
    turned = ("mlp.gate_up_proj", ("mlp.up_proj", "mlp.gate_proj"))
    storage = dataclasses.replace(gguf_tensors._FUSED, fused=(gguf_tensors.FUSED_ATTENTION, turned))
    monkeypatch.setattr(gguf_tensors, "_FUSED", storage)
    return spec


def _sinks_that_weigh(monkeypatch: pytest.MonkeyPatch, spec: DecoderSpec) -> DecoderSpec:
    monkeypatch.setattr(gguf_tensors, "NO_SINK", 0.0)
    return spec


def _not_interleaved(monkeypatch: pytest.MonkeyPatch, spec: DecoderSpec) -> DecoderSpec:
    monkeypatch.setattr(gguf_tensors, "_row_order", lambda spec, name: None)
    return spec


def _short_cache(monkeypatch: pytest.MonkeyPatch, spec: DecoderSpec) -> DecoderSpec:
    monkeypatch.setattr(gguf_metadata, "_CACHE_MULTIPLE", 1)
    return spec


def _norms_swapped(first: str, second: str) -> Callable[[pytest.MonkeyPatch, DecoderSpec], DecoderSpec]:
    """Two norms of a layer in each other's place."""

    def plant(monkeypatch: pytest.MonkeyPatch, spec: DecoderSpec) -> DecoderSpec:
        one, other = getattr(spec.norms, first), getattr(spec.norms, second)
        names = gguf_tensors._layer_names(spec)
        wrong = {**names, one: names[other], other: names[one]}
        monkeypatch.setattr(gguf_tensors, "_layer_names", lambda _: wrong)
        return spec

    return plant


FAULTS: dict[str, tuple[str, Callable[[pytest.MonkeyPatch, DecoderSpec], DecoderSpec]]] = {
    "window": ("mistral", _spec(windows=(17, 17))),
    "window in every layer": ("qwen2-window", _all_layers_slide),
    "sinks": ("mistral", _sinks_that_weigh),
    "rows of a slide": ("mistral", _not_interleaved),
    "rows": ("granite", _not_interleaved),
    "q and k norm": ("qwen3", _swapped("self_attn.q_norm", "self_attn.k_norm")),
    "norms of gemma": ("gemma2", _norms_swapped("after_attention", "after_feed_forward")),
    "norms of olmo": ("olmo2", _norms_swapped("after_attention", "after_feed_forward")),
    "window of gemma 2": ("gemma2", _spec(windows=(None, 16))),
    "cap on scores": ("gemma2", _block(attention_softcap=50.0)),
    "cap on logits": ("gemma2", _spec(logit_softcap=30.0)),
    "window of gemma 3": ("gemma3", _all_layers_slide),
    "local base": ("gemma3", _rope("window_rope", theta=1e6)),
    "global base": ("gemma3", _rope(theta=1e4)),
    "scale of scores": ("granite", _block(attention_scale=0.25)),
    "scale of branches": ("granite", _block(residual_scale=1.0)),
    "scale of the embedding": ("granite", _spec(embedding_scale=1.0)),
    "scale of logits": ("granite", _spec(logit_scale=1.0)),
    "up before gate": ("phi3", _gate_after_up),
    "long factors": ("phi3", _short_cache),
    "attention factor": ("phi3", _rope(attention_factor=1.0)),
    "short factors": ("phi3", _rope(short_factors=(1.0,) * 8)),
    "whole heads turn": (
        "phi4-mini",
        _rope(rotary_dim=16, short_factors=(1.0,) * 8, long_factors=(1.0,) * 8),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_seen(
    fault: str,
    proof: MakeProof,
    opened: Callable[..., Session],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, plant = FAULTS[fault]
    known = proof(name)
    wrong = Checkpoint(known.checkpoint.directory, plant(monkeypatch, known.checkpoint.spec))
    logits = fed(opened(pack(wrong, tmp_path / "t.gguf")), known.tokens, PREFILL)
    assert relative_error(logits, known.logits) > SEEN


LONG = {"max_position_embeddings": 1024}


@pytest.mark.parametrize("name", ["mistral", "gemma3"])
def test_rewinding_past_the_window_equals_a_fresh_session(
    name: str, family_twin: Callable[..., Path], edited: Any, opened: Callable[..., Session], tmp_path: Path
) -> None:
    model = edited(family_twin(name, tokenizer="qwen2", dtype="float32"), config=LONG)
    path = pack(quantized(model, tmp_path / "checkpoint"), tmp_path / "t.gguf")
    tokens = np.random.default_rng(4).integers(0, 256, 700).tolist()
    settings = EngineSettings(prompt_chunk_tokens=32)  # a cache of 256 tokens for the layers that slide
    session, fresh = (opened(path, context_length=768, settings=settings) for _ in range(2))
    expected = fresh.feed(tokens, all_logits=True)
    session.feed(tokens)
    for position in (695, 640, 100, 699, 17, 16, 0):
        session.rewind(position)
        assert session.position == position
        found = session.feed(tokens[position:], all_logits=True)
        assert relative_error(found, expected[position:]) < 1e-4, position


def test_a_window_that_is_not_restored_is_seen(
    family_twin: Callable[..., Path],
    edited: Any,
    opened: Callable[..., Session],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(GgufSession, "_restore_window", lambda self, memory, position: None)
    model = edited(family_twin("mistral", tokenizer="qwen2", dtype="float32"), config=LONG)
    path = pack(quantized(model, tmp_path / "checkpoint"), tmp_path / "t.gguf")
    tokens = np.random.default_rng(4).integers(0, 256, 700).tolist()
    session = opened(path, context_length=768, settings=EngineSettings(prompt_chunk_tokens=32))
    expected = session.feed(tokens, all_logits=True)
    session.rewind(100)
    assert relative_error(session.feed(tokens[100:], all_logits=True), expected[100:]) > SEEN


def _with_block(spec: DecoderSpec, **changes: Any) -> DecoderSpec:
    return dataclasses.replace(spec, block=dataclasses.replace(spec.block, **changes))


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "opt": ("llama", {"family": "opt"}, "no runtime for family opt"),
    "qwen3 that slides": ("qwen3", {"windows": (None, 16)}, "qwen3 lets no layer slide"),
    "qwen3 with biases": ("qwen3", {"qkv_bias": True, "output_bias": True}, "qwen3 has no biases in output"),
    "tied olmo2": ("olmo2", {"tied_embeddings": True}, "olmo2 wants an output head of its own"),
    "untied gemma2": (
        "gemma2",
        {"tied_embeddings": False},
        "gemma2 takes the embedding for the output head",
    ),
    "gemma2 without a cap": ("gemma2", {"logit_softcap": None}, "gemma2 caps scores and logits"),
    "other scale of scores": (
        "gemma2",
        {"block": BlockStyle(norm_placement="both", activation="gelu_tanh", attention_scale=0.25)},
        "gemma2 multiplies scores by 0.176777, this model by 0.25",
    ),
    "phi4 that slides": ("phi4-mini", {"windows": (16, 16)}, "phi3 lets no layer slide"),
    "olmo2 with llama3 rope": (
        "olmo2",
        {"rope": RopeSpec(1e4, "llama3")},
        "olmo2 has no rope scaling 'llama3'",
    ),
    "windows of two lengths": ("mistral", {"windows": (16, 32)}, "granite_swa has one window"),
    "layers of two sizes": (
        "qwen3",
        {"layer_shapes": (LayerShape(4, 2, 128), LayerShape(4, 2, 64))},
        "qwen3 has layers of one size",
    ),
    "other norms": ("llama", {"block": BlockStyle(norm="layer", norm_bias=True)}, "llama has other norms"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_architecture_computes_is_refused(name: str, family_twin: Callable[..., Path]) -> None:
    twin, changes, reason = REFUSED[name]
    spec = open_source(str(family_twin(twin, tokenizer="qwen2", dtype="float32"))).spec
    found = reasons_against(dataclasses.replace(spec, **changes))
    assert any(reason in item for item in found), found


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_has_no_reason_against_it(name: str, proof: MakeProof) -> None:
    assert reasons_against(proof(name).checkpoint.spec) == []


def test_27b_scales_scores_by_its_sizes(family_twin: Callable[..., Path]) -> None:
    """Gemma 2 27B: 46 layers, query_pre_attn_scalar 144 = 4608 / 32 with heads of 128; a model of 42 layers is not taken for it."""
    spec = open_source(str(family_twin("gemma2-27b", tokenizer="qwen2", dtype="float32"))).spec
    assert reasons_against(spec) == []
    assert reasons_against(dataclasses.replace(spec, layers=42, windows=spec.windows[:42]))


def test_sinks_in_a_file_are_an_error(
    proof: MakeProof, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_tensors, "NO_SINK", -3.0)
    with pytest.raises(ArtifactError, match=r"blk\.0\.attn_sinks\.weight holds attention sinks"):
        list(read_weights(pack(proof("mistral").checkpoint, tmp_path / "t.gguf")))


def test_a_window_as_long_as_the_context_is_none(proof: MakeProof) -> None:
    spec = proof("mistral").checkpoint.spec
    assert architecture(dataclasses.replace(spec, windows=(256, 256))) == "llama"


@pytest.mark.parametrize("name", ["mistral", "qwen2-window", "gemma2", "gemma3", "phi4-mini"])
def test_the_shape_in_the_file_is_the_models(name: str, proof: MakeProof, tmp_path: Path) -> None:
    """Plans and forecasts of memory read it: every layer's window, the fused matrices, no sinks among the weights."""
    spec = proof(name).checkpoint.spec
    shape = shape_from_gguf(pack(proof(name).checkpoint, tmp_path / "t.gguf"))
    assert shape.family.removesuffix("_text") == spec.family
    assert [cache.window for cache in shape.caches] == list(spec.windows or (None,) * spec.layers)
    assert {(cache.kv_heads, cache.key_dim) for cache in shape.caches} == {(spec.kv_heads, spec.head_dim)}
    assert sum(item.parameters for item in shape.tensors if item.role != "other") == spec.parameters()


def test_people_are_told_that_a_file_needs_a_younger_llama_cpp(family_twin: Callable[..., Path]) -> None:
    specs = {
        name: open_source(str(family_twin(name, tokenizer="qwen2", dtype="float32"))).spec
        for name in ("mistral", "mistral-v0.3", "gemma3")
    }
    told = {name: container_notes(spec, ("onnx", "gguf", "gguf-q4_k_m")) for name, spec in specs.items()}
    assert told["mistral-v0.3"] == told["gemma3"] == container_notes(specs["mistral"], ("onnx",)) == ()
    (note,) = told["mistral"]
    assert note.startswith("gguf, gguf-q4_k_m: ") and "granite_swa" in note
