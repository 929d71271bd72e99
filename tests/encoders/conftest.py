"""Twins of each encoder family, made once; encoder_twins.py and the tokenizers' builders are imported by path."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# at the end: a folder `tokenizers` must not come before the package of that name
sys.path.append(str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1] / "families" / "tokenizers"))


@pytest.fixture(autouse=True, scope="module")
def one_torch_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """twin("bert"), twin("roberta", "ForSequenceClassification"): a model folder, made once each. Read-only."""
    from encoder_twins import write_twin

    made: dict[tuple[str, str], Path] = {}

    def get(family: str, head: str = "Model") -> Path:
        key = family, head
        if key not in made:
            made[key] = write_twin(family, tmp_path_factory.mktemp("encoder") / f"{family}-{head}", head=head)
        return made[key]

    return get
