"""A whole model made sparse: a stock folder, exact counts, statistics from sparse layers, and a kill in between."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edgeport.cli import main
from edgeport.errors import DoesNotFit, UnsupportedModel, UsageError
from edgeport.export.calibrate.run import LayerView
from edgeport.export.calibrate.sources import load_calibration
from edgeport.export.calibrate.state import Arrays
from edgeport.export.calibrate.text import CalibrationText
from edgeport.export.families.decoder import TensorSpec
from edgeport.export.mix.evaluate import compare_weights
from edgeport.export.source import SourceModel, open_source
from edgeport.export.sparsify import run as sparsify_run
from edgeport.export.sparsify.plan import plan_sparsify
from edgeport.export.sparsify.report import SparsifyReport
from edgeport.export.sparsify.run import sparsify
from edgeport.export.sparsify.settings import SparsifySettings
from edgeport.progress import NO_PROGRESS

REFERENCE = Path("models/reference")


@pytest.fixture(scope="module")
def source(tiny_qwen2_dir: Path) -> SourceModel:
    return open_source(str(tiny_qwen2_dir))


def text_of(source: SourceModel) -> CalibrationText:
    tokens = np.random.default_rng(3).integers(0, source.spec.vocab_size, (5, 40))
    return CalibrationText(tokens, "random tokens", "random 5x40")


def made(source: SourceModel, settings: SparsifySettings, folder: Path) -> SparsifyReport:
    return sparsify(
        plan_sparsify(source, settings),
        text_of(source),
        folder / "out",
        work=folder / "work",
        threads=1,
        progress=NO_PROGRESS,
    )


def linears(model: SourceModel) -> dict[str, npt.NDArray[np.float32]]:
    return {
        item.name: np.array(model.tensor(item.name), dtype=np.float32)
        for item in model.spec.tensors()
        if item.role == "linear"
    }


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_a_stock_folder_with_exact_zeros(
    method: str, pattern: str, source: SourceModel, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    report = made(source, SparsifySettings(method, 0.5, pattern), tmp_path)
    sparse = open_source(str(tmp_path / "out"))
    for name, values in linears(sparse).items():
        assert (values == 0).sum() == values.size // 2, name
        if pattern == "2:4":
            assert ((values.reshape(-1, 4) == 0).sum(axis=1) == 2).all(), name
    assert report.sparsity == 0.5
    for item in source.spec.tensors():
        assert sparse.weights.entry(item.name).dtype == source.weights.entry(item.name).dtype
        if item.role != "linear":
            assert (sparse.tensor(item.name) == source.tensor(item.name)).all(), item.name
    network = AutoModelForCausalLM.from_pretrained(tmp_path / "out", local_files_only=True)
    stored = network.state_dict()["model.layers.1.mlp.down_proj.weight"].float().numpy()
    assert (stored == linears(sparse)["model.layers.1.mlp.down_proj.weight"]).all()
    assert AutoTokenizer.from_pretrained(tmp_path / "out").decode([5, 6]) != ""


def test_provenance_tells_what_was_done(source: SourceModel, tmp_path: Path) -> None:
    made(source, SparsifySettings("magnitude", 0.25), tmp_path / "first")
    again = open_source(str(tmp_path / "first" / "out"))
    made(again, SparsifySettings("wanda", 0.5), tmp_path / "second")
    document = json.loads((tmp_path / "second" / "out" / "provenance.json").read_text())
    assert document["stage"] == "sparsify" and document["settings"]["method"] == "wanda"
    assert document["source_fingerprint"] == again.fingerprint()
    assert document["report"]["sparsity"] == 0.5 and document["report"]["calibration"] == "random tokens"
    assert document["source"]["settings"]["method"] == "magnitude"


def test_later_layers_are_scored_on_what_sparse_ones_give(source: SourceModel, tmp_path: Path) -> None:
    """transformers runs layer 0 sparse and layer 1 dense; Wanda's choice in layer 1 follows from the inputs seen there."""
    import torch
    from transformers import AutoModelForCausalLM

    made(source, SparsifySettings("wanda", 0.5), tmp_path)
    sparse = linears(open_source(str(tmp_path / "out")))
    dense = linears(source)
    network = AutoModelForCausalLM.from_pretrained(source.directory, dtype=torch.float32)
    chosen = "model.layers.1.self_attn.q_proj"
    seen: list[torch.Tensor] = []
    hook = network.get_submodule(chosen).register_forward_pre_hook(lambda _, given: seen.append(given[0]))

    def mask_after(first_layer: dict[str, npt.NDArray[np.float32]]) -> npt.NDArray[np.bool_]:
        seen.clear()
        with torch.inference_mode():
            for name, values in first_layer.items():
                if name.startswith("model.layers.0."):
                    network.get_parameter(name).copy_(torch.from_numpy(values))
            network(torch.from_numpy(text_of(source).windows))
        norms = seen[0].reshape(-1, source.spec.hidden_size).norm(dim=0).numpy()
        scores = np.abs(dense[f"{chosen}.weight"]) * norms
        return np.asarray(scores < np.median(scores, axis=1, keepdims=True))

    found = sparse[f"{chosen}.weight"] == 0
    agreement = (found == mask_after(sparse)).mean()
    on_dense = (found == mask_after(dense)).mean()
    hook.remove()
    assert agreement > 0.999 and on_dense < agreement


class Killed(BaseException):
    pass


def kill_in_layer(
    index: int, monkeypatch: pytest.MonkeyPatch, *, calls: int
) -> Callable[[], pytest.MonkeyPatch]:
    """The process goes away when layer `index` comes up for the `calls`-th time."""
    original = sparsify_run._Round._layer
    count = [0]

    def layer(self: sparsify_run._Round, view: LayerView) -> Arrays:
        count[0] += view.index == index
        if count[0] >= calls:
            raise Killed
        return original(self, view)

    monkeypatch.setattr(sparsify_run._Round, "_layer", layer)
    return lambda: monkeypatch


@pytest.mark.parametrize(("rounds", "calls"), [(1, 1), (3, 2)])
def test_a_kill_changes_no_byte(
    rounds: int, calls: int, source: SourceModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SparsifySettings("sparsegpt", 0.6, rounds=rounds)
    made(source, settings, tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_in_layer(1, patch, calls=calls)
        with pytest.raises(Killed):
            made(source, settings, tmp_path / "killed")
    assert not (tmp_path / "killed" / "out").exists()
    first = tmp_path / "killed" / "work" / "round-1" / "pass" / "layer-0001.safetensors"
    written = first.stat().st_mtime_ns
    made(source, settings, tmp_path / "killed")
    assert first.stat().st_mtime_ns == written  # not solved again
    names = ("model.safetensors", "provenance.json")
    for name in names:
        whole, resumed = (tmp_path / folder / "out" / name for folder in ("whole", "killed"))
        assert whole.read_bytes() == resumed.read_bytes(), name


def test_other_settings_do_not_go_on(source: SourceModel, tmp_path: Path) -> None:
    made(source, SparsifySettings("wanda", 0.5), tmp_path)
    assert made(source, SparsifySettings("wanda", 0.75), tmp_path).sparsity == 0.75


def test_rounds_end_where_one_does_and_choose_otherwise(source: SourceModel, tmp_path: Path) -> None:
    once = made(source, SparsifySettings("sparsegpt", 0.75), tmp_path / "once")
    thrice = made(source, SparsifySettings("sparsegpt", 0.75, rounds=3), tmp_path / "thrice")
    assert once.sparsity == thrice.sparsity == 0.75
    assert len(thrice.schedule) == 3
    first, second = (linears(open_source(str(tmp_path / name / "out"))) for name in ("once", "thrice"))
    assert any((first[name] != second[name]).any() for name in first)


def test_what_cannot_be_is_refused(source: SourceModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="method is 'best'"):
        plan_sparsify(source, SparsifySettings("best"))
    odd = replace(source, spec=replace(source.spec, intermediate_size=130))
    with pytest.raises(UnsupportedModel, match="divisible by 4: model.layers.0.mlp.down_proj.weight has 130"):
        plan_sparsify(odd, SparsifySettings(pattern="2:4"))
    small = replace(plan_sparsify.__globals__["read_host"](), available_bytes=1 << 20)
    monkeypatch.setattr("edgeport.export.sparsify.plan.read_host", lambda: small)
    with pytest.raises(DoesNotFit, match=r"1\.00 MiB are available|1 MiB are available"):
        plan_sparsify(source, SparsifySettings("sparsegpt"))


def test_text_is_asked_for(source: SourceModel, tmp_path: Path) -> None:
    plan = plan_sparsify(source, SparsifySettings("wanda"))
    with pytest.raises(UsageError, match="needs calibration text"):
        sparsify(plan, None, tmp_path / "out", work=tmp_path / "work", threads=1, progress=NO_PROGRESS)


def test_the_command_writes_reports_and_keeps_what_is_not_its_own(
    tiny_llama_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["sparsify", str(tiny_llama_dir), "--method", "magnitude", "--quiet", "-o", str(out)]
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["sparsity"] == 0.5 and document["quality"] is None
    assert any("docs/sparsity.md" in note for note in document["notes"])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert main(words) == 2 and "exists already" in capsys.readouterr().err
    assert main([*words, "--force", "--sparsity", "0.25"]) == 0
    assert "25.00% of the decoder's linears" in capsys.readouterr().out
    (out / "provenance.json").unlink()
    assert main([*words, "--force"]) == 2 and "replaces nothing else" in capsys.readouterr().err
    assert main([*words, "--gradual", "0"]) == 2 and "from 1 to 100" in capsys.readouterr().err


class StoredWeights:
    """A model folder as `compare_weights` wants it."""

    def __init__(self, model: SourceModel) -> None:
        self._model = model

    def values(self, item: TensorSpec, rows: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.float32]:
        stored = self._model.tensor(item.name)
        return np.asarray(stored if rows is None else stored[rows], dtype=np.float32)


def test_each_method_loses_less_on_text_none_has_seen(tmp_path: Path) -> None:
    source = open_source(str(REFERENCE))

    def windows(name: str, tokens: int) -> CalibrationText:
        path = str(REFERENCE / "text" / name)
        return load_calibration(path, source, tokens=tokens, n_ctx=128, heldout=None, progress=NO_PROGRESS)

    contenders = {}
    text = windows("calibration.txt", 4096)
    for method in ("magnitude", "wanda", "sparsegpt"):
        out = tmp_path / method
        plan = plan_sparsify(source, SparsifySettings(method, 0.5))
        sparsify(plan, text, out, work=tmp_path / f"work-{method}", threads=1, progress=NO_PROGRESS)
        contenders[method] = StoredWeights(open_source(str(out)))
    found = compare_weights(source, contenders, windows("heldout.txt", 2048).windows, threads=1)
    losses = [found[method].mean_kl for method in contenders]
    assert losses == sorted(losses, reverse=True) and losses[2] < 0.5 * losses[1], losses
