"""What is chosen: scores and solutions against brute force and transformers, and on the reference model against chance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeport.export.calibrate.sources import load_calibration
from edgeport.export.calibrate.text import CalibrationText
from edgeport.export.families.table import read_spec
from edgeport.export.prune.heads import choose_heads, head_counts
from edgeport.export.prune.method import highest
from edgeport.export.prune.perplexity import window_losses
from edgeport.export.prune.plan import plan_prune
from edgeport.export.prune.reconstruct import DAMPING_SHARE, solve_columns
from edgeport.export.prune.report import PruneReport
from edgeport.export.prune.run import prune, split_text
from edgeport.export.prune.settings import settings_from
from edgeport.export.source import SourceModel, open_source
from edgeport.progress import NO_PROGRESS

REFERENCE = Path(__file__).resolve().parents[3] / "models" / "reference"


@pytest.fixture(scope="module")
def source() -> SourceModel:
    return open_source(str(REFERENCE))


@pytest.fixture(scope="module")
def text(source: SourceModel) -> CalibrationText:
    return load_calibration("auto", source, tokens=16 * 256, n_ctx=256, heldout=None, progress=NO_PROGRESS)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all: scores are made once."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture
def cut(source: SourceModel, text: CalibrationText, work: Path, tmp_path: Path) -> Any:
    def run(**settings: Any) -> PruneReport:
        out = tmp_path / json.dumps(settings).replace("/", "-")
        plan = plan_prune(source, settings_from(settings))
        return prune(plan, text, out, work=work, threads=1, progress=NO_PROGRESS)

    return run


def test_highest_is_ascending_and_ties_go_to_the_first() -> None:
    assert highest(np.array([1.0, 3.0, 3.0, 0.0, 3.0]), 2).tolist() == [1, 2]
    assert highest(np.array([1.0, 3.0, 2.0, 5.0]), 3).tolist() == [1, 2, 3]


def test_solved_columns_are_the_least_squares_ones() -> None:
    """Against numpy's lstsq on the inputs themselves, the damping as further rows."""
    generator = np.random.default_rng(0)
    inputs = generator.standard_normal((200, 12)) @ generator.standard_normal((12, 12))
    weight = generator.standard_normal((5, 12)).astype(np.float32)
    keep = np.array([0, 2, 3, 7, 8, 11])
    hessian = (inputs.T @ inputs / len(inputs)).astype(np.float32)
    solved = solve_columns(weight, hessian, keep)
    damping = np.sqrt(DAMPING_SHARE * np.mean(np.diag(hessian)[keep]) * len(inputs))
    design = np.concatenate([inputs[:, keep], damping * np.eye(len(keep))])
    target = np.concatenate([inputs @ weight.T, damping * weight[:, keep].T])
    wanted = np.linalg.lstsq(design, target, rcond=None)[0].T
    assert np.allclose(solved, wanted, rtol=1e-3, atol=1e-3)
    lost = np.mean((inputs @ weight.T - inputs[:, keep] @ weight[:, keep].T) ** 2)
    assert np.mean((inputs @ weight.T - inputs[:, keep] @ solved.T) ** 2) < 0.5 * lost


def test_groups_stay_whole_and_uniform() -> None:
    base = json.loads((REFERENCE / "config.json").read_text())
    before = read_spec(base)
    inside = read_spec(base | {"num_attention_heads": 4})
    scores = np.array([1.0, 9, 2, 8, 5, 3, 4, 6])
    heads, keys = choose_heads(scores, before, inside)
    assert (heads.tolist(), keys.tolist()) == ([1, 3, 4, 7], [0, 1])
    whole = read_spec(base | {"num_attention_heads": 4, "num_key_value_heads": 1})
    heads, keys = choose_heads(scores, before, whole)
    assert (heads.tolist(), keys.tolist()) == ([0, 1, 2, 3], [0])
    assert head_counts(before, 4) == (4, 2)


def test_losses_are_those_of_transformers(source: SourceModel, text: CalibrationText) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    windows = text.windows[:2]
    got = window_losses(source, windows, threads=1, progress=NO_PROGRESS).reshape(2, -1)
    model = AutoModelForCausalLM.from_pretrained(REFERENCE, dtype=torch.float32).eval()
    with torch.inference_mode():
        scores = torch.log_softmax(model(torch.from_numpy(windows)).logits.double(), -1).numpy()
    half = windows.shape[1] // 2
    wanted = [
        [-scores[row, place, windows[row, place + 1]] for place in range(half, windows.shape[1] - 1)]
        for row in range(2)
    ]
    assert np.allclose(got, wanted, rtol=1e-4, atol=1e-4)


def test_the_layer_of_least_influence_goes_first(
    source: SourceModel, text: CalibrationText, cut: Any
) -> None:
    """Influence recomputed from transformers' own hidden states, over the windows that were chosen on."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(REFERENCE, dtype=torch.float32).eval()
    chosen_on = split_text(text)[0].windows
    states: list[Any] = []
    hooks = [
        layer.register_forward_hook(
            lambda _module, inputs, output: states.append(
                (inputs[0], output[0] if isinstance(output, tuple) else output)
            )
        )
        for layer in model.model.layers
    ]
    with torch.inference_mode():
        model(torch.from_numpy(chosen_on))
    for hook in hooks:
        hook.remove()
    influence = [
        float((1 - torch.nn.functional.cosine_similarity(before, after, dim=-1)).mean())
        for before, after in states
    ]
    dropped = int(np.argmin(influence))
    report = cut(layers=5)
    assert report.kept["layers"] == [layer for layer in range(6) if layer != dropped]


def test_scores_beat_chance_and_solving_beats_cutting(cut: Any) -> None:
    scored = cut(ffn=0.5, reconstruct=False).perplexity_after
    assert scored < 0.7 * cut(ffn=0.5, reconstruct=False, importance="random").perplexity_after
    assert cut(ffn=0.5).perplexity_after < 0.97 * scored
    heads = cut(heads=4, reconstruct=False).perplexity_after
    assert heads < 0.9 * cut(heads=4, reconstruct=False, importance="random").perplexity_after
    assert cut(heads=4).perplexity_after < 0.9 * heads
    hidden = cut(embedding=224).perplexity_after
    assert hidden < 0.9 * cut(embedding=224, importance="random").perplexity_after


def test_influence_beats_the_last_layers(cut: Any) -> None:
    assert cut(layers=5).perplexity_after < 0.8 * cut(layers=5, importance="last").perplexity_after


def test_the_seed_decides_what_is_random(cut: Any, work: Path) -> None:
    first, second = (
        cut(heads=4, importance="random", seed=seed, reconstruct=False).kept["heads"] for seed in (1, 2)
    )
    again = cut(heads=4, ffn=0.75, importance="random", seed=1, reconstruct=False).kept["heads"]
    assert first == again != second
