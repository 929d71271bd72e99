"""Tokenizer and detokenizer as OpenVINO models, converted by openvino_tokenizers in a child process.

The conversion needs transformers, whose import takes torch along where it is installed: five seconds and 400 MB that a
process of its own, which cannot see torch, brings down to 1.5 s beside the packing of the weights.

openvino_tokenizers rebuilds a tokenizer with operations of its own, and for some kinds they cut text differently. The child compares
what it has made with tokenizer.json, and a difference, as a tokenizer it cannot convert, leaves the two models out: the container
then carries tokenizer.json alone, which edgeport's runtime uses anyway, and NOTE beside it says why. A wrong tokenizer is never
shipped; OpenVINO GenAI refuses the folder instead of reading other tokens.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from edgeport.errors import MissingExtra
from edgeport.export.verify.openvino_tokens import NOTE, difference

_STEMS = ("openvino_tokenizer", "openvino_detokenizer")
_NEEDED = ("openvino_tokenizers", "transformers")


class TokenizerConversion:
    """Starts the child on entry and waits for it on exit: `with TokenizerConversion(source, target): pack()`.

    Afterwards `target` holds both models, or neither and a note that says why.
    """

    def __init__(self, source: Path, target: Path) -> None:
        self._target = target
        self._command = [sys.executable, "-m", __name__, str(source), str(target)]

    def __enter__(self) -> TokenizerConversion:
        for package in _NEEDED:
            if importlib.util.find_spec(package) is None:
                raise MissingExtra(
                    f"converting a tokenizer for OpenVINO needs the package '{package}', which is not installed",
                    hint=f"pip install {package.replace('_', '-')}",
                )
        # The child finds this package where this process found it.
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
        self._child = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
            text=True,
            errors="replace",
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._child.kill()
        _, log = self._child.communicate()
        if error is not None or self._child.returncode == 0:
            return
        last = next((line for line in reversed(log.splitlines()) if line.strip()), "no message")
        leave_out(
            self._target,
            f"openvino_tokenizers cannot convert it (exit code {self._child.returncode}): {last}",
        )


def leave_out(target: Path, reason: str) -> None:
    for stem in _STEMS:
        for suffix in ("xml", "bin"):
            (target / f"{stem}.{suffix}").unlink(missing_ok=True)
    (target / NOTE).write_text(
        f"No openvino_tokenizer.xml lies here, because it would not be this model's tokenizer.\n{reason}\n"
        "tokenizer.json is the tokenizer of this folder.\n",
        encoding="utf-8",
    )


def convert(source: Path, target: Path) -> None:
    """Write openvino_tokenizer and openvino_detokenizer (.xml and .bin) of the fast tokenizer in `source`."""
    import openvino
    from openvino_tokenizers import convert_tokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(source, local_files_only=True)
    _split_digits(tokenizer.backend_tokenizer)
    _drop_private_characters(tokenizer.backend_tokenizer)
    models = convert_tokenizer(tokenizer, with_detokenizer=True, skip_special_tokens=True)
    for model, stem in zip(models, _STEMS, strict=True):
        # as it is: half precision would change the scores of a unigram vocabulary
        openvino.save_model(model, target / f"{stem}.xml", compress_to_fp16=False)


# Digits one by one, then GPT-2's pattern on what lies between them, in one: there a run of spaces before a number ends the text
_DIGITS_THEN_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+"


def _split_digits(tokenizer: Any) -> None:
    """Write Digits and ByteLevel of SmolLM and Granite as one pattern that means the same.

    openvino_tokenizers puts the two together itself, and then cuts several spaces before a number otherwise.
    """
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

    steps = (json.loads(tokenizer.to_str())["pre_tokenizer"] or {}).get("pretokenizers", [])
    if len(steps) != 2 or steps[0] != {"type": "Digits", "individual_digits": True}:
        return
    if steps[1]["type"] == "ByteLevel" and steps[1]["use_regex"] and not steps[1]["add_prefix_space"]:
        split = Split(Regex(_DIGITS_THEN_GPT2), "isolated")
        tokenizer.pre_tokenizer = Sequence([split, ByteLevel(add_prefix_space=False, use_regex=False)])


def _drop_private_characters(tokenizer: Any) -> None:
    """BertNormalizer drops them and U+FFFD with the control characters; openvino_tokenizers makes unknown words of them."""
    from tokenizers import Regex
    from tokenizers.normalizers import BertNormalizer, Replace, Sequence

    if isinstance(tokenizer.normalizer, BertNormalizer) and tokenizer.normalizer.clean_text:
        tokenizer.normalizer = Sequence([Replace(Regex("[\\p{Co}\ufffd]"), ""), tokenizer.normalizer])


def _main() -> None:
    sys.modules["torch"] = None  # type: ignore[assignment]  # transformers then does without it
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    convert(source, target)
    found = difference(target, source / "tokenizer.json")
    if found is not None:
        leave_out(target, f"openvino_tokenizers differs from tokenizer.json: {found}")


if __name__ == "__main__":
    _main()
