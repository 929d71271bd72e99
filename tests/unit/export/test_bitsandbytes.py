"""NF4 and LLM.int8 with the real bitsandbytes: sizes foretold, values by our own reader, the session, damage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from edgeport.errors import ArtifactError, GateFailure, RuntimeFailure, UsageError
from edgeport.export.evaluate.engines import EXPORT_ENGINES, engine_for, opener_for
from edgeport.export.evaluate.torch_session import load_network, open_session
from edgeport.export.formats.base import WriteOptions
from edgeport.export.native.bitsandbytes import float_dtype
from edgeport.export.native.table import get_native
from edgeport.export.source import open_source
from edgeport.export.verify.native import dequantize_in_child, native_identity
from edgeport.export.verify.read_bitsandbytes import NF4_LEVELS, read_weights
from edgeport.lazy import load
from edgeport.progress import NO_PROGRESS
from edgeport.runtimes.engines import ENGINES
from edgeport.runtimes.reference import ReferenceSession
from edgeport.runtimes.session import SessionOptions

pytest.importorskip("bitsandbytes")
NAMES = ("bitsandbytes-nf4", "bitsandbytes-int8")
TENSOR = "model.layers.1.mlp.down_proj.weight"
EXACT = SessionOptions(threads=1, context_length=64, exact=True)
TOKENS = [int(token) for token in np.random.default_rng(4).integers(0, 512, 40)]


@pytest.fixture(scope="module")
def folders(tiny_qwen2_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The tiny Qwen2 (biases, a head of its own) in both schemes, written as an export writes them."""
    source = open_source(str(tiny_qwen2_dir))
    made = {}
    for name in NAMES:
        folder = tmp_path_factory.mktemp(name)
        entry = get_native(name).write(source, None, folder, WriteOptions("tiny", 64, NO_PROGRESS))
        assert entry == folder / "config.json"
        made[name] = folder
    return made


def payload_bytes(folder: Path) -> int:
    content = (folder / "model.safetensors").read_bytes()
    return len(content) - 8 - int.from_bytes(content[:8], "little")


@pytest.mark.parametrize("name", NAMES)
def test_the_forecast_is_the_real_size(name: str, folders: Mapping[str, Path], tiny_qwen2_dir: Path) -> None:
    spec = open_source(str(tiny_qwen2_dir)).spec
    forecast = get_native(name).forecast(spec)
    linears = sum(item.role == "linear" for item in spec.tensors())
    # The state of an NF4 tensor is a JSON text whose numbers differ in length.
    assert payload_bytes(folders[name]) == pytest.approx(forecast.size_bytes, abs=6 * linears)
    assert forecast.bits_per_weight == pytest.approx(forecast.size_bytes * 8 / spec.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_embedding_head_norms_and_biases_stay_as_they_are(
    name: str, folders: Mapping[str, Path], tiny_qwen2_dir: Path
) -> None:
    source = load_file(tiny_qwen2_dir / "model.safetensors")
    stored = load_file(folders[name] / "model.safetensors")
    kept = [weight for weight in source if "_proj.weight" not in weight]
    assert {"model.embed_tokens.weight", "lm_head.weight", "model.layers.0.self_attn.q_proj.bias"} <= set(
        kept
    )
    for weight in kept:
        assert stored[weight].dtype == torch.bfloat16 and torch.equal(stored[weight], source[weight])


@pytest.mark.parametrize("name", NAMES)
def test_our_reader_has_the_values_that_bitsandbytes_dequantizes(
    name: str, folders: Mapping[str, Path]
) -> None:
    expected = load_network(folders[name], EXACT).state_dict()
    found = dict(read_weights(folders[name] / "config.json"))
    assert set(found) == set(expected)
    for weight, values in found.items():
        np.testing.assert_array_equal(values, expected[weight].float().numpy(), err_msg=weight)


def test_every_nf4_weight_is_the_nearest_level(folders: Mapping[str, Path], tiny_qwen2_dir: Path) -> None:
    """Independent of bitsandbytes altogether: the paper's rule, up to the rounding of the block's scale."""
    weight = load_file(tiny_qwen2_dir / "model.safetensors")[TENSOR].float().numpy().reshape(-1, 64)
    absmax = np.abs(weight).max(axis=1, keepdims=True)
    nearest = np.abs((weight / absmax)[..., None] - NF4_LEVELS).argmin(axis=-1)
    found = dict(read_weights(folders["bitsandbytes-nf4"] / "config.json"))[TENSOR].reshape(-1, 64)
    scale = np.abs(found).max(axis=1, keepdims=True)  # a block's largest weight has the level 1 or -1
    np.testing.assert_allclose(found / scale, NF4_LEVELS[nearest], atol=1e-6)
    np.testing.assert_allclose(scale, absmax, rtol=0.05)


def test_every_int8_weight_is_the_nearest_code(folders: Mapping[str, Path], tiny_qwen2_dir: Path) -> None:
    weight = load_file(tiny_qwen2_dir / "model.safetensors")[TENSOR].float().numpy()
    step = np.abs(weight).max(axis=1, keepdims=True) / 127
    found = dict(read_weights(folders["bitsandbytes-int8"] / "config.json"))[TENSOR]
    assert (np.abs(found - weight) <= 0.501 * step).all()


@pytest.mark.parametrize("name", [NAMES[0], pytest.param(NAMES[1], marks=pytest.mark.slow)])
def test_it_gets_an_identity(
    name: str, folders: Mapping[str, Path], tiny_qwen2_dir: Path, tmp_path: Path
) -> None:
    source = open_source(str(tiny_qwen2_dir))
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    identity = native_identity(name, folders[name] / "config.json", source, artifact, NO_PROGRESS)
    digests = json.loads((artifact / f"weights-{name}.json").read_text())
    assert len(identity.weights_id) == 64 and set(digests) == {item.name for item in source.spec.tensors()}
    assert max(identity.relative_errors.values()) < (0.2 if name.endswith("nf4") else 0.02)


def damaged(folder: Path, target: Path, change: Any) -> Path:
    shutil.copytree(folder, target)
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})
    return target / "config.json"


def flip_nf4(state: dict[str, Any]) -> None:
    state[TENSOR][3] ^= 0x10


def flip_int8(state: dict[str, Any]) -> None:
    state[TENSOR][3, 1] ^= 0x10


@pytest.mark.parametrize(("name", "flip"), [(NAMES[0], flip_nf4), (NAMES[1], flip_int8)])
def test_one_flipped_bit_is_one_other_weight(
    name: str, flip: Any, folders: Mapping[str, Path], tmp_path: Path
) -> None:
    before = dict(read_weights(folders[name] / "config.json"))
    after = dict(read_weights(damaged(folders[name], tmp_path / "damaged", flip)))
    assert [weight for weight in before if not np.array_equal(before[weight], after[weight])] == [TENSOR]
    assert np.count_nonzero(before[TENSOR] != after[TENSOR]) == 1


def test_a_wrong_scale_gets_no_identity(
    folders: Mapping[str, Path], tiny_qwen2_dir: Path, tmp_path: Path
) -> None:
    def enlarge(state: dict[str, Any]) -> None:
        name = TENSOR.replace(".weight", ".SCB")
        state[name] = state[name] * 3

    entry = damaged(folders["bitsandbytes-int8"], tmp_path / "damaged", enlarge)
    with pytest.raises(GateFailure, match=TENSOR):
        dequantize_in_child("bitsandbytes-int8", str(entry), str(tiny_qwen2_dir), str(tmp_path))


@pytest.mark.parametrize(
    ("name", "part"),
    [(NAMES[0], ".weight.absmax"), (NAMES[0], ".weight.quant_state.bitsandbytes__nf4"), (NAMES[1], ".SCB")],
)
def test_a_missing_part_is_named(name: str, part: str, folders: Mapping[str, Path], tmp_path: Path) -> None:
    entry = damaged(
        folders[name], tmp_path / "damaged", lambda state: state.pop(TENSOR.removesuffix(".weight") + part)
    )
    with pytest.raises(ArtifactError, match=TENSOR.removesuffix(".weight")):
        list(read_weights(entry))


def test_levels_that_are_not_nf4s_are_refused(folders: Mapping[str, Path], tmp_path: Path) -> None:
    def change(state: dict[str, Any]) -> None:
        state[f"{TENSOR}.quant_map"][7] = 0.01

    with pytest.raises(ArtifactError, match="levels are not those of NF4"):
        list(read_weights(damaged(folders[NAMES[0]], tmp_path / "damaged", change)))


def reference_over(folder: Path, tiny: Path, target: Path) -> ReferenceSession:
    """The numpy reference over the weights that our reader finds."""
    target.mkdir()
    values = {name: torch.from_numpy(item) for name, item in read_weights(folder / "config.json")}
    save_file(values, target / "model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(tiny / "config.json", target / "config.json")
    return ReferenceSession(target, EXACT)


@pytest.mark.parametrize("name", NAMES)
def test_the_session_agrees_with_the_reference_and_rewinds(
    name: str, folders: Mapping[str, Path], tiny_qwen2_dir: Path, tmp_path: Path
) -> None:
    want = reference_over(folders[name], tiny_qwen2_dir, tmp_path / "float").feed(TOKENS, all_logits=True)
    session = load(opener_for(name))(folders[name] / "config.json", EXACT)
    got = session.feed(TOKENS, all_logits=True)
    assert got.dtype == np.float32 and got.shape == (40, session.vocab_size) == want.shape
    assert np.linalg.norm(got - want) / np.linalg.norm(want) < 1e-4
    session.rewind(10)
    assert session.position == 10
    np.testing.assert_allclose(session.feed(TOKENS[10:13])[0], got[12], atol=1e-3)
    session.rewind(0)
    np.testing.assert_allclose(session.feed(TOKENS[:1])[0], got[0], atol=1e-3)
    with pytest.raises(RuntimeFailure, match="do not fit"):
        session.feed(TOKENS + TOKENS)
    with pytest.raises(UsageError, match="vocabulary"):
        session.feed([512])
    session.close()
    session.close()
    with pytest.raises(RuntimeFailure, match="closed"):
        session.feed([1])
    shipped = open_session(folders[name], replace(EXACT, exact=False))
    rounded = shipped.feed(TOKENS, all_logits=True)
    error = np.linalg.norm(rounded - want) / np.linalg.norm(want)
    assert 1e-4 < error < 0.2, "bfloat16 and 8-bit activations are no float32, and not far from it"


def test_a_plain_folder_is_opened_by_the_same_session(tiny_llama_dir: Path) -> None:
    want = ReferenceSession(tiny_llama_dir, EXACT).feed(TOKENS, all_logits=True)
    session = load(opener_for("transformers"))(tiny_llama_dir, EXACT)
    assert np.abs(session.feed(TOKENS, all_logits=True) - want).max() < 1e-3
    session.close()


def test_no_folder_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"config\.json cannot be read"):
        open_session(tmp_path, EXACT)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(RuntimeFailure, match="transformers cannot open"):
        open_session(tmp_path, EXACT)


def test_engines_of_the_exporter() -> None:
    assert set(ENGINES) < set(EXPORT_ENGINES)
    for name in ("gguf-q4_k_m", "gguf"):
        assert engine_for(name) is ENGINES["gguf"]
    assert engine_for("bitsandbytes-nf4").name == "transformers"
    with pytest.raises(UsageError, match="no engine for the format 'exl2'"):
        engine_for("exl2")


def test_weights_of_another_type_than_the_config_says_are_refused(
    tiny_qwen2_dir: Path, tmp_path: Path
) -> None:
    source = open_source(str(tiny_qwen2_dir))
    assert float_dtype(source.spec) == "bfloat16"
    assert get_native(NAMES[0]).reasons_against(source) == []
    copy = tmp_path / "copy"
    shutil.copytree(tiny_qwen2_dir, copy)
    config = json.loads((copy / "config.json").read_text())
    for key in ("dtype", "torch_dtype"):
        config.pop(key, None)
    (copy / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    (reason,) = get_native(NAMES[0]).reasons_against(open_source(str(copy)))
    assert "float16" in reason and "BF16" in reason
