"""Golden answers of an encoder: what transformers' float32 model makes of a few texts, kept in the artifact.

    golden/golden.json          the texts and their token ids
    golden/states.safetensors   `states.N` [tokens, hidden_size] of text N, and `logits.N` of a classifier

So `edgeport verify` needs neither the source nor torch. transformers runs in a child process, which gives its memory back.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeport.errors import ArtifactError, UsageError
from edgeport.export.safetensors_file import SafetensorsFile, SafetensorsWriter, TensorPlan
from edgeport.runtimes.encoder_settings import EncoderSettings
from edgeport.runtimes.encoder_tokenizer import EncoderTokenizer
from edgeport.runtimes.isolation import run_isolated

GOLDEN_FOLDER = "golden"
_TEXTS_NAME, _STATES_NAME = "golden.json", "states.safetensors"
_MOST_TEXTS = 64
TEXTS = (
    "A man is playing a guitar on the street.",
    "Someone makes music in front of a shop.",
    "The stock market fell by three percent on Tuesday after the central bank raised its rates.",
    "How do I reset my password?",
    "To change a forgotten password, open the settings, choose security and follow the link in the mail you get.",
    "def area(radius: float) -> float:\n    return 3.14159 * radius ** 2",
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen; it happens in the chloroplasts of green "
    "plants, in algae and in some bacteria, and nearly all food on land goes back to it.",
    "Der Zug nach München fährt um 7:45 Uhr von Gleis 12.",
    "Le musée est fermé le lundi et les jours fériés.",
    "明日の会議は午後三時からです。",
    "Flight LH-1234 was delayed by 2 h 35 min.",
    "no",
    "Great product, arrived on time, but the box was damaged and one screw was missing!",
    "I will never buy anything there again.",
    "The capital of Australia is Canberra, not Sydney, as many people believe.",
    "Email: jane.doe@example.com, phone +49 30 123456, order #A-77.",
)
"""Long and short, several scripts, numbers and code: what pads against each other in one batch."""


@dataclass(frozen=True, slots=True)
class EncoderGolden:
    """states: [tokens, hidden_size] of each text; logits: empty for features, else [labels] or [tokens, labels] of each."""

    texts: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    states: tuple[npt.NDArray[np.float32], ...]
    logits: tuple[npt.NDArray[np.float32], ...]


def golden_texts(path: Path | None) -> tuple[str, ...]:
    """The built-in texts, or the lines of a UTF-8 file. Raises UsageError for a file without any."""
    return TEXTS if path is None else read_lines(path, _MOST_TEXTS)


def read_lines(path: Path, most: int) -> tuple[str, ...]:
    """The first lines of a UTF-8 file that are not empty. Raises UsageError where there are none."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as UTF-8 text: {error}") from error
    found = tuple(line for line in lines if line)[:most]
    if not found:
        raise UsageError(f"{path} has no text", hint="one text per line")
    return found


def tokenize(folder: Path, settings: EncoderSettings, texts: Sequence[str]) -> list[list[int]]:
    """Token ids with special tokens, by tokenizer.json in `folder`; of a longer text the first max_length tokens."""
    tokenizer = EncoderTokenizer(folder)
    prepared = [text.lower() for text in texts] if settings.lower_case else list(texts)
    return [tokenizer.encode(text)[: settings.max_length] for text in prepared]


def write_golden(source: Path, settings: EncoderSettings, texts: Sequence[str], folder: Path) -> None:
    """Compute with the source model in `source` and write into the existing `folder`."""
    ids = tokenize(source, settings, texts)
    (folder / _TEXTS_NAME).write_text(
        json.dumps({"texts": list(texts), "ids": ids}, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    arguments = {
        "source": str(source),
        "task": settings.task,
        "ids": ids,
        "target": str(folder / _STATES_NAME),
    }
    run_isolated(f"{__name__}:compute", arguments, timeout_s=None)


def compute(source: str, task: str, ids: Sequence[Sequence[int]], target: str) -> None:
    """In the child: each text alone through transformers' model in float32."""
    import torch
    import transformers

    classes = {
        "features": transformers.AutoModel,
        "sequence-classification": transformers.AutoModelForSequenceClassification,
        "token-classification": transformers.AutoModelForTokenClassification,
    }
    kind: Any = classes[task]
    network = kind.from_pretrained(source, dtype=torch.float32, local_files_only=True).eval()
    found: dict[str, npt.NDArray[np.float32]] = {}
    with torch.no_grad():
        for number, tokens in enumerate(ids):
            outputs = network(torch.tensor([list(tokens)]), output_hidden_states=True)
            found[f"states.{number}"] = outputs.hidden_states[-1][0].numpy()
            if task != "features":
                found[f"logits.{number}"] = outputs.logits[0].numpy()
    plan = [TensorPlan(name, "F32", values.shape) for name, values in found.items()]
    with SafetensorsWriter(Path(target), plan) as writer:
        for name, values in found.items():
            writer.write(name, values)


def read_golden(artifact: Path) -> EncoderGolden:
    """Raises ArtifactError when the files are missing or damaged."""
    folder = artifact / GOLDEN_FOLDER
    try:
        document = json.loads((folder / _TEXTS_NAME).read_text(encoding="utf-8"))
        texts = tuple(str(text) for text in document["texts"])
        ids = tuple(tuple(int(token) for token in row) for row in document["ids"])
        file = SafetensorsFile(folder / _STATES_NAME)
        states = tuple(file.tensor(f"states.{number}") for number in range(len(texts)))
        logits = tuple(
            file.tensor(f"logits.{number}") for number in range(len(texts)) if "logits.0" in file.entries
        )
    except (OSError, ValueError, KeyError, TypeError, UsageError) as error:
        raise ArtifactError(
            f"the golden answers in {folder} cannot be read: {error}", hint="export the model again"
        ) from error
    return EncoderGolden(texts, ids, states, logits)
