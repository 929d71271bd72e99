"""Every kind through openvino_tokenizers: shipped where it equals tokenizer.json on the check texts, otherwise left out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from builders import KINDS, REFUSED_KINDS, Tokenizers
from results import result

from edgeport.export.formats.openvino_tokenizer import TokenizerConversion
from edgeport.export.verify.openvino_tokens import NOTE

PROGRAM = Path(__file__).parent / "openvino_differences.py"


@pytest.mark.parametrize("kind", [*KINDS, *REFUSED_KINDS])
def test_every_kind_is_shipped_or_left_out(kind: str, tokenizer_of: Tokenizers, tmp_path: Path) -> None:
    with TokenizerConversion(tokenizer_of(kind), tmp_path):
        pass
    _check(kind, tmp_path)


def _check(kind: str, folder: Path) -> None:
    expected = result(kind, "openvino")
    assert (folder / "openvino_tokenizer.xml").is_file() == (expected.outcome != "refused")
    assert (folder / NOTE).is_file() == (expected.outcome == "refused")


@pytest.fixture(scope="module")
def differences(tokenizer_of: Tokenizers) -> dict[str, list[Any]]:
    """Of all 2,000 lines: how many have other ids, how many read back as another text, and the shortest."""
    folders = [str(tokenizer_of(kind)) for kind in (*KINDS, *REFUSED_KINDS)]
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    child = subprocess.run(
        [sys.executable, str(PROGRAM), *folders], env=environment, capture_output=True, text=True, timeout=600
    )
    assert child.returncode == 0, child.stderr[-2000:]
    found = json.loads(child.stdout.splitlines()[-1])
    assert isinstance(found, dict)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, *REFUSED_KINDS])
def test_the_lines_that_differ_are_counted(kind: str, differences: dict[str, list[Any]]) -> None:
    expected = result(kind, "openvino")
    ids, text, first = differences[kind]
    if expected.outcome == "equal":
        assert (ids, text) == (0, 0), first
    else:
        assert ids + text > 0, "it is equal now: say so in results.py"
