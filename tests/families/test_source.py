"""Every family's folder as the exporter reads it: names, values, logits, sizes and caches are transformers' own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from family_proof import relative_error, stock_network

from edgeport.devices.open_shape import open_shape
from edgeport.errors import UnsupportedModel
from edgeport.export.calibrate.layerwise import LayerwiseModel
from edgeport.export.families.decoder import DecoderSpec
from edgeport.export.families.network import load_network
from edgeport.export.source import SourceModel, open_source

Floats = npt.NDArray[np.float32]
FamilyTwin = Callable[..., Path]
FAMILIES = (
    "llama", "llama3", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "phi4-mini", "granite", "olmo2",
    "llama-biases", "mistral-v0.3", "qwen2-window", "phi3-4k",
)  # fmt: skip
WINDOW, TOKENS = 16, 48
TOLERANCE = 1e-6


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, family_twin: FamilyTwin) -> Path:
    return family_twin(request.param)


@pytest.fixture(scope="module")
def source(model: Path) -> SourceModel:
    return open_source(str(model))


@pytest.fixture(scope="module")
def stock(model: Path) -> Any:
    return stock_network(model)


@pytest.fixture(scope="module")
def tokens(source: SourceModel) -> npt.NDArray[np.int64]:
    return np.random.default_rng(4).integers(0, source.spec.vocab_size, (2, TOKENS))


@pytest.fixture(scope="module")
def wanted(stock: Any, tokens: npt.NDArray[np.int64]) -> Floats:
    return logits_of(stock, tokens)


def logits_of(network: Any, tokens: npt.NDArray[np.int64]) -> Floats:
    import torch

    with torch.inference_mode():
        logits: Floats = network(torch.from_numpy(tokens)).logits.numpy()
    return logits


def layerwise_logits(source: SourceModel, tokens: npt.NDArray[np.int64]) -> Floats:
    run = LayerwiseModel(source, n_ctx=TOKENS, threads=1)
    hidden = run.embed(tokens)
    for index in range(run.layers):
        with run.layer(index) as module:
            hidden = run.run(index, module, hidden)
    logits: Floats = run.logits(hidden).numpy()
    return logits


def canonical(network: Any) -> dict[str, Floats]:
    """What transformers holds, cut and shifted by hand: Phi-3's rows are q, k, v and gate, up; Gemma multiplies by 1 + w."""
    config = network.config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rows = {"q": config.num_attention_heads * head, "k": config.num_key_value_heads * head}
    tensors = {}
    for name, parameter in network.named_parameters():
        values = parameter.detach().numpy()
        if "qkv_proj" in name:
            query, key = rows["q"], rows["q"] + rows["k"]
            parts = {"q_proj": values[:query], "k_proj": values[query:key], "v_proj": values[key:]}
            tensors |= {name.replace("qkv_proj", part): piece for part, piece in parts.items()}
        elif "gate_up_proj" in name:
            wide = config.intermediate_size
            tensors[name.replace("gate_up", "gate")] = values[:wide]
            tensors[name.replace("gate_up", "up")] = values[wide:]
        else:
            shifted = config.model_type.startswith("gemma") and name.endswith("norm.weight")
            tensors[name] = values + np.float32(1) if shifted else values
    return tensors


def test_every_canonical_tensor_is_what_transformers_holds(source: SourceModel, stock: Any) -> None:
    held = canonical(stock)
    assert {item.name for item in source.spec.tensors()} == set(held)
    for item in source.spec.tensors():
        values = source.tensor(item.name)
        assert values.shape == item.shape, item.name
        assert np.array_equal(values.astype(np.float32), held[item.name]), item.name


def test_the_number_of_parameters_is_transformers(source: SourceModel, stock: Any, model: Path) -> None:
    count = sum(parameter.numel() for parameter in stock.parameters())
    assert source.spec.parameters() == count
    assert open_shape(str(model)).parameters == count


def test_stored_bytes_are_those_of_the_file(source: SourceModel, model: Path) -> None:
    """Each row of a joined matrix is counted in one canonical tensor, and lies where that tensor's entry says."""
    with (model / "model.safetensors").open("rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
    file_bytes = (model / "model.safetensors").stat().st_size
    facts = source.facts()
    assert facts.size_bytes == file_bytes - 8 - header_bytes and facts.dtype == "bf16"
    names = [item.name for item in source.spec.tensors()]
    spans = sorted((source.weights.entry(name).start, source.weights.entry(name).stop) for name in names)
    assert all(before[1] == after[0] for before, after in zip(spans, spans[1:], strict=False))


def test_the_network_under_canonical_names_answers_the_same(
    source: SourceModel, model: Path, tokens: npt.NDArray[np.int64], wanted: Floats
) -> None:
    import torch

    network = load_network(model, dtype=torch.float32)
    assert relative_error(logits_of(network, tokens), wanted) < TOLERANCE
    parameters = dict(network.named_parameters())
    assert set(parameters) == {item.name for item in source.spec.tensors()}
    for item in source.spec.tensors():
        values = parameters[item.name].detach().float().numpy()
        assert np.array_equal(values, source.tensor(item.name).astype(np.float32)), item.name


def test_the_network_of_the_stored_dtype_answers_as_transformers(
    model: Path, tokens: npt.NDArray[np.int64]
) -> None:
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(model, dtype="auto", attn_implementation="eager").eval()
    ours = load_network(model)
    assert str(ours.dtype) == "torch.bfloat16"
    import torch

    with torch.inference_mode():
        got, want = (network(torch.from_numpy(tokens)).logits.float().numpy() for network in (ours, plain))
    assert relative_error(got, want) < 0.03, "bfloat16 keeps 8 bits"


def test_layer_by_layer_is_the_whole_network(
    source: SourceModel, tokens: npt.NDArray[np.int64], wanted: Floats
) -> None:
    assert relative_error(layerwise_logits(source, tokens), wanted) < TOLERANCE


def test_a_layer_in_torch_carries_the_canonical_tensors(source: SourceModel) -> None:
    run = LayerwiseModel(source, n_ctx=TOKENS, threads=1)
    for index in (0, source.spec.layers - 1):
        prefix = f"model.layers.{index}."
        with run.layer(index) as module:
            state = {prefix + name: values for name, values in module.state_dict().items()}
        assert set(state) == {item.name for item in source.spec.layer_tensors(index)}
        for name, values in state.items():
            assert np.array_equal(values.numpy(), source.tensor(name).astype(np.float32)), name


def test_caches_are_transformers(source: SourceModel, stock: Any, tokens: npt.NDArray[np.int64]) -> None:
    """Heads, features and, where a layer slides, how many tokens are kept: transformers drops the one that comes next."""
    import torch

    shape = open_shape(str(source.directory))
    with torch.inference_mode():
        cache = stock(torch.from_numpy(tokens[:1]), use_cache=True).past_key_values
    assert len(cache.layers) == shape.layers == source.spec.layers
    for index, (layer, planned) in enumerate(zip(cache.layers, shape.caches, strict=True)):
        kept = layer.keys.shape[2]
        assert (planned.kv_heads, planned.key_dim) == (layer.keys.shape[1], layer.keys.shape[3])
        assert (planned.kv_heads, planned.value_dim) == (layer.values.shape[1], layer.values.shape[3])
        window = source.spec.window(index)
        assert planned.window == window
        assert kept == (TOKENS if window is None else window - 1)
        assert planned.tokens(TOKENS) == (TOKENS if window is None else window)
    values = sum(planned.values_per_token for planned in shape.caches)
    assert source.spec.kv_bytes_per_token() == 2 * values


def test_the_layers_that_slide_are_the_published_ones(family_twin: FamilyTwin) -> None:
    def windows(family: str) -> list[int | None]:
        spec = open_source(str(family_twin(family))).spec
        return [spec.window(index) for index in range(spec.layers)]

    assert windows("mistral") == [WINDOW, WINDOW]
    assert windows("gemma2") == [WINDOW, None]
    assert windows("gemma3") == [WINDOW] * 5 + [None]
    assert windows("qwen2-window") == [None, WINDOW]
    assert windows("phi3-4k") == [WINDOW, WINDOW]
    assert windows("mistral-v0.3") == windows("llama") == [None, None]


def without(spec: DecoderSpec, forgotten: str) -> DecoderSpec:
    neutral = {"embedding_scale": 1.0, "logit_scale": 1.0, "logit_softcap": None}
    return replace(spec, **{forgotten: neutral[forgotten]})


@pytest.mark.parametrize(
    ("family", "forgotten"),
    [
        ("gemma2", "embedding_scale"),
        ("gemma2", "logit_softcap"),
        ("gemma3", "embedding_scale"),
        ("granite", "embedding_scale"),
        ("granite", "logit_scale"),
    ],
)
def test_a_forgotten_factor_is_seen(family: str, forgotten: str, family_twin: FamilyTwin) -> None:
    source = open_source(str(family_twin(family)))
    tokens = np.random.default_rng(4).integers(0, source.spec.vocab_size, (1, TOKENS))
    wanted = logits_of(stock_network(source.directory), tokens)
    broken = replace(source, spec=without(source.spec, forgotten))
    assert relative_error(layerwise_logits(broken, tokens), wanted) > 1e-2


def test_a_cap_on_scores_is_not_left_to_an_attention_that_ignores_it(family_twin: FamilyTwin) -> None:
    """transformers' sdpa takes Gemma 2's cap and does nothing with it; the twin's is low enough to tell."""
    from transformers import AutoModelForCausalLM

    model = family_twin("gemma2", dtype="float32")
    tokens = np.random.default_rng(4).integers(0, 400, (1, TOKENS))
    uncapped = AutoModelForCausalLM.from_pretrained(model, attn_implementation="sdpa").eval()
    wanted = logits_of(stock_network(model), tokens)
    assert relative_error(logits_of(uncapped, tokens), wanted) > 1e-2
    assert relative_error(logits_of(load_network(model), tokens), wanted) < TOLERANCE


def edit(model: Path, folder: Path, **changes: Any) -> Path:
    """A copy with keys of config.json replaced; the weights stay where they are."""
    for path in model.iterdir():
        if path.name != "config.json":
            (folder / path.name).symlink_to(path)
    document = {**json.loads((model / "config.json").read_text()), **changes}
    (folder / "config.json").write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize(
    ("family", "changes", "told"),
    [
        ("phi3", {"num_key_value_heads": 1}, r"qkv_proj\.weight is \[128, 64\], config\.json says \[96, 64\]"),
        ("phi3", {"intermediate_size": 96}, r"gate_up_proj\.weight is \[256, 64\].*\[192, 64\]"),
        ("qwen3", {"head_dim": 16}, r"q_norm\.weight is \[32\], config\.json says \[16\]"),
        ("gemma3", {"num_hidden_layers": 5, "layer_types": None}, r"layers\.5\.\S+ is not a tensor of family gemma3"),
        ("olmo2", {"num_key_value_heads": 4}, r"k_norm\.weight is \[32\], config\.json says \[64\]"),
    ],
)  # fmt: skip
def test_a_config_that_disagrees_with_the_tensors_is_refused_by_stored_name(
    family: str, changes: dict[str, Any], told: str, family_twin: FamilyTwin, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModel, match=told):
        open_source(str(edit(family_twin(family), tmp_path, **changes)))


def test_a_llama_folder_called_gemma_is_refused(family_twin: FamilyTwin, tmp_path: Path) -> None:
    model = edit(
        family_twin("llama"), tmp_path, architectures=["Gemma2ForCausalLM"], hidden_act="gelu_pytorch_tanh"
    )
    with pytest.raises(UnsupportedModel, match="pre_feedforward_layernorm"):
        open_source(str(model))
