"""Golden answers: what the dequantized model says to one prompt, computed once by the torch-free reference.

They travel with the artifact (golden.json), so that `edgeport verify` can repeat the comparison on the device, also after
an engine was upgraded. Logits of every position are kept at a fixed sample of the vocabulary, with the argmax over all of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeport.errors import ArtifactError
from edgeport.export.verify.tokens import TokenizedText, golden_texts
from edgeport.lazy import missing_extra
from edgeport.manifest import is_native, to_json
from edgeport.runtimes.reference import ReferenceSession
from edgeport.runtimes.session import Logits, Session, SessionOptions

GOLDEN_NAME = "golden.json"
PREFILL_TOKENS, DECODE_TOKENS, SAMPLED_LOGITS = 48, 16, 256

PROMPT = (
    "def read_lines(path: str, limit: int = 10) -> list[str]:\n"
    '    """Return the first lines of a text file, without their line ends."""\n'
    "    with open(path, encoding='utf-8') as stream:\n"
    "        lines = [line.rstrip('\\n') for line in stream]\n"
    "    return lines[:limit]\n\n\nThe quick brown fox jumps over the lazy dog. It is 2026, 3.14 and 42.\n"
)


@dataclass(frozen=True, slots=True)
class Golden:
    """prompt: token ids, the first `prefill` of them fed in one piece and the others one by one.

    logits: one row per prompt token, at the vocabulary entries `sampled`; top: the argmax of each position.
    texts: hard texts and their token ids, for every container's tokenizer.
    """

    prompt: tuple[int, ...]
    prefill: int
    sampled: tuple[int, ...]
    logits: tuple[tuple[float, ...], ...]
    top: tuple[int, ...]
    texts: tuple[TokenizedText, ...]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How one session's logits compare with the golden ones.

    relative_error: ||got - want|| / ||want|| over all positions and sampled entries, both with their mean removed per
    position, because a softmax does not see a constant. same_top: share of positions with the golden argmax.
    continuation: the greedy tokens the session generated after the prompt.
    """

    relative_error: float
    same_top: float
    continuation: tuple[int, ...]


def compute_golden(container: Path) -> Golden:
    """Run the reference over the safetensors in folder `container`, which holds the tokenizer as well."""
    prompt = _encode_prompt(container)
    session = ReferenceSession(container, SessionOptions(context_length=len(prompt)), keep_weights=False)
    try:
        rows = session.feed(prompt, all_logits=True)
    finally:
        session.close()
    sampled = tuple(range(0, rows.shape[1], max(rows.shape[1] // SAMPLED_LOGITS, 1)))
    return Golden(
        prompt=prompt,
        prefill=min(PREFILL_TOKENS, len(prompt) - 1),
        sampled=sampled,
        logits=tuple(tuple(float(value) for value in row[list(sampled)]) for row in rows),
        top=tuple(int(top) for top in rows.argmax(axis=1)),
        texts=golden_texts(container),
    )


def _encode_prompt(container: Path) -> tuple[int, ...]:
    with missing_extra("export", purpose="tokenizing"):
        from tokenizers import Tokenizer
    tokens = Tokenizer.from_file(str(container / "tokenizer.json")).encode(PROMPT).ids
    return tuple(tokens[: PREFILL_TOKENS + DECODE_TOKENS])


def compare(session: Session, golden: Golden) -> Agreement:
    """Feed the golden prompt to any engine's session and compare."""
    rows = _feed(session, golden.prompt, golden.prefill)
    want = np.array(golden.logits, dtype=np.float32)
    got = rows[:, list(golden.sampled)]
    want, got = want - want.mean(axis=1, keepdims=True), got - got.mean(axis=1, keepdims=True)
    error = float(np.linalg.norm(got - want) / max(float(np.linalg.norm(want)), 1e-30))
    same = float(np.mean(rows.argmax(axis=1) == np.array(golden.top)))
    # A NaN anywhere must read as the worst error, not as one that passes no comparison.
    error = error if np.isfinite(rows).all() else float("inf")
    return Agreement(error, same, _continue(session, int(rows[-1].argmax())))


def golden_name(format_name: str) -> str:
    """The portable containers share golden.json; a container with a scheme of its own has answers of its own."""
    return f"golden-{format_name}.json" if is_native(format_name) else GOLDEN_NAME


def write_golden(golden: Golden, directory: Path, name: str = GOLDEN_NAME) -> None:
    (directory / name).write_text(json.dumps(to_json(golden)) + "\n", encoding="utf-8")


def read_golden(directory: Path, name: str = GOLDEN_NAME) -> Golden:
    path = directory / name
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return Golden(
            prompt=tuple(document["prompt"]),
            prefill=int(document["prefill"]),
            sampled=tuple(document["sampled"]),
            logits=tuple(map(tuple, document["logits"])),
            top=tuple(document["top"]),
            texts=tuple((str(text), tuple(ids)) for text, ids in document["texts"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}", hint="export the model again") from error


def _feed(session: Session, prompt: tuple[int, ...], prefill: int) -> Logits:
    """Logits [len(prompt), vocab_size]: a prefill of several tokens, then decode steps, so that both paths are seen."""
    rows = [session.feed(prompt[:prefill], all_logits=True)]
    rows += [session.feed([token]) for token in prompt[prefill:]]
    return np.concatenate(rows)


def _continue(session: Session, token: int) -> tuple[int, ...]:
    tokens = [token]
    while len(tokens) < DECODE_TOKENS and session.position < session.context_length:
        tokens.append(int(session.feed([tokens[-1]])[-1].argmax()))
    return tuple(tokens)
