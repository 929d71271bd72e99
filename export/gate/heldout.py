"""The text a gate judges on: never the text that was calibrated on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from edgeport.errors import UsageError
from edgeport.export.source import SourceModel
from edgeport.export.staging import Staging
from edgeport.progress import Progress

EMBEDDED = Path("text") / "heldout.txt"
HELDOUT_SEED = 20261
"""Not the seed that calibration text is sampled with."""
SAMPLED_TOKENS, SAMPLED_N_CTX = 8192, 512


@dataclass(frozen=True, slots=True)
class HeldoutText:
    """A UTF-8 file and where its text comes from."""

    path: Path
    origin: str

    def sha256(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


def find_heldout(wanted: Path | None, source: SourceModel) -> HeldoutText | None:
    """The file that was asked for, or text/heldout.txt beside the source; None: it has to be sampled from the model.

    Raises UsageError for a file that is not there.
    """
    if wanted is not None:
        if not wanted.is_file():
            raise UsageError(f"no such held-out text: {wanted}", hint="give a UTF-8 text file with --heldout")
        return HeldoutText(wanted, str(wanted))
    embedded = source.directory / EMBEDDED
    return HeldoutText(embedded, f"{EMBEDDED} of the source") if embedded.is_file() else None


def sample_heldout(source: SourceModel, staging: Staging, threads: int, progress: Progress) -> HeldoutText:
    """Text that the model writes itself, with another seed than the calibration's; kept in the staging folder."""
    from tokenizers import Tokenizer

    from edgeport.export.calibrate.sample import sample_tokens

    n_ctx = min(SAMPLED_N_CTX, source.spec.context_length)
    windows = max(SAMPLED_TOKENS // n_ctx, 4)
    key = {"source": source.fingerprint(), "seed": HELDOUT_SEED, "windows": windows, "n_ctx": n_ctx}

    def build(folder: Path) -> None:
        tokens = sample_tokens(source, windows, n_ctx, HELDOUT_SEED, threads, progress)
        tokenizer = Tokenizer.from_file(str(source.directory / "tokenizer.json"))
        pieces = [tokenizer.decode(window.tolist()) for window in tokens]
        (folder / "heldout.txt").write_text("\n\n".join(pieces), encoding="utf-8")

    folder = staging.directory / "heldout"
    staging.stage(folder, key, build)
    origin = f"sampled from the model itself, seed {HELDOUT_SEED}: there is no {EMBEDDED} beside it and no --heldout"
    return HeldoutText(folder / "heldout.txt", origin)
