"""What only ONNX Runtime has: the cache updated in place, and float32 activations on request."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from edgeport.errors import RuntimeFailure, UnsupportedModel
from edgeport.runtimes import reference
from edgeport.runtimes.encoder import open_encoder
from edgeport.runtimes.onnx import open_session
from edgeport.runtimes.session import SessionOptions

TOKENS = [int(token) for token in np.random.default_rng(2).integers(0, 512, 50)]


def without_sharing(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    config = json.loads((target / "genai_config.json").read_text())
    config["search"]["past_present_share_buffer"] = False
    (target / "genai_config.json").write_text(json.dumps(config))
    return target


def test_the_shared_cache_equals_the_copied_one(packed_dir: Path, tmp_path: Path) -> None:
    options = SessionOptions(threads=1, context_length=64)
    shared = open_session(packed_dir / "onnx", options)
    copied = open_session(without_sharing(packed_dir / "onnx", tmp_path / "copied"), options)
    assert shared.shared_cache and not copied.shared_cache
    for position, tokens in ((0, TOKENS[:30]), (30, TOKENS[30:31]), (12, TOKENS[12:40]), (0, TOKENS)):
        shared.rewind(position)
        copied.rewind(position)
        np.testing.assert_array_equal(
            shared.feed(tokens, all_logits=True), copied.feed(tokens, all_logits=True)
        )


def test_exact_means_float32_activations(packed_dir: Path) -> None:
    expected = reference.open_session(packed_dir / "safetensors", SessionOptions()).feed(
        TOKENS, all_logits=True
    )
    errors = {}
    for exact in (True, False):
        session = open_session(packed_dir / "onnx", SessionOptions(threads=1, exact=exact))
        errors[exact] = np.abs(session.feed(TOKENS, all_logits=True) - expected).max()
    assert errors[True] < 1e-4 < 1e-2 < errors[False]


def with_named_width(source: Path, target: Path) -> Path:
    """As onnxruntime-genai's builder (0.18) declares the cache: [batch, heads, past, "kv_cache_dim"]."""
    import onnx

    shutil.copytree(source, target)
    model = onnx.load(target / "model.onnx", load_external_data=False)
    for value in (*model.graph.input, *model.graph.output):
        if value.name.startswith(("past", "present")):
            value.type.tensor_type.shape.dim[3].dim_param = "kv_cache_dim"
    (target / "model.onnx").write_bytes(model.SerializeToString())
    return target


def test_the_width_of_a_head_may_stand_in_the_configuration(packed_dir: Path, tmp_path: Path) -> None:
    folder = with_named_width(packed_dir / "onnx", tmp_path / "named")
    options = SessionOptions(threads=1)
    expected = open_session(packed_dir / "onnx", options).feed(TOKENS)
    np.testing.assert_array_equal(open_session(folder, options).feed(TOKENS), expected)
    states = open_encoder("onnx", folder, options).encode([TOKENS])[0]
    np.testing.assert_array_equal(
        states, open_encoder("onnx", packed_dir / "onnx", options).encode([TOKENS])[0]
    )
    (folder / "genai_config.json").unlink()
    for opener in (open_session, partial(open_encoder, "onnx")):
        with pytest.raises(UnsupportedModel, match=r"how wide a head is.*kv_cache_dim"):
            opener(folder, options)


def test_another_graph_is_refused(tmp_path: Path) -> None:
    import onnx

    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 1, 4])
    output = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [1, 1, 4])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["logits"])], "g", [value], [output])
    opsets = [onnx.helper.make_opsetid("", 21)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "model.onnx")
    with pytest.raises(UnsupportedModel, match="not a decoder with a key-value cache; its inputs are x"):
        open_session(tmp_path, SessionOptions(threads=1))


def test_missing_external_data_is_reported(packed_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(packed_dir / "onnx", tmp_path / "onnx")
    (folder / "model.onnx.data").unlink()
    with pytest.raises(RuntimeFailure, match=r"model\.onnx"):
        open_session(folder, SessionOptions(threads=1))
