"""Small models, their checkpoints and OpenVINO containers; engines run in child.py, a process of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgeport.export.checkpoint import Checkpoint
from edgeport.export.formats.base import WriteOptions
from edgeport.export.formats.openvino import OpenVinoFormat, write_model
from edgeport.export.quantize.run import quantize
from edgeport.export.recipe import parse
from edgeport.export.source import open_source
from edgeport.progress import NO_PROGRESS

sys.path.append(str(Path(__file__).resolve().parents[3] / "families"))  # family_proof.py

CHILD = Path(__file__).with_name("child.py")

MakeSource = Callable[..., Path]
MakeCheckpoint = Callable[..., Checkpoint]


@pytest.fixture(scope="session")
def make_source(
    tiny_llama_dir: Path, tiny_qwen2_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> MakeSource:
    """make_source("llama" or "qwen2", tied=..., **configuration changes) -> a model folder with random weights."""

    def make(family: str, *, tied: bool, **changes: Any) -> Path:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        template = {"llama": tiny_llama_dir, "qwen2": tiny_qwen2_dir}[family]
        directory = tmp_path_factory.mktemp(f"{family}-source") / f"{family}-tied{tied:d}"
        shutil.copytree(template, directory)
        document = json.loads((directory / "config.json").read_text())
        document.update(tie_word_embeddings=tied, **changes)
        (directory / "config.json").write_text(json.dumps(document))
        config = AutoConfig.from_pretrained(directory)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator) * 0.2
                parameter.copy_(1 + noise if "norm" in name else noise)
        model.save_pretrained(directory)
        return directory

    return make


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> MakeCheckpoint:
    """make_checkpoint(source, linear, embedding and head, tensor_name_ending=scheme ...) -> a quantized checkpoint."""

    def make(source_directory: Path, linear: str, table: str, **endings: str) -> Checkpoint:
        overrides = {f"*{ending}.weight": scheme for ending, scheme in endings.items()}
        document = {"linear": linear, "embedding": table, "head": table, "overrides": overrides}
        directory = tmp_path_factory.mktemp("checkpoint")
        source = open_source(str(source_directory))
        quantize(source, parse(document, default_name="test"), directory, threads=1, progress=NO_PROGRESS)
        return Checkpoint(directory, source.spec)

    return make


@pytest.fixture(scope="session")
def int4_checkpoint(tiny_llama_dir: Path, make_checkpoint: MakeCheckpoint) -> Checkpoint:
    return make_checkpoint(tiny_llama_dir, "int4-g32", "int8-g32")


@pytest.fixture(scope="session")
def qwen2_checkpoint(tiny_qwen2_dir: Path, make_checkpoint: MakeCheckpoint) -> Checkpoint:
    return make_checkpoint(tiny_qwen2_dir, "int4-g32", "int8-g32")


def _write(checkpoint: Checkpoint, directory: Path) -> Path:
    entry_point = OpenVinoFormat().write(checkpoint, directory, WriteOptions("tiny", 256, NO_PROGRESS))
    assert entry_point == directory / "openvino_model.xml"
    return directory


@pytest.fixture(scope="session")
def int4_container(int4_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole container of the tiny Llama, tokenizer models and all. Read only."""
    return _write(int4_checkpoint, tmp_path_factory.mktemp("openvino-llama"))


@pytest.fixture(scope="session")
def qwen2_container(qwen2_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write(qwen2_checkpoint, tmp_path_factory.mktemp("openvino-qwen2"))


@pytest.fixture
def write_weights(tmp_path: Path) -> Callable[[Checkpoint], Path]:
    """The model alone, without the tokenizer, whose conversion takes a second."""

    def write(checkpoint: Checkpoint) -> Path:
        write_model(checkpoint, tmp_path / "openvino_model.xml", "tiny")
        return tmp_path / "openvino_model.xml"

    return write


@pytest.fixture
def run_engine(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """run_engine("function", **arguments) calls child.py's function; arrays go and come as .npy files."""

    def run(function: str, **arguments: Any) -> dict[str, Any]:
        request = {}
        for name, value in arguments.items():
            if isinstance(value, np.ndarray):
                np.save(tmp_path / f"{name}.npy", value)
                value = str(tmp_path / f"{name}.npy")
            request[name] = str(value) if isinstance(value, Path) else value
        done = subprocess.run(
            [sys.executable, str(CHILD), function, json.dumps(request)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"exit code {done.returncode}\n{done.stderr[-2000:]}"
        reply: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return reply

    return run


@pytest.fixture(scope="session")
def reference_model() -> Callable[[Checkpoint], Any]:
    """The source's architecture in transformers, float32, holding the dequantized weights."""

    def load(checkpoint: Checkpoint) -> Any:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.from_pretrained(checkpoint.source_directory)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        state = {name: torch.from_numpy(checkpoint.tensor(name).dequantize()) for name in checkpoint.names()}
        loaded = model.load_state_dict(state, strict=False)
        assert not loaded.unexpected_keys
        assert loaded.missing_keys in ([], ["lm_head.weight"])
        model.tie_weights()
        return model

    return load


@pytest.fixture(scope="session")
def reference_logits(reference_model: Callable[[Checkpoint], Any]) -> Callable[..., npt.NDArray[np.float32]]:
    """reference_logits(checkpoint, input_ids=..., attention_mask=..., position_ids=...) in one pass: [batch, seq, vocab]."""

    def run(checkpoint: Checkpoint, **arrays: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        import torch

        with torch.no_grad():
            arguments = {name: torch.from_numpy(value) for name, value in arrays.items()}
            logits: npt.NDArray[np.float32] = reference_model(checkpoint)(**arguments).logits.numpy()
        return logits

    return run
