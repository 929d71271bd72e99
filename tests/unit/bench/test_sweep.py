"""Lists and ranges, one row for each combination, what is told of the time left; and the command's other tasks."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

from edgeport.cli import main
from edgeport.errors import UsageError
from edgeport.manifest import read_manifest
from edgeport.runtimes.bench.sweep import Combination, Sweep, combinations, parse_values
from edgeport.runtimes.bench.sweep_clock import SweepClock
from edgeport.runtimes.bench.sweep_run import run_sweep


@pytest.fixture
def artifact(packed_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed_dir, tmp_path / "tiny"))


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["512"], (512,)),
        (["128,512", "0"], (128, 512, 0)),
        (["1-4"], (1, 2, 3, 4)),
        (["0-4096+1024"], (0, 1024, 2048, 3072, 4096)),
        (["1-20*3"], (1, 3, 9)),
        (["8-8", "8"], (8,)),
    ],
)
def test_lists_are_llama_benchs(texts: list[str], values: tuple[int, ...]) -> None:
    assert parse_values(texts, "-p") == values


@pytest.mark.parametrize("text", ["", "a", "1-", "4-1", "1-8*1", "0-8*2", "1-8+0", "-3", "1;2", "1,,2"])
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_values([text], "--n-prompt")
    with pytest.raises(UsageError, match="--threads is 0"):
        parse_values(["0"], "--threads", lowest=1)


def test_every_combination_is_one_row_and_zero_is_no_test() -> None:
    sweep = Sweep(prompts=(128, 512), generations=(0, 64), depths=(0, 1024), threads=(1, 2))
    found = combinations(sweep, ["gguf", "onnx"])
    assert len(found) == len(set(found)) == 2 * 2 * 2 * 3
    assert [row.test for row in found[:6]] == [
        "pp128", "pp512", "tg64", "pp128 @ d1024", "pp512 @ d1024", "tg64 @ d1024",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="nothing to measure"):
        combinations(Sweep(prompts=(0,), generations=(0,)), ["gguf"])
    with pytest.raises(UsageError, match="1111 combinations"):
        combinations(Sweep(prompts=tuple(range(1, 1112)), generations=(0,)), ["gguf"])


def test_the_time_left_is_told_when_both_kinds_of_test_were_seen() -> None:
    clock = SweepClock(repetitions=5)
    prompt = Combination("gguf", 1, None, 1, 0, 1000, 0)
    written = Combination("gguf", 1, None, 1, 1000, 0, 100)
    assert clock.left_s([prompt]) is None
    clock.add(prompt, 1000.0, 7 * 1.0 + 2.0)
    assert clock.left_s([prompt, prompt]) == pytest.approx(18.0)
    assert clock.left_s([prompt, written]) is None
    clock.add(written, 50.0, 1.0 + 5 * 2.0 + 2.0)
    assert clock.left_s([prompt, written]) == pytest.approx(9.0 + 13.0)
    assert clock.left_s([]) == 0


def test_a_sweep_of_a_real_engine(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "bench",
        str(artifact),
        "--format",
        "gguf",
        "-p",
        "8,16",
        "-n",
        "0,4",
        "-d",
        "0,400",
        "--batch",
        "1,2",
    ]
    assert main([*words, "-t", "1", "-r", "2", "--output", "csv"]) == 0
    printed = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(printed.out)))
    assert [row["test"] for row in rows[:3]] == ["pp8", "pp16", "tg4"]
    assert len(rows) == 12
    for row in rows:
        possible = row["n_sequences"] == "1" and row["n_depth"] == "0"
        assert bool(row["avg_ts"]) is possible
        assert possible or "fit a context of 256" in row["note"] or "holds one sequence" in row["note"]
    assert read_manifest(artifact).speed == {}
    assert "not written into the manifest" in printed.err


def test_a_container_that_fails_is_a_row_and_a_long_sweep_is_announced(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = artifact / read_manifest(artifact).container("gguf").entry_point
    path.write_bytes(path.read_bytes()[:1000])
    monkeypatch.setattr("edgeport.runtimes.bench.sweep_run.LONG_S", 0.0)
    told: list[str] = []
    sweep = Sweep(prompts=(8,), generations=(4,), depths=(0, 8))
    found = run_sweep(artifact, sweep, ["onnx", "gguf"], repetitions=1, tell=told.append)
    assert [row.failed for row in found.rows] == [False] * 4 + [True] * 4
    assert all(row.line.note.startswith("failed: ") for row in found.rows[4:])
    assert [line[:22] for line in told] == ["6 of 8 rows are left, "]
    decode = found.rows[1]
    assert decode.inter_token is not None
    assert decode.roofline is not None
    assert decode.roofline.verdict in ("cache-resident", "measured")
    assert found.rows[0].ttft_ms is not None


def test_imported_results_stand_beside_what_is_measured(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = tmp_path / "theirs.json"
    record = {
        "n_prompt": 8,
        "n_gen": 0,
        "avg_ts": 100.0,
        "stddev_ts": 1.0,
        "cpu_info": "Cortex-A76",
        "n_threads": 4,
    }
    theirs.write_text(json.dumps([record]))
    words = [
        "bench",
        str(artifact),
        "--format",
        "gguf",
        "-p",
        "8",
        "-n",
        "4",
        "-r",
        "2",
        "-t",
        "1",
        "--no-memory",
    ]
    assert main([*words, "--import", str(theirs)]) == 0
    out = capsys.readouterr().out
    assert "llama-bench (theirs.json)" in out
    assert "different machines" in out
    assert main(["bench", "--import", str(theirs), "--output", "jsonl"]) == 0
    assert json.loads(capsys.readouterr().out)["avg_ts"] == 100.0
    assert set(read_manifest(artifact).speed) == {"gguf"}


def test_compare_prints_a_ratio_and_ends_with_0(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "bench",
        "--compare",
        str(artifact),
        str(artifact),
        "--format",
        "gguf",
        "-p",
        "8",
        "-n",
        "4",
        "-r",
        "6",
    ]
    assert main([*words, "-t", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [test["test"] for test in document["tests"]] == ["pp8", "tg4"]
    assert all(
        test["found"]["low"] <= test["found"]["ratio"] <= test["found"]["high"] for test in document["tests"]
    )


def test_a_soak_is_told_and_kept(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", str(artifact), "--format", "gguf", "-p", "16", "-n", "4", "-t", "1", "--soak", "1s"]
    code = main(words)
    printed = capsys.readouterr()
    kept = read_manifest(artifact).soak["gguf"]
    assert f"verdict: {kept['judgement']['verdict']}" in printed.out
    assert (code == 0) is (kept["judgement"]["verdict"] == "passed")
    assert "answers that changed: 0" in printed.out
    assert kept["seconds"] >= 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bench"], "no artifact folder"),
        (["bench", "--soak", "1m", "--import", "x"], "no artifact folder"),
        (["bench", "x", "--soak", "1m", "--compare", "a", "b"], "two things"),
        (["bench", "x", "--soak-growth", "1MiB"], "goes with --soak"),
        (["bench", "x", "--soak", "1m", "-p", "1,2"], "not a list"),
        (["bench", "x", "--soak", "1m", "--memory", "1GB"], "--as and --memory goes without"),
        (["bench", "x", "-p", "1,2", "--refine", "me"], "--refine goes without lists"),
        (["bench", "x", "--json", "--output", "csv"], "one document"),
        (["bench", "x", "--import", "no-such-file"], "cannot be read"),
    ],
)
def test_what_does_not_go_together_is_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err
