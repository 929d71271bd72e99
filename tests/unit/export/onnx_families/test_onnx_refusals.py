"""What the ONNX container has no graph for is refused with the reason; what it has one for is not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeport.export.families.decoder import DecoderSpec
from edgeport.export.formats.table import get_format
from edgeport.export.source import open_source
from edgeport.scheme import TensorScheme

INT4 = [TensorScheme("int4", 32)]


def reasons(spec: DecoderSpec) -> list[str]:
    found: list[str] = get_format("onnx").reasons_against(spec, INT4, Path())
    return found


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3", "gemma3", "phi4-mini", "olmo2"])
def test_what_is_drawn_is_not_refused(family: str, family_twin: Callable[[str], Path]) -> None:
    assert reasons(open_source(str(family_twin(family))).spec) == []


def test_what_no_kernel_computes_is_refused_with_every_reason(family_twin: Callable[[str], Path]) -> None:
    spec = open_source(str(family_twin("llama"))).spec
    block = dataclasses.replace(spec.block, norm_bias=True)
    assert reasons(dataclasses.replace(spec, head_dim=20, block=block)) == [
        "head_dim 20 is not a multiple of 8",
        "onnxruntime's RMSNorm has no bias",
    ]
