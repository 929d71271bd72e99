"""One pass over a session: what is timed at which depth, with a session and a clock that count."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from edgeport.errors import UsageError
from edgeport.runtimes.bench.compute import ROWS, float32_rate, int8_rate, integer_graph, measure_compute
from edgeport.runtimes.bench.kernel_probe import KernelTimes, ProbeSteps, TimedPrompt, time_session
from edgeport.runtimes.session import Logits


class CountingSession:
    """Time advances by one for each token fed and by its depth."""

    vocab_size = 100

    def __init__(self, context_length: int) -> None:
        self.context_length = context_length
        self.position = 0
        self.now = 0
        self.rewinds: list[int] = []

    def feed(self, tokens: Sequence[int], *, all_logits: bool = False) -> Logits:
        assert all(0 <= token < self.vocab_size for token in tokens)
        for _ in tokens:
            self.now += 1000 + self.position
            self.position += 1
        assert self.position <= self.context_length
        return np.zeros((1, self.vocab_size), np.float32)

    def rewind(self, position: int) -> None:
        self.rewinds.append(position)
        self.position = position

    def close(self) -> None: ...


def timed(steps: ProbeSteps) -> tuple[KernelTimes, CountingSession]:
    session = CountingSession(steps.context_length)
    return time_session(session, steps, clock=lambda: session.now), session


def test_depths_are_where_the_tokens_were() -> None:
    times, session = timed(ProbeSteps(decode_tokens=2, prompt_tokens=4, prompts=2, repetitions=3))
    shallow, deep = times.decode
    assert (shallow.depth, deep.depth) == (0, 10)
    assert shallow.token_ns == ((1000, 1001),) * 3 and deep.token_ns == ((1010, 1011),) * 3
    first, second = (sum(1000 + at for at in range(begin, begin + 4)) for begin in (2, 6))
    assert times.prompts == (TimedPrompt(2, 4, (first,) * 3), TimedPrompt(6, 4, (second,) * 3))
    assert session.rewinds == [0] * 4, "the warm-up and three passes, nothing rewound within one"
    assert session.position == session.context_length


def test_steps_that_measure_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        ProbeSteps(prompts=0)


def test_the_integer_graph_multiplies() -> None:
    """Its bytes are what the onnx package reads, and ones times ones are sums."""
    import onnx
    import onnxruntime

    graph = integer_graph(64, 32)
    onnx.checker.check_model(onnx.load_model_from_string(graph), full_check=True)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (product,) = session.run(None, {"x": np.full((3, 64), 7, np.uint8)})
    assert product.shape == (3, 32) and product.dtype == np.int32 and (product == 7 * 64).all()


def test_rates_are_plausible_and_bounded_by_time() -> None:
    for rate in (float32_rate(1, 0.02), int8_rate(1, 0.02)):
        assert 10**8 < rate < 10**15
    assert ROWS > 1


def test_what_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    rates = measure_compute(1, seconds=0.01)
    assert rates.float32_flops_per_s is None and rates.int8_ops_per_s is None
    assert rates.missing == (
        "float rate: numpy is not installed", "integer rate: onnxruntime is not installed",
    )  # fmt: skip
