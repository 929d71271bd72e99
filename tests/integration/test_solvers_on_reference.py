"""On the reference model every solver loses less than plain rounding, on text that none of them has seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgeport.export.calibrate.sources import load_calibration
from edgeport.export.calibrate.text import CalibrationText
from edgeport.export.checkpoint import Checkpoint
from edgeport.export.mix.evaluate import Divergence, compare_weights
from edgeport.export.mix.weights import CheckpointWeights
from edgeport.export.quantize.learned import LearnSettings
from edgeport.export.quantize.run import Calibration, quantize
from edgeport.export.quantize.solvers import SOLVERS
from edgeport.export.recipe import load_recipe, parse_scheme
from edgeport.export.source import SourceModel, open_source
from edgeport.progress import NO_PROGRESS

REFERENCE = Path("models/reference")
HELDOUT = REFERENCE / "text" / "heldout.txt"
N_CTX = 256

pytestmark = pytest.mark.slow


def text_of(source: SourceModel, file: Path, tokens: int) -> CalibrationText:
    return load_calibration(str(file), source, tokens=tokens, n_ctx=N_CTX, heldout=None, progress=NO_PROGRESS)


@pytest.fixture(scope="module")
def divergences(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Divergence]:
    """Every solver with INT4 throughout, so that the tied embedding and head are solved too."""
    source = open_source(str(REFERENCE))
    text = text_of(source, REFERENCE / "text" / "calibration.txt", 32768)
    contenders = {}
    with pytest.MonkeyPatch.context() as patch:
        # Learning long enough to gain something takes minutes; it must gain something in these few steps too.
        short = replace(LearnSettings(), steps=60, measure_steps=20)
        patch.setattr("edgeport.export.quantize.run.LEARN_SETTINGS", short)
        for solver in SOLVERS:
            folder = tmp_path_factory.mktemp(solver.replace("+", "-"))
            (folder / "checkpoint").mkdir()
            int4 = parse_scheme("int4")
            recipe = replace(load_recipe("int4"), solver=solver, embedding=int4, head=int4)
            quantize(
                source,
                recipe,
                folder / "checkpoint",
                calibration=Calibration(text, folder / "work"),
                threads=2,
                progress=NO_PROGRESS,
            )
            contenders[solver] = CheckpointWeights(Checkpoint(folder / "checkpoint", source.spec))
    held = text_of(source, HELDOUT, 8192).windows
    return compare_weights(source, contenders, held, threads=2)


@pytest.mark.parametrize("solver", [name for name in SOLVERS if name != "rtn"])
def test_loses_less_than_rounding(divergences: dict[str, Divergence], solver: str) -> None:
    found, plain = divergences[solver], divergences["rtn"]
    assert found.mean_kl < 0.95 * plain.mean_kl, (found, plain)


def test_each_step_up_is_one(divergences: dict[str, Divergence]) -> None:
    order = ["rtn", "imatrix", "gptq", "gptaq", "learned"]
    losses = [divergences[name].mean_kl for name in order]
    assert losses == sorted(losses, reverse=True), dict(zip(order, losses, strict=True))
