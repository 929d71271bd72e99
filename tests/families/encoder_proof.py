"""The proof of one encoder family: its twins through each scheme into every container, hidden states and logits against transformers'.

    python tests/families/encoder_proof.py bert [int8 ...]      one JSON line per task, container and scheme

Compared with transformers' own class on the checkpoint's dequantized weights, sequence by sequence, without padding.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from family_proof import TOLERANCE, Outcome, to_line

from edgeport.errors import UnsupportedModel
from edgeport.export.checkpoint import weights_id
from edgeport.export.encoders.packing import get_encoder_format
from edgeport.export.encoders.spec import POSITIONS
from edgeport.export.encoders.verify import weight_digests
from edgeport.runtimes.encoder_container import open_encoder_container
from edgeport.runtimes.session import SessionOptions

Floats = npt.NDArray[np.float32]
TESTS = Path(__file__).resolve().parents[1]
FAMILIES = ("bert", "roberta", "xlm-roberta", "distilbert")
TASKS = {
    "features": "Model",
    "labels of texts": "ForSequenceClassification",
    "labels of tokens": "ForTokenClassification",
}
"""What the model is for -> the end of the class's name."""
ENGINES = (("gguf", "llama.cpp"), ("onnx", "ONNX Runtime"), ("openvino", "OpenVINO"))
SCHEMES = ("int4", "int8", "bf16")
TOLERANCES = {"llama.cpp": 5e-3}
"""It computes GELU by the tanh formula and from a table of float16 values, the models are made with the exact one: with its GELU in
transformers the error is below 1e-4 (test_encoders.py)."""
LENGTHS = (3, 64, 17, 150)
_NO_PADDING = 5
"""Token ids below are special in one of the tokenizers; RoBERTa's padding has no position."""


class EncoderProof:
    """One twin for one task in one scheme; everything is written below the empty folder `work`."""

    def __init__(self, family: str, task: str, scheme: str, work: Path) -> None:
        for folder in (TESTS / "encoders", TESTS / "families" / "tokenizers"):
            if str(folder) not in sys.path:
                sys.path.append(str(folder))
        from encoder_twins import pack, write_twin

        self.found = (f"{family}: {task}", scheme)
        self.work, self.model = work, work / "model"
        write_twin(family, self.model, head=TASKS[task])
        self.source, self.encoder = pack(self.model, scheme, work / "checkpoint")
        generator = np.random.default_rng(2)
        vocab_size = self.source.spec.vocab_size
        self.sequences = [generator.integers(_NO_PADDING, vocab_size, length).tolist() for length in LENGTHS]
        self.expected = self.transformers_answers()

    def outcomes(self, engines: Sequence[tuple[str, str]] = ENGINES) -> Iterator[Outcome]:
        for container, engine in engines:
            yield self.outcome(container, engine)

    def outcome(self, container: str, engine: str) -> Outcome:
        """Write the container and run it, or say why its writer refuses."""
        found = (self.found[0], container, engine, self.found[1])
        writer = get_encoder_format(container)
        reasons = writer.reasons_against(self.source.spec, self.encoder.recipe, self.model)
        if reasons:
            return Outcome(
                *found, "refused", "; ".join(reasons).replace(str(self.model), "the model's folder")
            )
        folder = self.work / container
        folder.mkdir()
        entry_point = writer.write(self.encoder, folder)
        digests = weight_digests(container, str(entry_point))
        if weights_id(digests) != self.encoder.checkpoint.weights_id:
            return Outcome(*found, "differs", "the weights read back are others")
        error, same = self._compare(self._run(container, folder))
        if error > TOLERANCES.get(engine, TOLERANCE):
            return Outcome(*found, "differs", f"states or logits by {error:.1e}", error)
        return Outcome(*found, "proven" if same else "differs", "" if same else "other labels", error)

    def _run(self, container: str, folder: Path) -> list[tuple[Floats, Floats | None]]:
        model = open_encoder_container(container, folder, SessionOptions(threads=1, exact=True))
        try:
            states = model.encode(self.sequences)
            logits: list[Floats | None] = [None] * len(states)
            if self.source.spec.labels:
                logits = list(model.logits(self.sequences))
            return list(zip(states, logits, strict=True))
        except UnsupportedModel as error:
            raise AssertionError(error.message) from error
        finally:
            model.close()

    def _compare(self, got: Sequence[tuple[Floats, Floats | None]]) -> tuple[float, bool]:
        """The larger relative error of states and logits, and whether every label is the same."""
        error, same = 0.0, True
        for part in range(2):
            pairs = [(mine[part], want[part]) for mine, want in zip(got, self.expected, strict=True)]
            whole = [(mine, want) for mine, want in pairs if mine is not None and want is not None]
            if not whole:
                continue
            mine, want = (np.concatenate([np.ravel(pair[side]) for pair in whole]) for side in range(2))
            far = float(np.linalg.norm(mine - want) / np.linalg.norm(want))
            error = max(error, far if np.isfinite(mine).all() else float("inf"))
            if part == 1:
                same = all((left.argmax(-1) == right.argmax(-1)).all() for left, right in whole)
        return error, same

    def transformers_answers(
        self, change: Callable[[Any], None] | None = None
    ) -> list[tuple[Floats, Floats | None]]:
        """(states, logits) of each sequence, by transformers' class, after `change` of its network."""
        import torch
        import transformers

        architecture = json.loads((self.model / "config.json").read_text())["architectures"][0]
        kind: Any = getattr(transformers, architecture)
        network = kind.from_pretrained(self.model, dtype=torch.float32, attn_implementation="eager").eval()
        self._put_weights(network)
        if change is not None:
            change(network)
        answers: list[tuple[Floats, Floats | None]] = []
        with torch.inference_mode():
            for tokens in self.sequences:
                outputs = network(torch.tensor([tokens]), output_hidden_states=True)
                logits = outputs.logits[0].numpy() if "logits" in outputs else None
                answers.append((outputs.hidden_states[-1][0].numpy(), logits))
        return answers

    def _put_weights(self, network: Any) -> None:
        """The checkpoint's values in the place of the twin's; positions that no token has stay."""
        import torch

        state = network.state_dict()
        for record in self.encoder.checkpoint.records:
            values = torch.from_numpy(self.encoder.checkpoint.tensor(record.name).dequantize().copy())
            target = state[self.source.names[record.name]]
            first = self.source.spec.position_offset if record.name == POSITIONS else 0
            target[first:].copy_(values)
        network.load_state_dict(state)


def main(family: str, schemes: Sequence[str]) -> None:
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="edgeport-encoders-") as folder:
        for task in TASKS:
            for scheme in schemes or SCHEMES:
                proof = EncoderProof(family, task, scheme, Path(folder) / task / scheme)
                for outcome in proof.outcomes():
                    print(to_line(outcome), flush=True)


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parent))
    main(sys.argv[1], sys.argv[2:])
