"""A family's twin in the ONNX container, and transformers' own network over the very same weights.

Float32 twins are compared with what transformers opens itself, so that nothing of ours is on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeport.export.checkpoint import Checkpoint
from edgeport.export.families.storage import Storage
from edgeport.export.formats.base import WriteOptions
from edgeport.export.formats.table import get_format
from edgeport.export.quantize.run import quantize
from edgeport.export.recipe import Recipe, load_recipe, parse
from edgeport.export.source import SourceModel, open_source
from edgeport.progress import NO_PROGRESS
from edgeport.runtimes.onnx import open_session
from edgeport.runtimes.session import SessionOptions

PREFILL, DECODE = 64, 32
CONTEXT = PREFILL + DECODE + 1
TOLERANCE = 1e-5  # the allowed 1e-3 would hide a wrong epsilon and the other form of GELU; seen are 2e-6
FLOAT32 = {"linear": "f32", "embedding": "f32", "head": "f32"}
MIXED = {
    "linear": "int4-g32",
    "embedding": "f16",
    "head": "int4-g64",
    "overrides": {"*.0.self_attn.k_proj.weight": "int8-g32", "*.1.mlp.gate_proj.weight": "f32"},
}
Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PackedTwin:
    """model: as transformers wrote it. folder: what edgeport wrote, by the recipe."""

    model: Path
    recipe: str
    checkpoint: Checkpoint
    folder: Path

    def prompt(self) -> list[int]:
        vocab_size = self.checkpoint.spec.vocab_size
        return [int(token) for token in np.random.default_rng(11).integers(0, vocab_size, PREFILL)]


def pack_twin(model: Path, recipe: str, work: Path) -> PackedTwin:
    return pack_source(open_source(str(model)), recipe, work)


def pack_source(source: SourceModel, recipe: str, work: Path) -> PackedTwin:
    (work / "checkpoint").mkdir(parents=True)
    chosen = replace(recipe_of(recipe), solver="rtn")
    quantize(source, chosen, work / "checkpoint", threads=1, progress=NO_PROGRESS)
    checkpoint = Checkpoint(work / "checkpoint", source.spec)
    return PackedTwin(source.directory, recipe, checkpoint, write_onnx(checkpoint, work / "onnx"))


def write_onnx(checkpoint: Checkpoint, folder: Path) -> Path:
    folder.mkdir(parents=True)
    get_format("onnx").write(checkpoint, folder, WriteOptions("twin", 128, NO_PROGRESS))
    return folder


def recipe_of(name: str) -> Recipe:
    documents = {"f32": FLOAT32, "mixed": MIXED}
    return parse(documents[name], default_name=name) if name in documents else load_recipe(name)


def network_of(twin: PackedTwin) -> Any:
    """transformers' network with the twin's weights; attention spelt out, which alone knows soft caps."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if twin.recipe == "f32":
        network = AutoModelForCausalLM.from_pretrained(
            twin.model, dtype=torch.float32, attn_implementation="eager"
        )
        return network.eval()
    config = AutoConfig.from_pretrained(twin.model)
    network = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    spec, checkpoint = twin.checkpoint.spec, twin.checkpoint
    roles = {item.name: item.role for item in spec.tensors()}
    tensors = {name: checkpoint.tensor(name).dequantize().copy() for name in checkpoint.names()}
    state = {
        name: torch.from_numpy(np.ascontiguousarray(values))
        for name, values in as_stored(spec.storage, tensors, roles).items()
    }
    loaded = network.load_state_dict(state, strict=False)
    assert not loaded.unexpected_keys and set(loaded.missing_keys) <= {"lm_head.weight"}
    network.tie_weights()
    return network.eval()


def transformers_run(network: Any, prompt: Sequence[int]) -> tuple[Logits, list[int]]:
    """Logits [PREFILL + DECODE, vocab_size], the last DECODE of them after feeding greedy tokens one by one."""
    import torch

    rows: list[Any] = []
    tokens: list[int] = []
    with torch.no_grad():
        result = network(torch.tensor([list(prompt)]), use_cache=True)
        rows.append(result.logits[0])
        for _ in range(DECODE):
            tokens.append(int(rows[-1][-1].argmax()))
            result = network(
                torch.tensor([[tokens[-1]]]), past_key_values=result.past_key_values, use_cache=True
            )
            rows.append(result.logits[0])
    return torch.cat(rows).float().numpy(), tokens


def onnx_run(folder: Path, prompt: Sequence[int], *, pieces: int = 1) -> tuple[Logits, list[int]]:
    """The same from the engine in exact arithmetic, the prompt in `pieces` unequal parts."""
    session = open_session(folder, SessionOptions(threads=1, context_length=CONTEXT, exact=True))
    cuts = [0, *(len(prompt) * 5 // 8 for _ in range(pieces - 1)), len(prompt)]
    try:
        rows = [
            session.feed(prompt[begin:end], all_logits=True)
            for begin, end in zip(cuts, cuts[1:], strict=False)
        ]
        tokens: list[int] = []
        for _ in range(DECODE):
            tokens.append(int(rows[-1][-1].argmax()))
            rows.append(session.feed([tokens[-1]]))
        return np.concatenate(rows), tokens
    finally:
        session.close()


def relative_error(found: Logits, expected: Logits) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def as_stored(
    storage: Storage, tensors: dict[str, npt.NDArray[Any]], roles: dict[str, str]
) -> dict[str, npt.NDArray[Any]]:
    """Canonical tensors as transformers' network holds them: fused by rows, norms without their offset."""
    state: dict[str, npt.NDArray[Any]] = {}
    for name, values in tensors.items():
        stored, parts = storage.group(name)
        offset = storage.norm_offset if roles[name] == "norm" else 0.0
        state[stored] = (
            np.concatenate([tensors[part] for part in parts]) if len(parts) > 1 else values - offset
        )
    return state
