"""Models of the shapes that pruning makes, packed into every container from one checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgeport.export.checkpoint import Checkpoint, weights_id
from edgeport.export.formats.base import WriteOptions
from edgeport.export.formats.table import FORMATS, get_format
from edgeport.export.quantize.run import quantize
from edgeport.export.recipe import load_recipe
from edgeport.export.source import open_source
from edgeport.export.verify.container import weight_digests
from edgeport.progress import NO_PROGRESS
from edgeport.runtimes.engines import open_session
from edgeport.runtimes.session import SessionOptions

CONTEXT = 64
PREFILL, DECODE = 40, 8
WEIGHT_STD = 0.2
KV_HEADS = (4, 2, 1)
WIDTHS = (256, 96, 544)
Tensors = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Packed:
    """A checkpoint and what each format wrote of it: the entry points by format."""

    checkpoint: Checkpoint
    entry_points: Mapping[str, Path]

    def identities(self) -> dict[str, str]:
        """weights_id of each container, from its independent reader."""
        return {name: weights_id(weight_digests(name, str(path))) for name, path in self.entry_points.items()}

    def logits(self, name: str, tokens: list[int]) -> npt.NDArray[np.float32]:
        """A prefill and a few decode steps in the container's engine, in exact arithmetic: [len(tokens), vocab_size]."""
        options = SessionOptions(threads=1, context_length=CONTEXT, exact=True)
        session = open_session(name, self.entry_points[name], options)
        try:
            rows = [session.feed(tokens[:PREFILL], all_logits=True)]
            rows += [session.feed([token]) for token in tokens[PREFILL:]]
            return np.concatenate(rows)
        finally:
            session.close()


@pytest.fixture(autouse=True, scope="module")
def one_torch_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def prompt() -> list[int]:
    return np.random.default_rng(3).integers(0, 512, PREFILL + DECODE).tolist()


@pytest.fixture
def pack(tmp_path: Path) -> Callable[..., Packed]:
    """pack(model folder) -> one INT4 checkpoint in every format."""

    def write(model: Path, *, recipe: str = "int4", formats: Sequence[str] = tuple(FORMATS)) -> Packed:
        source = open_source(str(model))
        (tmp_path / "checkpoint").mkdir()
        settings = replace(load_recipe(recipe), solver="rtn")
        quantize(source, settings, tmp_path / "checkpoint", threads=1, progress=NO_PROGRESS)
        checkpoint = Checkpoint(tmp_path / "checkpoint", source.spec)
        entry_points = {}
        for name in formats:
            (tmp_path / name).mkdir()
            written = get_format(name).write(
                checkpoint, tmp_path / name, WriteOptions("t", CONTEXT, NO_PROGRESS)
            )
            entry_points[name] = written
        return Packed(checkpoint, entry_points)

    return write


@pytest.fixture
def save_model(tiny_llama_dir: Path, tmp_path: Path) -> Callable[..., Path]:
    """save_model("Llama", hidden_size=..., ...) -> a folder as transformers saves it, with a borrowed tokenizer."""

    def save(family: str, **changes: Any) -> Path:
        import torch
        import transformers

        shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
        rest = {"num_key_value_heads": 2, "vocab_size": 512, "max_position_embeddings": 128}
        config = getattr(transformers, f"{family}Config")(
            **{**shape, **rest, "bos_token_id": 0, "eos_token_id": 2, **changes}
        )
        network = getattr(transformers, f"{family}ForCausalLM")(config)
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator) * WEIGHT_STD
                parameter.copy_(1 + noise if "norm" in name else noise)
        network.to(torch.bfloat16).save_pretrained(tmp_path / "model")
        _borrow_tokenizer(tiny_llama_dir, tmp_path / "model")
        return tmp_path / "model"

    return save


@pytest.fixture
def nas_dir(tiny_llama_dir: Path, tmp_path: Path) -> Path:
    """A Nemotron-NAS folder: three layers of 4, 2 and 1 key-value heads and of widths 256 (by ffn_mult), 96 and 544."""
    return write_nas(tiny_llama_dir, tmp_path / "nas")


@pytest.fixture
def make_nas(tiny_llama_dir: Path, tmp_path: Path) -> Callable[..., Path]:
    """make_nas(tie_word_embeddings=True, ...) -> the same with keys of config.json changed before weights are drawn."""

    def make(**changes: Any) -> Path:
        return write_nas(tiny_llama_dir, tmp_path / "nas", **changes)

    return make


def write_nas(tokenizer: Path, directory: Path, **changes: Any) -> Path:
    import torch
    from safetensors.torch import save_file

    from edgeport.export.families.table import read_spec

    blocks = [
        {
            "attention": {"n_heads_in_group": 4 // kv_heads, "no_op": False, "replace_with_linear": False},
            "ffn": {"ffn_mult": None, "intermediate_size": width, "no_op": False},
        }
        for kv_heads, width in zip(KV_HEADS, WIDTHS, strict=True)
    ]
    blocks[0]["ffn"] = {"ffn_mult": 5.25, "no_op": False, "replace_with_linear": False}
    config = {
        "architectures": ["DeciLMForCausalLM"],
        "model_type": "nemotron-nas",
        "hidden_size": 64,
        "intermediate_size": None,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": 4,
        "num_key_value_heads": None,
        "vocab_size": 512,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
        "dtype": "float32",
        "block_configs": blocks,
        **changes,
    }
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(9)
    state = {}
    for item in read_spec(config).tensors():
        noise = torch.randn(item.shape, generator=generator) * WEIGHT_STD
        state[item.name] = 1 + noise if item.role == "norm" else noise
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    _borrow_tokenizer(tokenizer, directory)
    return directory


def _borrow_tokenizer(tokenizer: Path, directory: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / name, directory / name)


@pytest.fixture
def uniform_logits() -> Callable[[Mapping[str, Any], Mapping[str, Any], list[int]], npt.NDArray[np.float32]]:
    """The oracle for layers of different sizes: one of transformers' llamas with all layers as wide as the widest.

    uniform_logits(config.json, tensors by name, tokens): what a layer lacks in width is zero, and a layer with fewer
    key-value heads has each of them several times.
    """

    def run(
        config: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]], tokens: list[int]
    ) -> npt.NDArray[np.float32]:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        kept = {
            key: value
            for key, value in config.items()
            if key not in ("architectures", "model_type", "block_configs")
        }
        sizes = {"num_key_value_heads": max(KV_HEADS), "intermediate_size": max(WIDTHS)}
        network = LlamaForCausalLM(LlamaConfig(**{**kept, **sizes})).float().eval()
        state = {
            name: torch.from_numpy(_widened(name, np.array(values, np.float32)))
            for name, values in tensors.items()
        }
        loaded = network.load_state_dict(state, strict=False)
        assert not loaded.unexpected_keys and set(loaded.missing_keys) <= {"lm_head.weight"}
        network.tie_weights()
        with torch.no_grad():
            logits: npt.NDArray[np.float32] = network(torch.tensor([tokens])).logits[0].numpy()
        return logits

    return run


def _widened(name: str, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    if any(part in name for part in ("k_proj", "v_proj")):
        layer = int(name.split(".")[2])
        heads = values.reshape(KV_HEADS[layer], 16, -1)  # head_dim is 64 / 4
        repeated = np.repeat(heads, max(KV_HEADS) // KV_HEADS[layer], axis=0)
        return repeated.reshape(max(KV_HEADS) * 16, *values.shape[1:])
    if any(part in name for part in ("gate_proj", "up_proj")):
        lacking = [(0, max(WIDTHS) - len(values))] + [(0, 0)] * (values.ndim - 1)
        return np.pad(values, lacking)
    if "down_proj.weight" in name:
        return np.pad(values, ((0, 0), (0, max(WIDTHS) - values.shape[1])))
    return values
