"""Choosing a mix: within the budget, the best of its contenders, and better than what measures nothing."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeport.errors import DoesNotFit, UsageError
from edgeport.export.calibrate.text import CalibrationText
from edgeport.export.mix.budget import MixBudget, MixSearch, budget_limits
from edgeport.export.mix.choose import (
    FIRST_AND_LAST,
    LLAMA_CPP_LIKE,
    SEARCHED,
    UNIFORM,
    MixTask,
    choose_mix,
    solve_budget,
)
from edgeport.export.mix.choose import naive_mixes as make_naive
from edgeport.export.mix.groups import tensor_groups
from edgeport.export.mix.naive import more_bits
from edgeport.export.mix.report import MixChoice, format_report
from edgeport.export.mix.sensitivity import GroupLoss, OptionLoss, Sensitivity
from edgeport.export.mix.windows import split_windows
from edgeport.export.recipe import load_recipe, parse
from edgeport.export.request import checkpoint_bytes, packed_bytes
from edgeport.export.source import SourceModel, open_source
from edgeport.progress import NO_PROGRESS
from edgeport.scheme import TensorScheme

INT4, INT8 = TensorScheme("int4", 32), TensorScheme("int8", 32)
REFERENCE = Path(__file__).resolve().parents[3] / "models" / "reference"
SMALL = MixSearch(windows=2, check_windows=2, n_ctx=48)


def make_text(tokens: int = 384, vocab_size: int = 512) -> CalibrationText:
    windows = np.random.default_rng(3).integers(0, vocab_size, size=(1, tokens), dtype=np.int64)
    return CalibrationText(windows, "random tokens", hashlib.sha256(windows.tobytes()).hexdigest())


def choose(source: SourceModel, budget: MixBudget, work: Path) -> MixChoice:
    return choose_mix(
        source,
        replace(load_recipe("int4"), solver="rtn"),
        make_text(),
        budget,
        work=work,
        threads=1,
        progress=NO_PROGRESS,
    )


def test_mix_fits_its_bits_and_is_the_best_contender(tiny_qwen2_dir: Path, tmp_path: Path) -> None:
    source = open_source(str(tiny_qwen2_dir))
    choice = choose(source, MixBudget(target_bits=6.0, search=SMALL), tmp_path)
    report = choice.report
    bits = checkpoint_bytes(source.spec, choice.recipe) * 8 / source.spec.parameters()
    names = [contender.name for contender in report.contenders]
    assert names == [SEARCHED, UNIFORM, LLAMA_CPP_LIKE, FIRST_AND_LAST]
    kept = next(contender for contender in report.contenders if contender.name == report.kept)
    assert kept.bits_per_weight == pytest.approx(bits) and bits <= 6.0
    assert kept.kl.mean_kl == min(contender.kl.mean_kl for contender in report.contenders)
    assert all(contender.bits_per_weight <= 6.0 for contender in report.contenders)
    # The report is plain values, the recipe survives the manifest, and the table names every group.
    assert json.loads(json.dumps(report.to_document()))["kept"] == report.kept
    again = parse(choice.recipe.to_document(), default_name="again")
    assert [again.scheme_for(item) for item in source.spec.tensors()] == [
        choice.recipe.scheme_for(item) for item in source.spec.tensors()
    ]
    table = format_report(report)
    assert all(group.name in table for group in report.groups)
    # Another budget reads what was measured, and more bytes cost no more loss.
    richer = choose(source, MixBudget(target_bits=7.0, search=SMALL), tmp_path).report
    assert richer.predicted_kl < report.predicted_kl
    assert [line.options for line in richer.groups] == [line.options for line in report.groups]


def test_size_is_that_of_the_largest_container(tiny_llama_dir: Path, tmp_path: Path) -> None:
    source = open_source(str(tiny_llama_dir))
    target = 160_000
    choice = choose(source, MixBudget(target_bytes=target, formats=("onnx", "gguf"), search=SMALL), tmp_path)
    for container, size in choice.report.container_bytes.items():
        most = size["size_bytes"] + size["error_bytes"]
        assert most <= target
        weights = packed_bytes(source.spec, choice.recipe, container)
        assert size["size_bytes"] > weights
    assert set(choice.report.container_bytes) == {"onnx", "gguf"}


def test_calibrated_recipe_is_searched_with_its_statistics(tiny_llama_dir: Path, tmp_path: Path) -> None:
    source, recipe = open_source(str(tiny_llama_dir)), replace(load_recipe("int4"), solver="gptq")
    budget = MixBudget(target_bits=6.0, search=SMALL)
    choice = choose_mix(source, recipe, make_text(), budget, work=tmp_path, threads=1, progress=NO_PROGRESS)
    assert choice.report.solver == "imatrix" and choice.recipe.solver == "gptq"
    plain = choose(source, budget, tmp_path / "rtn").report
    assert plain.solver == "rtn"
    assert plain.predicted_kl != choice.report.predicted_kl


@pytest.mark.slow
@pytest.mark.parametrize("target_bytes", [4_100_000, 4_800_000])
def test_real_files_are_no_larger_than_asked(target_bytes: int, tmp_path: Path) -> None:
    """4.1 MB leaves gguf and onnx little; OpenVINO's graph and tokenizer alone take a megabyte."""
    from edgeport.export.checkpoint import Checkpoint
    from edgeport.export.formats.base import WriteOptions
    from edgeport.export.formats.table import get_format
    from edgeport.export.quantize.run import quantize

    source = open_source(str(REFERENCE))
    formats = ("gguf", "onnx") if target_bytes < 4_500_000 else ("gguf", "onnx", "openvino")
    budget = MixBudget(target_bytes=target_bytes, formats=formats, search=SMALL)
    choice = choose_mix(
        source,
        replace(load_recipe("int4"), solver="rtn"),
        make_text(),
        budget,
        work=tmp_path,
        threads=1,
        progress=NO_PROGRESS,
    )
    (tmp_path / "checkpoint").mkdir()
    quantize(source, choice.recipe, tmp_path / "checkpoint", threads=1, progress=NO_PROGRESS)
    sizes = {}
    for container in formats:
        folder = tmp_path / container
        folder.mkdir()
        options = WriteOptions(source.name, source.spec.context_length, NO_PROGRESS)
        get_format(container).write(Checkpoint(tmp_path / "checkpoint", source.spec), folder, options)
        sizes[container] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert 0.96 * target_bytes < max(sizes.values()) <= target_bytes, sizes


def test_too_small_a_budget_is_refused_before_anything_is_measured(
    tiny_llama_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(DoesNotFit, match="bits per weight"):
        choose(open_source(str(tiny_llama_dir)), MixBudget(target_bits=4.2), tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_bad_texts_are_refused(tiny_llama_dir: Path, tmp_path: Path) -> None:
    source, budget = open_source(str(tiny_llama_dir)), MixBudget(target_bits=6.0)
    for text, told in ((make_text(40), "40 tokens"), (make_text(400, 5000), "the vocabulary has 512")):
        with pytest.raises(UsageError, match=told):
            choose_mix(
                source,
                replace(load_recipe("int4"), solver="rtn"),
                text,
                budget,
                work=tmp_path,
                threads=1,
                progress=NO_PROGRESS,
            )


def test_search_and_check_share_no_window() -> None:
    text = make_text(1000)
    split = split_windows(text, search=4, check=8, n_ctx=48, vocab_size=512)
    seen = {window.tobytes() for window in split.search}
    assert len(seen) == 4 and len(split.check) == 8
    assert not seen & {window.tobytes() for window in split.check}
    short = split_windows(make_text(70), search=8, check=8, n_ctx=256, vocab_size=512)
    assert short.search.shape == short.check.shape == (1, 35)


def _losses(source: SourceModel, four_bits: dict[str, float]) -> Sensitivity:
    groups = tensor_groups(source.spec, replace(load_recipe("int4"), solver="rtn"), (INT4, INT8))
    found = []
    for group in groups:
        kl = four_bits.get(group.name, 0.001)
        found.append(
            GroupLoss(group.name, (OptionLoss("int4-g32", kl, 0.0), OptionLoss("int8-g32", 0.0, 0.0)))
        )
    return Sensitivity({}, 1, tuple(found))


def test_every_container_of_a_size_budget_holds_it(tiny_llama_dir: Path, tmp_path: Path) -> None:
    """safetensors keeps a tied embedding in float16, so INT8 there is free in that container and dear in GGUF."""
    source, recipe = open_source(str(tiny_llama_dir)), replace(load_recipe("int4"), solver="rtn")
    groups = tensor_groups(source.spec, recipe, (INT4, INT8))
    for target in range(190_000, 240_000, 10_000):
        budget = MixBudget(target_bytes=target, formats=("gguf", "safetensors"))
        limits = budget_limits(source, recipe, budget)
        task = MixTask(source, recipe, budget, tmp_path, 1)
        solution = solve_budget(groups, _losses(source, {"embedding": 1.0}), limits, task)
        mix = {
            item.name: group.schemes[at]
            for group, at in zip(groups, solution.chosen, strict=True)
            for item in group.tensors
        }
        for limit in limits:
            assert limit.size_of(task.resolve(mix)) <= limit.weight_bytes
        assert mix["model.embed_tokens.weight"] == INT8


def test_naive_mixes_spend_the_budget_in_their_order(tiny_llama_dir: Path, tmp_path: Path) -> None:
    source, recipe = open_source(str(tiny_llama_dir)), replace(load_recipe("int4"), solver="rtn")
    budget = MixBudget(target_bits=7.2)
    task = MixTask(source, recipe, budget, tmp_path, 1)
    limits = budget_limits(source, recipe, budget)
    mixes = make_naive(tensor_groups(source.spec, recipe, (INT4, INT8)), limits, task)
    for mix in mixes.values():
        assert task.stored_bits(mix)[0] <= 7.2
    assert mixes[LLAMA_CPP_LIKE]["model.embed_tokens.weight"] == INT8
    assert mixes[LLAMA_CPP_LIKE]["model.layers.1.self_attn.v_proj.weight"] == INT8
    assert mixes[LLAMA_CPP_LIKE]["model.layers.0.mlp.gate_proj.weight"] == INT4


def test_layers_with_more_bits_are_those_of_llama_cpp() -> None:
    # 32 layers: the first and last four, and every third between them, counted from the fourth.
    assert [layer for layer in range(32) if more_bits(layer, 32)] == [
        0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31,
    ]  # fmt: skip


def test_worse_search_loses_to_the_better_contender(
    tiny_llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong sensitivities (all upside down) must not decide: what is measured end to end does."""
    from edgeport.export.mix.sensitivity import SensitivityRun

    source = open_source(str(tiny_llama_dir))
    budget = MixBudget(target_bits=7.2, search=SMALL)
    honest = choose(source, budget, tmp_path / "honest")
    measure = SensitivityRun.measure

    def upside_down(self: SensitivityRun, progress: object) -> Sensitivity:
        found = measure(self, NO_PROGRESS)
        turned = tuple(
            replace(
                group, options=(replace(group.options[0], kl=1e-9 / group.options[0].kl), group.options[1])
            )
            for group in found.groups
        )
        small = tuple(replace(g, options=(g.options[0], replace(g.options[1], kl=0.0))) for g in turned)
        return replace(found, groups=small)

    monkeypatch.setattr(SensitivityRun, "measure", upside_down)
    fooled = choose(source, budget, tmp_path / "fooled")
    assert fooled.report.kept != SEARCHED
    best = min(contender.kl.mean_kl for contender in honest.report.contenders)
    got = next(item for item in fooled.report.contenders if item.name == fooled.report.kept)
    assert got.kl.mean_kl >= best
    assert got.kl.mean_kl < fooled.report.contenders[0].kl.mean_kl


@pytest.mark.slow
@pytest.mark.parametrize("bits", [4.8, 5.0])
def test_searched_mix_beats_mixes_that_measure_nothing(bits: float, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    tokens = Tokenizer.from_file(str(REFERENCE / "tokenizer.json"))
    ids = tokens.encode((REFERENCE / "text" / "calibration.txt").read_text(encoding="utf-8")).ids
    windows = np.array(ids[: len(ids) // 512 * 512], dtype=np.int64).reshape(-1, 512)
    text = CalibrationText(windows, "calibration.txt", hashlib.sha256(windows.tobytes()).hexdigest())
    source = open_source(str(REFERENCE))
    budget = MixBudget(target_bits=bits)
    choice = choose_mix(
        source,
        replace(load_recipe("int4"), solver="rtn"),
        text,
        budget,
        work=tmp_path,
        threads=1,
        progress=NO_PROGRESS,
    )
    found = {contender.name: contender.kl for contender in choice.report.contenders}
    assert choice.report.kept == SEARCHED
    for naive in (UNIFORM, LLAMA_CPP_LIKE, FIRST_AND_LAST):
        assert found[SEARCHED].mean_kl < 0.95 * found[naive].mean_kl
    assert found[SEARCHED].mean_kl == pytest.approx(choice.report.predicted_kl, rel=0.15)
