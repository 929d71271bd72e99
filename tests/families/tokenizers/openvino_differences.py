"""How many of the corpus' lines openvino_tokenizers reads otherwise than tokenizer.json, for tokenizer folders given as arguments.

Run as a program, in a process that does not see torch: prints {folder name: [lines with other ids, lines with other text, first]}.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any


def differences(directory: Path) -> list[Any]:
    from corpus import corpus
    from tokenizers import Tokenizer

    from edgeport.export.formats.openvino_tokenizer import convert
    from edgeport.export.verify.openvino_tokens import converted

    source = directory / "tokenizer.json"
    reference = Tokenizer.from_file(str(source))
    added = json.loads(source.read_text(encoding="utf-8"))["added_tokens"]
    lines = corpus([token["content"] for token in added])
    expected = [item.ids for item in reference.encode_batch(lines)]
    with tempfile.TemporaryDirectory() as folder:
        try:
            convert(directory, Path(folder))
        except Exception as error:  # noqa: BLE001 - the packages raise what they like, and it is told
            return [len(lines), len(lines), f"{type(error).__name__}: {error}"]
        found = converted(folder, lines, expected)
    texts = [reference.decode(ids, skip_special_tokens=True) for ids in expected]
    other_ids = [at for at, (want, got) in enumerate(zip(expected, found["ids"], strict=True)) if want != got]
    other_text = [at for at, (want, got) in enumerate(zip(texts, found["texts"], strict=True)) if want != got]
    first = repr(min((lines[at] for at in other_ids or other_text), key=len, default=""))
    return [len(other_ids), len(other_text), first]


if __name__ == "__main__":
    sys.modules["torch"] = None  # type: ignore[assignment]  # transformers then does without it
    print(json.dumps({Path(name).name: differences(Path(name)) for name in sys.argv[1:]}))
