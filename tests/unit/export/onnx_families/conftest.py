"""Packed twins of every family, made once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the tests share onnx_twins.py

from onnx_twins import PackedTwin, pack_twin


@pytest.fixture(autouse=True, scope="module")
def one_torch_thread() -> Iterator[None]:
    """Tiny matrices: a second thread only waits."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def packed(
    family_twin: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., PackedTwin]:
    """packed("gemma3", "int4") -> the twin by that recipe. Read-only."""
    made: dict[tuple[str, str], PackedTwin] = {}

    def pack(family: str, recipe: str = "f32") -> PackedTwin:
        if (family, recipe) not in made:
            work = tmp_path_factory.mktemp(f"{family}-{recipe}")
            made[family, recipe] = pack_twin(family_twin(family), recipe, work)
        return made[family, recipe]

    return pack
