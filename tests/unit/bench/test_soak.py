"""A soak of a real engine, and each of its checks saying no: faults are planted around the real session."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeport.errors import UsageError
from edgeport.manifest import from_json, read_manifest, to_json
from edgeport.runtimes.bench.soak_judge import SoakLimits, growth, judge
from edgeport.runtimes.bench.soak_loop import SoakPass, soak_passes, soak_prompts
from edgeport.runtimes.bench.soak_run import SoakOptions, SoakReport, run_soak
from edgeport.runtimes.engines import open_session
from edgeport.runtimes.session import Logits, Session, SessionOptions

MIB = 2**20
FAULTS = "tests.unit.bench.test_soak:"
"""What a child process imports this module as; the tests run from the repository's root."""
PATIENT = SoakLimits(drift=1e9)
"""The machine of a test is busy: real times are not judged, planted ones are."""


@pytest.fixture(autouse=True)
def small_heap() -> Iterator[None]:
    """The loop collects garbage after each pass, for which the objects of all other tests need not be walked through."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Faulty:
    """A real session with one thing wrong, from the 196th call on or from the start."""

    def __init__(self, session: Session, fault: str) -> None:
        self._session, self._fault = session, fault
        self._calls, self._leak = 0, list[Any]()
        self.vocab_size, self.context_length = session.vocab_size, session.context_length

    @property
    def position(self) -> int:
        return self._session.position

    def feed(self, tokens: Sequence[int], *, all_logits: bool = False) -> Logits:
        self._calls += 1
        logits = self._session.feed(tokens, all_logits=all_logits)
        late = self._calls >= 196
        if self._fault == "leak":
            self._leak.append(np.ones(256 << 10, np.uint8))
        if self._fault == "wrong" and late:
            logits = -logits
        if self._fault == "infinite" and late:
            logits = logits.copy()
            logits[-1, 0] = -np.inf
        if self._fault == "slow":
            time.sleep(0.002 if self._calls >= 196 else 0.0005)
        if self._fault == "crash" and late:
            os.abort()
        return logits

    def rewind(self, position: int) -> None:
        self._session.rewind(position)

    def close(self) -> None:
        self._session.close()


def faulty_passes(format_name: str, path: str, *, n_prompt: int, n_gen: int, threads: int) -> Iterator[Any]:
    """In the child; the fault is named by the environment."""
    session = open_session(
        format_name, Path(path), SessionOptions(threads=threads, context_length=n_prompt + n_gen)
    )
    wrapped = Faulty(session, os.environ["EDGEPORT_TEST_FAULT"])
    for item in soak_passes(wrapped, soak_prompts(n_prompt, session.vocab_size), n_gen):
        yield to_json(item)


def soaked(directory: Path, fault: str | None = None, *, count: int = 60) -> list[SoakPass]:
    """`count` passes of eight tokens in this process."""
    entry = read_manifest(directory).container("gguf")
    session = open_session(
        "gguf", directory / entry.entry_point, SessionOptions(threads=1, context_length=40)
    )
    wrapped = Faulty(session, fault) if fault else session
    try:
        return list(itertools.islice(soak_passes(wrapped, soak_prompts(32, session.vocab_size), 8), count))
    finally:
        session.close()


def test_a_healthy_engine_passes(packed_dir: Path) -> None:
    passes = soaked(packed_dir)
    found = judge(passes, PATIENT)
    assert (found.verdict, found.violations, found.wrong_outputs) == ("passed", (), ())
    assert found.anonymous is not None
    assert found.drift_p50 is not None
    assert [item.prompt for item in passes[:4]] == [0, 1, 2, 0]
    assert all(len(item.tokens) == 8 and item.p95_ms >= item.p50_ms > 0 for item in passes)
    assert len({item.tokens for item in passes}) <= 3


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("leak", "anonymous memory grows by"),
        ("wrong", "answers differ from the first to the same prompt"),
        ("infinite", "logits that are not finite"),
        ("slow", "p50 of a token went from"),
    ],
)
def test_a_planted_fault_is_found_and_named(packed_dir: Path, fault: str, said: str) -> None:
    limits = SoakLimits() if fault == "slow" else PATIENT
    found = judge(soaked(packed_dir, fault), limits)
    assert found.verdict == "failed"
    assert any(said in line for line in found.violations), found.violations
    if fault == "wrong":
        assert found.wrong_outputs[0].pass_index == 24, "the 196th call is in the 25th pass of eight"
        assert found.wrong_outputs[0].first_different_token == 3
    if fault == "leak":
        assert not [line for line in found.violations if "differ" in line]


def synthetic(
    count: int = 200, *, leak: float = 0.0, step: float = 0.0, slower: float = 1.0
) -> list[SoakPass]:
    """A pass a second; memory with noise, a steady leak and one step; times with noise, slower in the second half."""
    generator = random.Random(1)
    return [
        SoakPass(
            prompt=index % 3,
            seconds=float(index + 1),
            first_token_ms=10.0,
            p50_ms=generator.gauss(1.0, 0.05) * (slower if index > count / 2 else 1.0),
            p95_ms=generator.gauss(1.5, 0.1) * (slower if index > count / 2 else 1.0),
            tokens=(index % 3, 2),
            is_finite=True,
            resident_bytes=None,
            anonymous_bytes=round(
                100 * MIB
                + generator.gauss(0, MIB / 4)
                + leak / 3600 * index
                + (step if index > count / 3 else 0.0)
            ),
        )
        for index in range(count)
    ]


def test_growth_is_measured_and_a_single_step_is_no_leak() -> None:
    leaking = judge(synthetic(leak=200 * MIB), SoakLimits())
    assert leaking.anonymous is not None
    assert leaking.anonymous.bytes_per_hour == pytest.approx(200 * MIB, rel=0.1)
    assert leaking.verdict == "failed"
    assert judge(synthetic(step=64.0 * MIB), SoakLimits()).verdict == "passed"
    assert judge(synthetic(leak=20 * MIB), SoakLimits()).verdict == "passed", "below the limit"
    strict = SoakLimits(growth_bytes_per_hour=5 * MIB)
    assert judge(synthetic(900, leak=20 * MIB), strict).verdict == "failed"


def test_the_interval_of_growth_holds_the_truth_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(60):
        generator = random.Random(seed)
        sizes = [100 * MIB + at * MIB / 3600 + generator.gauss(0, MIB) for at in range(48 * 3)]
        found = growth([float(at) for at in range(48 * 3)], sizes)
        covered += found.low_bytes_per_hour <= MIB <= found.high_bytes_per_hour
    assert 53 <= covered <= 60


def test_growth_agrees_with_a_straight_line() -> None:
    seconds = [float(index) for index in range(60)]
    sizes = [1e6 + 1000 * at for at in seconds]
    found = growth(seconds, sizes)
    assert found.bytes_per_hour == pytest.approx(np.polyfit(seconds, sizes, 1)[0] * 3600)
    assert found.low_bytes_per_hour == pytest.approx(found.high_bytes_per_hour)


def test_drift_says_no_to_what_is_certainly_slower_and_not_to_noise() -> None:
    assert judge(synthetic(), SoakLimits()).verdict == "passed"
    slower = judge(synthetic(slower=1.5), SoakLimits())
    assert slower.drift_p95 is not None
    assert slower.drift_p95.low < 1.5 < slower.drift_p95.high
    assert [line.split()[0] for line in slower.violations] == ["p50", "p95"]
    assert judge(synthetic(slower=1.5), SoakLimits(drift=1.8)).verdict == "passed"


def test_a_few_passes_are_too_short_and_not_passed() -> None:
    assert judge(synthetic(12), SoakLimits()).verdict == "too short"
    assert judge([], SoakLimits()).verdict == "too short"
    assert judge([], SoakLimits(), fault="killed").verdict == "failed"


def short(fault: str | None = None, seconds: float = 600.0) -> SoakOptions:
    options = SoakOptions(seconds, format="gguf", n_prompt=32, n_gen=8, threads=1, limits=PATIENT)
    return dataclasses.replace(options, target=FAULTS + "faulty_passes") if fault else options


def test_a_soak_runs_for_its_time_in_a_process_of_its_own(packed_dir: Path) -> None:
    report = run_soak(packed_dir, short(seconds=1.5))
    assert report.fault is None
    assert 1.5 <= report.seconds < 30
    assert report.tokens == 8 * report.passes
    assert report.judgement.verdict in ("passed", "too short")
    assert from_json(SoakReport, to_json(report)) == report


def test_an_engine_that_dies_is_reported_with_what_was_seen(
    packed_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPORT_TEST_FAULT", "crash")
    report = run_soak(packed_dir, short("crash"))
    assert report.fault is not None
    assert "SIGABRT" in report.fault
    assert report.passes == 24
    assert report.judgement.verdict == "failed"
    assert not report.interrupted


def test_ctrl_c_reports_what_was_seen(packed_dir: Path) -> None:
    command = [sys.executable, "-m", "tests.unit.bench.interrupted_soak", str(packed_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    report = from_json(SoakReport, json.loads(done.stdout))
    assert report.interrupted and report.passes == 3
    assert report.fault is None
    assert report.seconds < 60


def test_a_soak_that_cannot_fit_is_refused(packed_dir: Path) -> None:
    with pytest.raises(UsageError, match="do not fit the model's context of 256"):
        run_soak(packed_dir, SoakOptions(1.0, n_prompt=250, n_gen=8))
    with pytest.raises(UsageError, match="two tokens at least"):
        SoakOptions(1.0, n_gen=1)
