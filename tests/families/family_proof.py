"""The proof of one family: its twin through one scheme into every container, each engine's logits against transformers'.

    python tests/families/family_proof.py gemma3 [int4 int8 ...]      one JSON line per container and scheme

What is compared with is written here anew and shares nothing with the exporter: the checkpoint's dequantized weights, put
back into the layout of transformers' class (matrices joined, Gemma's norms less one), run by that class with its own cache.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgeport.export.checkpoint import Checkpoint, weights_id
from edgeport.export.formats.base import WriteOptions
from edgeport.export.formats.table import get_format
from edgeport.export.quantize.run import quantize
from edgeport.export.recipe import load_recipe
from edgeport.export.source import SourceModel, open_source
from edgeport.export.verify.container import weight_digests
from edgeport.progress import NO_PROGRESS
from edgeport.runtimes.engines import open_session
from edgeport.runtimes.session import SessionOptions

Floats = npt.NDArray[np.float32]
Verdict = Literal["proven", "refused", "differs"]

PREFILL_TOKENS, DECODE_TOKENS = 64, 32
TOLERANCE = 1e-3
RECORDS = Path(__file__).resolve().parents[2] / "docs" / "families.jsonl"
TRANSFORMERS = "transformers"
ENGINES: tuple[tuple[str, str], ...] = (
    ("gguf", "llama.cpp"),
    ("onnx", "ONNX Runtime"),
    ("openvino", "OpenVINO"),
    ("safetensors", "reference"),
    ("safetensors", TRANSFORMERS),
)
"""(container, what runs it): packed safetensors are opened by two."""
SCHEMES = ("int4", "int8", "bf16")
"""Recipes, all of them rounded to nearest; `edge` has the schemes of int4."""
FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One line of docs/families.jsonl. reason: of a refusal, or of what differs. relative_error: of all logits, as a norm."""

    family: str
    container: str
    engine: str
    scheme: str
    verdict: Verdict
    reason: str = ""
    relative_error: float | None = None

    @property
    def facts(self) -> tuple[str, ...]:
        """What must be the same on every machine."""
        return self.family, self.container, self.engine, self.scheme, self.verdict, self.reason


def to_transformers(model_type: str, weights: Mapping[str, Floats]) -> dict[str, Floats]:
    """Canonical tensors as transformers' class of `model_type` names and stores them."""
    state = dict(weights)
    if model_type.startswith("gemma"):
        state = {
            name: values - 1 if name.endswith("norm.weight") else values for name, values in state.items()
        }
    if model_type == "phi3":
        for whole, parts in FUSED.items():
            firsts = [name for name in weights if f".{parts[0]}." in name]
            for first in firsts:
                rows = [state.pop(first.replace(parts[0], part)) for part in parts]
                state[first.replace(parts[0], whole)] = np.concatenate(rows)
    return state


def stock_network(directory: Path, **settings: Any) -> Any:
    """transformers' own class in float32. Eager attention: its sdpa leaves Gemma 2's cap on scores out without a word."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", local_files_only=True, **settings
    ).eval()


def dequantized_network(model: Path, weights: Mapping[str, Floats]) -> Any:
    """The model of folder `model` with canonical `weights` in the place of its own."""
    import torch

    network = stock_network(model)
    state = to_transformers(network.config.model_type, weights)
    tensors = {name: torch.from_numpy(np.array(values, np.float32)) for name, values in state.items()}
    missing, unexpected = network.load_state_dict(tensors, strict=False)
    tied = {"lm_head.weight"} if network.config.tie_word_embeddings else set()
    if unexpected or set(missing) - tied:
        raise AssertionError(f"missing {missing}, unexpected {unexpected}")
    network.tie_weights()
    return network


def transformers_run(network: Any, prompt: Sequence[int], steps: int) -> tuple[Floats, list[int]]:
    """Logits [len(prompt) + steps, vocab_size] of a prefill and of greedy decoding with a cache, and the tokens decoded."""
    import torch

    rows, tokens, cache = [], [], None
    fed = list(prompt)
    with torch.inference_mode():
        for _ in range(steps + 1):
            result = network(torch.tensor([fed]), past_key_values=cache, use_cache=True)
            rows.append(result.logits[0])
            cache = result.past_key_values
            fed = [int(rows[-1][-1].argmax())]
            tokens += fed
    return torch.cat(rows).numpy(), tokens[:steps]


def relative_error(got: Floats, want: Floats) -> float:
    """Infinite for logits that are not finite."""
    if got.shape != want.shape or not np.isfinite(got).all():
        return float("inf")
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


class Proof:
    """One twin in one scheme: its checkpoint, what transformers answers on it, and the containers as they are asked for.

    `work` must be empty; everything is written below it.
    """

    def __init__(self, family: str, model: Path, scheme: str, work: Path) -> None:
        self.family, self.model, self.scheme, self.work = family, model, scheme, work
        self.source: SourceModel = open_source(str(model))
        self.recipe = dataclasses.replace(load_recipe(scheme), solver="rtn")
        (work / "checkpoint").mkdir(parents=True)
        quantize(self.source, self.recipe, work / "checkpoint", threads=1, progress=NO_PROGRESS)
        self.checkpoint = Checkpoint(work / "checkpoint", self.source.spec)
        self.prompt: list[int] = (
            np.random.default_rng(11).integers(0, self.source.spec.vocab_size, PREFILL_TOKENS).tolist()
        )
        self._written: dict[str, Path] = {}

    @cached_property
    def expected(self) -> tuple[Floats, list[int]]:
        weights = {name: self.checkpoint.tensor(name).dequantize() for name in self.checkpoint.names()}
        return transformers_run(dequantized_network(self.model, weights), self.prompt, DECODE_TOKENS)

    def outcome(self, container: str, engine: str) -> Outcome:
        """Write the container and run it, or say why its writer refuses."""
        found = (self.family, container, engine, self.scheme)
        reasons = self.reasons_against(container)
        if reasons:
            return Outcome(*found, "refused", "; ".join(reasons))
        digests = weight_digests(container, str(self.written(container)))
        if weights_id(digests) != self.checkpoint.weights_id:
            return Outcome(*found, "differs", "the weights read back are others")
        want, tokens = self.expected
        got, chosen = self._run(container, engine, tokens)
        error = relative_error(got, want)
        if error > TOLERANCE:
            return Outcome(*found, "differs", f"logits by {error:.1e}", error)
        if chosen != tokens:
            return Outcome(*found, "differs", "other greedy tokens", error)
        return Outcome(*found, "proven", relative_error=error)

    def outcomes(self, engines: Sequence[tuple[str, str]] = ENGINES) -> Iterator[Outcome]:
        for container, engine in engines:
            yield self.outcome(container, engine)

    def reasons_against(self, container: str) -> list[str]:
        schemes = sorted({record.scheme for record in self.checkpoint.records}, key=str)
        reasons = get_format(container).reasons_against(self.source.spec, schemes, self.model)
        return [reason.replace(str(self.model), "the model's folder") for reason in reasons]

    def written(self, container: str) -> Path:
        """The entry point."""
        if container not in self._written:
            folder = self.work / container
            folder.mkdir()
            options = WriteOptions("twin", PREFILL_TOKENS + DECODE_TOKENS, NO_PROGRESS)
            self._written[container] = get_format(container).write(self.checkpoint, folder, options)
        return self._written[container]

    def _run(self, container: str, engine: str, tokens: Sequence[int]) -> tuple[Floats, list[int]]:
        """What `transformers_run` gives, in the container's engine; it is fed the expected tokens, whatever it chooses."""
        path = self.written(container)
        if engine == TRANSFORMERS:
            return transformers_run(stock_network(path.parent), self.prompt, DECODE_TOKENS)
        length = PREFILL_TOKENS + DECODE_TOKENS
        session = open_session(container, path, SessionOptions(threads=1, context_length=length, exact=True))
        try:
            rows = [session.feed(self.prompt, all_logits=True), *(session.feed([token]) for token in tokens)]
        finally:
            session.close()
        got = np.concatenate(rows)
        return got, got[PREFILL_TOKENS - 1 : -1].argmax(axis=1).tolist()


def read_records(path: Path) -> list[Outcome]:
    return [Outcome(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def to_line(outcome: Outcome) -> str:
    """The error with one digit: the others are the machine's."""
    error = outcome.relative_error
    rounded = dataclasses.replace(outcome, relative_error=None if error is None else float(f"{error:.0e}"))
    return json.dumps(dataclasses.asdict(rounded))


def _write_twin(family: str, directory: Path) -> None:
    path = Path(__file__).resolve().with_name("twins.py")
    spec = importlib.util.spec_from_file_location("family_twins", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules.setdefault(spec.name, importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    module.write_twin(family, directory)


def main(family: str, schemes: Sequence[str]) -> None:
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="edgeport-families-") as folder:
        model = Path(folder) / "model"
        _write_twin(family, model)
        for scheme in schemes or SCHEMES:
            for outcome in Proof(family, model, scheme, Path(folder) / scheme).outcomes():
                print(to_line(outcome), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
