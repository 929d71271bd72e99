"""An export that prunes and recovers first: stages side by side, one set of codes, resumed after a kill, judged by the source."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edgeport.cli import main
from edgeport.export.gate.thresholds import Thresholds
from edgeport.export.pipeline import ExportResult, run
from edgeport.export.preparation import RecoveryWish
from edgeport.export.request import ExportRequest, GateWish, make_plan
from edgeport.export.source import open_source
from edgeport.manifest import read_manifest
from edgeport.progress import NO_PROGRESS

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "models" / "reference"
LENIENT = Thresholds(perplexity_loss=9.0, same_top1=0.1, accuracy_retention=0.1, extra_loops=1.0)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some seconds of recovery: enough to see that it happened."""
    path = tmp_path_factory.mktemp("recipe") / "quick.toml"
    path.write_text(
        'solver = "rtn"\nlinear = "int4-g32"\nembedding = "int8-g32"\nhead = "int8-g32"\n'
        "[prune]\nffn = 0.5\nsnap = 32\nreconstruct = false\n"
        "[recover]\nsteps = 12\nbatch_tokens = 1024\nmicro_tokens = 1024\nn_ctx = 256\nheld_tokens = 2048\nmeasure_steps = 6\n",
        encoding="utf-8",
    )
    return path


def request(out: Path, recipe: Path, store: Path | None = None, **changes: object) -> ExportRequest:
    wanted = ExportRequest(
        str(REFERENCE), "edge", out, recipe=str(recipe), threads=2, recovery=RecoveryWish(store=store)
    )
    return replace(wanted, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def prepared(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ExportResult, Path]:
    """A whole export, judged with thresholds it can meet, and the store it left its float models in."""
    folder = tmp_path_factory.mktemp("prepared")
    gate = GateWish(ladder=False, thresholds=LENIENT)
    plan = make_plan(request(folder / "out", recipe, folder / "store", gate=gate))
    return run(plan, progress=NO_PROGRESS), folder / "store"


@pytest.mark.slow
def test_stages_and_containers_side_by_side(prepared: tuple[ExportResult, Path]) -> None:
    result, _ = prepared
    manifest = read_manifest(result.directory)
    source, pruned, recovered = manifest.stages
    assert [stage.name for stage in manifest.stages] == ["source", "pruned", "recovered"]
    assert (
        source.parameters == 5_573_888
        and pruned.parameters == recovered.parameters == manifest.model.parameters
    )
    assert pruned.parameters == source.parameters - 6 * 3 * 384 * 256
    assert source.perplexity and pruned.perplexity and recovered.perplexity
    assert source.perplexity < recovered.perplexity < pruned.perplexity
    assert pruned.mean_kl_divergence and recovered.mean_kl_divergence
    assert 0 < recovered.mean_kl_divergence < pruned.mean_kl_divergence
    assert recovered.seconds and recovered.seconds > 0
    # The containers are judged against the source as it was given, and lose a little more than the float model.
    assert manifest.source == open_source(str(REFERENCE)).facts()
    for name, quality in manifest.quality.items():
        assert quality["base_perplexity"] == pytest.approx(source.perplexity, rel=1e-5), name
        assert quality["mean_kl_divergence"] > recovered.mean_kl_divergence, name
    assert len({entry.weights_id for entry in manifest.containers}) == 1 and len(manifest.containers) == 4
    assert all(entry.verified for entry in manifest.containers)


@pytest.mark.slow
def test_the_tables_show_the_stages(
    prepared: tuple[ExportResult, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    result, _ = prepared
    assert main(["inspect", str(result.directory)]) == 0
    shown = capsys.readouterr().out
    for stage in ("source", "pruned", "recovered", "gguf, quick"):
        assert any(line.startswith(stage) for line in shown.splitlines()), stage
    assert main(["report", str(result.directory)]) == 0
    page = (result.directory / "report.html").read_text(encoding="utf-8")
    assert "<h2>Stages</h2>" in page and "recovered" in page


@pytest.mark.slow
def test_the_store_serves_the_next_export(
    prepared: tuple[ExportResult, Path], recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other bits over the same float model: nothing is pruned or trained again."""
    result, store = prepared

    def never(*_words: object, **_options: object) -> None:
        raise AssertionError("the stage is in the store")

    monkeypatch.setattr("edgeport.export.prune.run.prune", never)
    monkeypatch.setattr("edgeport.export.recover.distill.distill", never)
    other = tmp_path / "int8.toml"
    other.write_text(recipe.read_text(encoding="utf-8").replace("int4-g32", "int8-g32"), encoding="utf-8")
    plan = make_plan(request(tmp_path / "out", other, store, formats=("gguf",), gate=GateWish(enabled=False)))
    found = run(plan, progress=NO_PROGRESS).manifest
    assert found.weights_id != result.manifest.weights_id
    assert [stage.name for stage in found.stages] == ["source", "pruned", "recovered"]
    assert found.stages[1].perplexity is None  # nobody judged


@pytest.mark.slow
def test_a_loss_from_pruning_is_refused_and_the_ladder_leaves_pruning_out(
    recipe: Path, tmp_path: Path
) -> None:
    """Half the width without any recovery is far beyond 5 %; the unpruned rung passes."""
    cut = tmp_path / "cut.toml"
    text = recipe.read_text(encoding="utf-8").split("[recover]")[0]
    cut.write_text(text, encoding="utf-8")
    result = run(make_plan(request(tmp_path / "out", cut, formats=("gguf",))), progress=NO_PROGRESS)
    steps = [(step.rung, step.verdict) for step in result.path]
    assert steps[0] == ("as asked", "fail") and steps[1] == ("INT8 of the prepared model", "fail")
    assert steps[2] == ("without pruning", "pass")
    manifest = read_manifest(result.directory)
    assert manifest.stages == () and manifest.model.intermediate_size == 768
    assert "prune" not in manifest.recipe


@pytest.mark.slow
def test_killed_while_it_learns_it_ends_the_same(
    prepared: tuple[ExportResult, Path], recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies after pruning, in the middle of learning; the next one prunes nothing and ends with the same codes."""
    result, _ = prepared
    out = tmp_path / "out"
    child = (
        "import os, sys\n"
        "from edgeport.export.recover import trainer\n"
        "real = trainer.Trainer._step\n"
        "def dying(self, *a, **k):\n"
        "    dying.left -= 1\n"
        "    if dying.left < 0: os._exit(9)\n"
        "    return real(self, *a, **k)\n"
        "dying.left = 8\n"
        "trainer.Trainer._step = dying\n"
        "from edgeport.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    words = ["export", str(REFERENCE), "--device", "edge", "--recipe", str(recipe), "--threads", "2", "--format", "gguf",
             "--no-gate", "--quiet", "-o", str(out)]  # fmt: skip
    assert subprocess.run([sys.executable, "-c", child, *words], check=False).returncode == 9
    assert not out.exists()

    def never(*_words: object, **_options: object) -> None:
        raise AssertionError("pruning was finished")

    monkeypatch.setattr("edgeport.export.prune.run.prune", never)
    assert main(words) == 0
    assert read_manifest(out).weights_id == result.manifest.weights_id


def test_a_model_that_nobody_judges(
    tiny_llama_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pruned, taught for two steps, quantized, packed and verified; the stages are listed without quality."""
    recipe = tmp_path / "short.toml"
    recipe.write_text(
        'solver = "rtn"\nlinear = "int4-g32"\nembedding = "int8-g32"\nhead = "int8-g32"\n'
        "[prune]\nffn = 0.5\nlayers = 1\nsnap = 32\n"
        '[recover]\nsteps = 2\nbatch_tokens = 128\nmicro_tokens = 128\nn_ctx = 64\nheld_tokens = 128\ntext = ["embedded"]\n'
        "text_tokens = 2048\n",
        encoding="utf-8",
    )
    out, store = tmp_path / "out", tmp_path / "store"
    words = [
        "export",
        str(tiny_llama_dir),
        "--store",
        str(store),
        "--device",
        "edge",
        "--recipe",
        str(recipe),
        "--format",
        "gguf,onnx",
    ]
    assert (
        main(
            [*words, "--calibration-tokens", "1024", "--no-gate", "--threads", "1", "--quiet", "-o", str(out)]
        )
        == 0
    )
    assert "not measured" in capsys.readouterr().out
    manifest = read_manifest(out)
    assert [stage.name for stage in manifest.stages] == ["source", "pruned", "recovered"]
    assert manifest.stages[0].parameters > manifest.stages[1].parameters == manifest.model.parameters
    assert (manifest.model.layers, manifest.model.intermediate_size) == (1, 64)
    assert manifest.source.fingerprint == open_source(str(tiny_llama_dir)).fingerprint()
    assert all(entry.verified for entry in manifest.containers)

    def stored(name: str) -> int:
        return sum(1 for path in store.glob(f"{name}-*") if path.is_dir())

    # The same again takes both stages from the store; another held-out text must not meet a model trained on it.
    words += [
        "--calibration-tokens",
        "1024",
        "--no-gate",
        "--no-verify",
        "--threads",
        "1",
        "--quiet",
        "--force",
        "-o",
        str(out),
    ]
    assert main(words) == 0 and (stored("pruned"), stored("recovered")) == (1, 1)
    heldout = tmp_path / "heldout.txt"
    heldout.write_text("Nothing of this is in any text that comes with the project. " * 40, encoding="utf-8")
    assert main([*words, "--heldout", str(heldout)]) == 0
    assert (stored("pruned"), stored("recovered")) == (1, 2)
