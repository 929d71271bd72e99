"""A plan survives its file, and the source in torch answers it as whole passes over the same tokens do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeport.export.evaluate.chunks import ChunkedText
from edgeport.export.evaluate.classification import EncodedItem
from edgeport.export.evaluate.plan import EvalPlan, answer, read_plan, write_plan
from edgeport.export.evaluate.torch_session import TorchSession, load_network
from edgeport.runtimes.session import SessionOptions

TOKENS = [0, 17, 300, 5, 44, 5, 99, 120]


@pytest.fixture(scope="module")
def network(tiny_llama_dir: Path) -> object:
    return load_network(tiny_llama_dir, SessionOptions(threads=1, exact=True))


def _whole(network: object, tokens: list[int]) -> np.ndarray:
    import torch

    with torch.inference_mode():
        return network(torch.tensor([tokens])).logits[0].numpy()


def test_pieces_and_rewinds_give_the_whole_pass(network: object) -> None:
    session, expected = TorchSession(network, 64), _whole(network, TOKENS)
    first = session.feed(TOKENS[:3], all_logits=True)
    last = session.feed(TOKENS[3:])
    assert np.allclose(first, expected[:3], atol=1e-4) and last.shape == (1, 512)
    assert np.allclose(last[0], expected[-1], atol=1e-4)
    session.rewind(2)
    assert session.position == 2
    other = [*TOKENS[:2], 77, 78]
    assert np.allclose(session.feed(other[2:], all_logits=True), _whole(network, other)[2:], atol=1e-4)
    session.rewind(0)
    assert np.allclose(session.feed(TOKENS)[0], expected[-1], atol=1e-4)


def test_a_plan_survives_its_file_and_is_answered(network: object, tmp_path: Path) -> None:
    plan = EvalPlan(
        ChunkedText(((1, 2), (3, 4)), 2, "0"),
        prompts=((1, 2, 3), (4,)),
        new_tokens=5,
        stop_ids=(),
        items=(EncodedItem((1, 2), ((3,), (4, 5, 6)), (1, 3)),),
    )
    write_plan(plan, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == plan and plan.context_length == 8
    answers = answer(TorchSession(network, 64), plan)
    tokens = [1, 2, 3]
    for _ in range(5):
        tokens.append(int(_whole(network, tokens)[-1].argmax()))
    assert list(answers.generations[0]) == tokens[3:]
    assert answers.choices[0] in (0, 1) and len(answers.generations[1]) == 5
