"""Layers of different sizes, from config.json to every engine, against a llama whose layers are all of one size."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgeport.errors import UnsupportedModel
from edgeport.export.calibrate.layerwise import LayerwiseModel
from edgeport.export.evaluate import torch_session
from edgeport.export.families.decoder import LayerShape
from edgeport.export.families.nemotron_nas import width_of
from edgeport.export.families.network import load_network
from edgeport.export.families.table import read_spec
from edgeport.export.formats.table import FORMATS
from edgeport.export.native.table import get_native
from edgeport.export.quantize.awq import folding_pairs
from edgeport.export.source import open_source
from edgeport.export.verify.gguf_header import read_header
from edgeport.runtimes.session import SessionOptions

TOLERANCE = 1e-4
STOCK = {
    "onnx": """
import onnxruntime_genai as engine
model = engine.Model(folder)
parameters = engine.GeneratorParams(model)
parameters.set_search_options(max_length=len(prompt) + count, min_length=len(prompt) + count)
generator = engine.Generator(model, parameters)
generator.append_tokens(prompt)
while not generator.is_done():
    generator.generate_next_token()
print(json.dumps([int(token) for token in generator.get_sequence(0)][len(prompt):]))
""",
    "openvino": """
import numpy, openvino, openvino_genai as engine
exact = {"EXECUTION_MODE_HINT": "ACCURACY", "INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
pipeline = engine.LLMPipeline(folder, "CPU", **exact)
settings = engine.GenerationConfig(max_new_tokens=count, do_sample=False, ignore_eos=True, apply_chat_template=False)
ids = openvino.Tensor(numpy.array([prompt], dtype=numpy.int64))
mask = openvino.Tensor(numpy.ones((1, len(prompt)), dtype=numpy.int64))
print(json.dumps([int(token) for token in pipeline.generate(engine.TokenizedInputs(ids, mask), settings).tokens[0]]))
""",
}
Oracle = Callable[..., npt.NDArray[np.float32]]


def config_of(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return document


def relative_error(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_the_spec_has_the_sizes_of_each_layer(nas_dir: Path) -> None:
    spec = open_source(str(nas_dir)).spec
    assert spec.layer_shapes == (LayerShape(4, 4, 256), LayerShape(4, 2, 96), LayerShape(4, 1, 544))
    assert (spec.kv_heads, spec.intermediate_size) == (4, 544), "the largest of any layer"
    assert spec.kv_bytes_per_token() == 2 * (4 + 2 + 1) * 16 * 2
    shapes = {item.name: item.shape for item in spec.tensors()}
    assert shapes["model.layers.1.self_attn.k_proj.weight"] == (32, 64)
    assert shapes["model.layers.2.mlp.down_proj.weight"] == (64, 544)


@pytest.mark.parametrize(
    ("ffn_mult", "hidden_size", "width"),
    # Published: layers of Llama-3_1-Nemotron-51B have ffn_mult 5.25 and 2.625 at hidden size 8192.
    [(5.25, 8192, 28672), (2.625, 8192, 14336), (0.1, 64, 256), (1.5, 256, 256), (1.51, 256, 512)],
)
def test_widths_are_multiples_of_256(ffn_mult: float, hidden_size: int, width: int) -> None:
    assert width_of(ffn_mult, hidden_size) == width


def test_layers_that_are_alike_make_a_uniform_model(nas_dir: Path) -> None:
    config = config_of(nas_dir)
    spec = read_spec({**config, "block_configs": [config["block_configs"][1]] * 3})
    assert spec.layer_shapes == ()
    assert (spec.kv_heads, spec.intermediate_size) == (2, 96)


FAULTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "no attention": ("attention", {"no_op": True, "n_heads_in_group": None}, "layer 1: attention has no_op"),
    "no feed-forward": ("ffn", {"no_op": True}, "layer 1: ffn has no_op"),
    "a matrix": ("attention", {"replace_with_linear": True}, "layer 1: attention has replace_with_linear"),
    "odd groups": ("attention", {"n_heads_in_group": 3}, "must divide the 4 heads"),
    "no groups": ("attention", {"n_heads_in_group": None}, "n_heads_in_group is None"),
    "no width": ("ffn", {"intermediate_size": None}, "neither ffn_mult nor intermediate_size"),
    "another activation": ("ffn", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_exported_is_refused(fault: str, nas_dir: Path) -> None:
    part, changes, told = FAULTS[fault]
    config = config_of(nas_dir)
    config["block_configs"][1][part] |= changes
    with pytest.raises(UnsupportedModel, match=told):
        read_spec(config)


def test_the_number_of_layers_must_agree(nas_dir: Path) -> None:
    with pytest.raises(UnsupportedModel, match="num_hidden_layers 4 and has 3"):
        read_spec(config_of(nas_dir) | {"num_hidden_layers": 4})


@pytest.mark.parametrize(
    "changes",
    [{}, {"tie_word_embeddings": True}, {"attention_bias": True, "mlp_bias": True}, {"head_dim": 16}],
    ids=["plain", "tied", "biases", "head_dim"],
)
def test_the_torch_network_is_the_uniform_one(
    changes: dict[str, Any], make_nas: Callable[..., Path], uniform_logits: Oracle, prompt: list[int]
) -> None:
    import torch

    source = open_source(str(make_nas(**changes)))
    tensors = {item.name: source.tensor(item.name) for item in source.spec.tensors()}
    expected = uniform_logits(config_of(source.directory), tensors, prompt)
    network = load_network(source.directory, dtype=torch.float32)
    with torch.no_grad():
        whole = network(torch.tensor([prompt])).logits[0].numpy()
        first = network(torch.tensor([prompt[:20]]), use_cache=True)
        second = network(torch.tensor([prompt[20:]]), past_key_values=first.past_key_values, use_cache=True)
    pieces = torch.cat([first.logits[0], second.logits[0]]).numpy()
    assert relative_error(whole, expected) < TOLERANCE
    assert relative_error(pieces, expected) < TOLERANCE


def test_a_network_keeps_the_files_dtype(nas_dir: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    state = {name: value.bfloat16() for name, value in load_file(nas_dir / "model.safetensors").items()}
    save_file(state, nas_dir / "model.safetensors")
    assert load_network(nas_dir).dtype == torch.bfloat16
    state.pop("model.norm.weight")
    save_file(state, nas_dir / "model.safetensors")
    with pytest.raises(UnsupportedModel, match="lack model.norm.weight"):
        load_network(nas_dir)


@pytest.mark.parametrize(
    "changes",
    [{"tie_word_embeddings": True}, {"attention_bias": True, "mlp_bias": True}],
    ids=["tied", "biases"],
)
def test_every_container_holds_the_same_weights_and_every_engine_the_same_logits(
    changes: dict[str, Any],
    make_nas: Callable[..., Path],
    pack: Callable[[Path], Any],
    uniform_logits: Oracle,
    prompt: list[int],
) -> None:
    model = make_nas(**changes)
    packed = pack(model)
    assert packed.identities() == dict.fromkeys(FORMATS, packed.checkpoint.weights_id)
    tensors = {name: packed.checkpoint.tensor(name).dequantize() for name in packed.checkpoint.names()}
    expected = uniform_logits(config_of(model), tensors, prompt)
    for name in FORMATS:
        assert relative_error(packed.logits(name, prompt), expected) < TOLERANCE, name
    metadata = read_header(packed.entry_points["gguf"]).metadata
    assert metadata["general.architecture"] == "deci"
    assert metadata["deci.attention.head_count_kv"] == (4, 2, 1)
    assert metadata["deci.feed_forward_length"] == (256, 96, 544)


@pytest.mark.parametrize("name", STOCK)
def test_stock_engines_write_the_references_tokens(
    name: str, nas_dir: Path, pack: Callable[..., Any], prompt: list[int]
) -> None:
    """One head count per model is all that genai_config.json can say; the library must take the cache's shapes from the graph."""
    packed = pack(nas_dir, recipe="f16", formats=(name, "safetensors"))
    tokens = list(prompt[:20])
    for _ in range(8):
        tokens.append(int(packed.logits("safetensors", tokens)[-1].argmax()))
    words = [str(packed.entry_points[name].parent), json.dumps(prompt[:20])]
    script = (
        "import json, sys\nfolder, prompt, count = sys.argv[1], json.loads(sys.argv[2]), 8\n" + STOCK[name]
    )
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == tokens[20:]


def test_layer_by_layer_is_the_whole_network(nas_dir: Path, prompt: list[int]) -> None:
    """What calibration runs."""
    import torch

    model = LayerwiseModel(open_source(str(nas_dir)), n_ctx=len(prompt), threads=1)
    hidden = model.embed(np.array([prompt]))
    for index in range(model.layers):
        with model.layer(index) as module:
            hidden = model.run(index, module, hidden)
    with torch.no_grad():
        expected = load_network(nas_dir)(torch.tensor([prompt])).logits.numpy()
    assert relative_error(model.logits(hidden).numpy(), expected) < TOLERANCE


def test_the_float_session_rewinds(nas_dir: Path, prompt: list[int], uniform_logits: Oracle) -> None:
    """What `edgeport eval` compares with."""
    source = open_source(str(nas_dir))
    tensors = {item.name: source.tensor(item.name) for item in source.spec.tensors()}
    session = torch_session.open_session(nas_dir, SessionOptions(threads=1, context_length=64, exact=True))
    session.feed(prompt[:10])
    session.feed([1, 2, 3])
    session.rewind(10)
    found = session.feed(prompt[10:], all_logits=True)
    session.close()
    assert relative_error(found, uniform_logits(config_of(nas_dir), tensors, prompt)[10:]) < TOLERANCE


def test_scales_fold_across_each_layers_own_heads(nas_dir: Path) -> None:
    spec = open_source(str(nas_dir)).spec
    copies = [folding_pairs(spec, index)[1].copies for index in range(spec.layers)]
    assert copies == [1, 2, 4]


def test_what_needs_transformers_own_class_says_so(nas_dir: Path) -> None:
    (reason,) = get_native("bitsandbytes-nf4").reasons_against(open_source(str(nas_dir)))
    assert "only with code from the folder" in reason
