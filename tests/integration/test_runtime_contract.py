"""What every runtime must do, run against every engine in the table: a new engine is tested by its line there.

Each container is written from one checkpoint by the exporter, and each session is opened in its engine's exact mode, so
that the numpy reference is an oracle for all of them. How far the shipped arithmetic is from it is measured by `eval`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from edgeport.errors import EdgeportError, RuntimeFailure, UsageError
from edgeport.runtimes.artifact import choose, load
from edgeport.runtimes.container import find_containers
from edgeport.runtimes.draft_model import Draft
from edgeport.runtimes.engines import ENGINES, open_session, unavailable_because
from edgeport.runtimes.generate import GenerationOptions, generate
from edgeport.runtimes.penalties import History
from edgeport.runtimes.sampling import GREEDY
from edgeport.runtimes.session import Session, SessionOptions
from edgeport.runtimes.speculative import write
from edgeport.runtimes.tokenizer import open_tokenizer

CONTEXT = 128
TOKENS = [int(token) for token in np.random.default_rng(11).integers(0, 512, CONTEXT + 1)]
CLOSE = {"atol": 1e-4, "rtol": 0}
Opener = Callable[..., Session]


@pytest.fixture(scope="module", params=["tiny_llama_dir", "tiny_qwen2_dir"])
def containers(request: pytest.FixtureRequest, packed: Callable[[str], Path]) -> Path:
    """A folder with one sub-folder per format, all from one INT4 checkpoint (INT8 embedding and head)."""
    return packed(request.param)


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> str:
    reason = unavailable_because(request.param)
    if reason is not None:
        pytest.skip(reason)
    return str(request.param)


@pytest.fixture
def opened(containers: Path, engine: str) -> Iterator[Opener]:
    """Opens sessions of one engine and closes them all."""
    sessions: list[Session] = []

    def open_one(*, exact: bool = True, context_length: int | None = CONTEXT) -> Session:
        options = SessionOptions(threads=1, context_length=context_length, exact=exact)
        sessions.append(open_session(engine, containers / engine, options))
        return sessions[-1]

    yield open_one
    for session in sessions:
        session.close()


def one_by_one(session: Session, tokens: list[int]) -> np.ndarray:
    return np.concatenate([session.feed([token]) for token in tokens])


def test_logits_equal_the_reference(opened: Opener, containers: Path) -> None:
    reference = open_session(
        "safetensors", containers / "safetensors", SessionOptions(context_length=CONTEXT)
    )
    expected = reference.feed(TOKENS[:60], all_logits=True)
    session = opened()
    assert (session.vocab_size, session.context_length, session.position) == (512, CONTEXT, 0)
    np.testing.assert_allclose(session.feed(TOKENS[:60], all_logits=True), expected, **CLOSE)


def test_one_piece_equals_token_by_token(opened: Opener) -> None:
    whole, single = opened().feed(TOKENS[:40], all_logits=True), one_by_one(opened(), TOKENS[:40])
    assert whole.shape == single.shape == (40, 512) and whole.dtype == np.float32
    np.testing.assert_allclose(whole, single, **CLOSE)


def test_uneven_pieces_equal_one_piece(opened: Opener) -> None:
    whole = opened().feed(TOKENS[:60], all_logits=True)
    session, begin = opened(), 0
    for size in (1, 7, 32, 20):
        begin += size
        logits = session.feed(TOKENS[begin - size : begin])
        assert logits.shape == (1, 512) and session.position == begin
        np.testing.assert_allclose(logits[0], whole[begin - 1], **CLOSE)


CHUNKS = {
    "gguf": "_BATCH_TOKENS",
    "onnx": "_CHUNK_TOKENS",
    "openvino": "_CHUNK_TOKENS",
    "safetensors": "_CHUNK_TOKENS",
}


@pytest.mark.parametrize("all_logits", [True, False])
def test_a_long_prompt_in_chunks_gives_the_same_logits(
    opened: Opener, engine: str, all_logits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = opened().feed(TOKENS[:60], all_logits=all_logits)
    module = ENGINES[engine].opener.partition(":")[0]
    monkeypatch.setattr(f"{module}.{CHUNKS[engine]}", 16)
    session = opened()
    np.testing.assert_allclose(session.feed(TOKENS[:60], all_logits=all_logits), whole, **CLOSE)
    assert session.position == 60


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "shipped"])
def test_rewind_then_feed_gives_the_same_logits(opened: Opener, exact: bool) -> None:
    session = opened(exact=exact)
    session.feed(TOKENS[:30])
    first = session.feed(TOKENS[30:45], all_logits=True)
    for position in (30, 0):
        session.rewind(position)
        assert session.position == position
        session.feed(TOKENS[:30]) if position == 0 else None
        np.testing.assert_array_equal(session.feed(TOKENS[30:45], all_logits=True), first)


def test_rewinding_forgets(opened: Opener) -> None:
    """The check above would pass if rewind did nothing and the cache did not matter; this one would not."""
    session = opened()
    session.feed(TOKENS[:20])
    session.rewind(10)
    other = session.feed(TOKENS[50:60])
    assert np.abs(other - opened().feed(TOKENS[50:60])).max() > 0.01, "what was kept must matter"
    np.testing.assert_allclose(other, opened().feed(TOKENS[:10] + TOKENS[50:60]), **CLOSE)


def test_rewinding_to_the_present_changes_nothing(opened: Opener) -> None:
    session, untouched = opened(), opened()
    session.feed(TOKENS[:10])
    untouched.feed(TOKENS[:10])
    session.rewind(10)
    np.testing.assert_array_equal(session.feed(TOKENS[10:12]), untouched.feed(TOKENS[10:12]))


def test_the_context_can_be_filled_and_not_exceeded(opened: Opener) -> None:
    session = opened()
    session.feed(TOKENS[:CONTEXT])
    with pytest.raises(RuntimeFailure, match=rf"1 more tokens after {CONTEXT} do not fit"):
        session.feed([1])
    with pytest.raises(RuntimeFailure, match="do not fit the session"):
        opened().feed(TOKENS)
    session.rewind(CONTEXT - 1)
    assert session.feed([TOKENS[CONTEXT - 1]]).shape == (1, 512)


@pytest.mark.parametrize("tokens", [[], [512], [-1], [3, 100_000]])
def test_what_cannot_be_fed_is_refused_and_changes_nothing(opened: Opener, tokens: list[int]) -> None:
    session = opened()
    session.feed([1, 2])
    with pytest.raises(UsageError):
        session.feed(tokens)
    assert session.position == 2


@pytest.mark.parametrize("position", [-1, 3])
def test_rewinding_beyond_what_is_there_is_refused(opened: Opener, position: int) -> None:
    session = opened()
    session.feed([1, 2])
    with pytest.raises(UsageError, match="cannot rewind"):
        session.rewind(position)


def test_logits_are_the_callers(opened: Opener) -> None:
    """A later call must not change what an earlier one returned."""
    session = opened()
    for all_logits in (False, True):
        first = session.feed([5, 6], all_logits=all_logits)
        kept = first.copy()
        session.feed([7, 8], all_logits=all_logits)
        np.testing.assert_array_equal(first, kept)


def test_two_sessions_do_not_disturb_each_other(opened: Opener) -> None:
    expected = one_by_one(opened(), TOKENS[:6])
    one, two = opened(), opened()
    for index in range(6):
        np.testing.assert_array_equal(one.feed([TOKENS[index]])[0], expected[index])
        two.feed([TOKENS[-1 - index]])


def test_two_sessions_in_two_threads(opened: Opener) -> None:
    """Both are fed at the same time, and neither sees the other."""
    texts = [TOKENS[:40], TOKENS[60:100]]
    alone = [one_by_one(opened(), text) for text in texts]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(one_by_one, [opened(), opened()], texts))
    np.testing.assert_array_equal(together, alone)


def test_sessions_of_different_models_in_two_threads(engine: str, packed: Callable[[str], Path]) -> None:
    folders = [packed(name) / engine for name in ("tiny_llama_dir", "tiny_qwen2_dir")]
    options = SessionOptions(threads=1, context_length=CONTEXT, exact=True)
    with (
        closing(open_session(engine, folders[0], options)) as llama,
        closing(open_session(engine, folders[1], options)) as qwen2,
    ):
        with ThreadPoolExecutor(2) as pool:
            together = list(pool.map(one_by_one, [llama, qwen2], [TOKENS[:30]] * 2))
        llama.rewind(0)
        np.testing.assert_array_equal(one_by_one(llama, TOKENS[:30]), together[0])
        qwen2.rewind(0)
        np.testing.assert_array_equal(one_by_one(qwen2, TOKENS[:30]), together[1])
        assert np.abs(together[0] - together[1]).max() > 0.1


def test_a_session_opens_and_closes_beside_a_running_one(opened: Opener) -> None:
    """A server loads and drops models while another answers."""
    expected = one_by_one(opened(), TOKENS[:60])
    running = opened()
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(one_by_one, running, TOKENS[:60])
        for _ in range(3):
            opened().close()
        np.testing.assert_array_equal(found.result(), expected)


def test_the_models_whole_context(opened: Opener, containers: Path) -> None:
    """To the last position, in uneven pieces, back to the middle and on: rotary angles, cache and mask at their ends."""
    tokens = (TOKENS * 2)[:256]
    reference = open_session("safetensors", containers / "safetensors", SessionOptions())
    expected = reference.feed(tokens, all_logits=True)
    session, begin = opened(context_length=256), 0
    for size in (200, 1, 40, 15):
        begin += size
        np.testing.assert_allclose(
            session.feed(tokens[begin - size : begin])[0], expected[begin - 1], **CLOSE
        )
    session.rewind(130)
    np.testing.assert_allclose(session.feed(tokens[130:], all_logits=True), expected[130:], **CLOSE)


def test_closing_twice_is_harmless_and_a_closed_session_says_so(opened: Opener) -> None:
    session = opened()
    session.feed([1])
    session.close()
    session.close()
    for use in (lambda: session.feed([1]), lambda: session.rewind(0)):
        with pytest.raises(RuntimeFailure, match="closed"):
            use()


def test_the_default_context_is_the_models(opened: Opener) -> None:
    assert opened(context_length=None).context_length == 256
    with pytest.raises(UsageError, match="1 to 256"):
        opened(context_length=257)


def test_greedy_text_equals_the_reference(opened: Opener, containers: Path, engine: str) -> None:
    def write(format_name: str, session: Session) -> tuple[list[int], str]:
        tokenizer = open_tokenizer(choose(find_containers(containers), format_name)[0])
        prompt = tokenizer.encode("def fibonacci(n: int) -> int:\n    # Größe 😀\n")
        options = GenerationOptions(max_tokens=40, ignore_stop_tokens=True)
        tokens = list(generate(session, tokenizer, prompt, options))
        return prompt + [token.id for token in tokens], "".join(token.text for token in tokens)

    reference = open_session(
        "safetensors", containers / "safetensors", SessionOptions(context_length=CONTEXT)
    )
    assert write(engine, opened()) == write("safetensors", reference)


class Counting:
    """A session that counts the tokens it was given."""

    def __init__(self, session: Session) -> None:
        self._session, self.fed_tokens = session, 0
        self.vocab_size, self.context_length = session.vocab_size, session.context_length
        self.rewind, self.close = session.rewind, session.close

    @property
    def position(self) -> int:
        return self._session.position

    def feed(self, tokens: Sequence[int], *, all_logits: bool = False) -> np.ndarray:
        self.fed_tokens += len(tokens)
        return self._session.feed(tokens, all_logits=all_logits)


def test_a_text_that_is_cancelled_computes_nothing_more(
    opened: Opener, containers: Path, engine: str
) -> None:
    session = Counting(opened())
    tokenizer = open_tokenizer(choose(find_containers(containers), engine)[0])
    prompt = tokenizer.encode("class Shape:\n")
    options = GenerationOptions(max_tokens=30, ignore_stop_tokens=True)
    whole = [token.id for token in generate(session, tokenizer, prompt, options)]
    session.rewind(0)
    stream = generate(session, tokenizer, prompt, options)
    begun = [next(stream).id for _ in range(3)]
    fed_tokens = session.fed_tokens
    stream.close()
    assert list(stream) == [] and session.fed_tokens == fed_tokens
    assert session.position == len(prompt) + 2, "a token is fed when the one after it is asked for"
    session.rewind(0)
    assert [token.id for token in generate(session, tokenizer, prompt, options)] == whole
    assert whole[:3] == begun


def test_an_empty_prompt_is_refused_and_the_session_stays_usable(
    opened: Opener, containers: Path, engine: str
) -> None:
    session = opened()
    tokenizer = open_tokenizer(choose(find_containers(containers), engine)[0])
    with pytest.raises(UsageError):
        list(generate(session, tokenizer, [], GenerationOptions(max_tokens=3)))
    assert session.position == 0
    assert session.feed([1]).shape == (1, 512)


class Distorted:
    """A session whose logits are a little off: a draft that is right now and then."""

    def __init__(self, session: Session, noise: float) -> None:
        self._session, self._noise = session, noise
        self.vocab_size, self.context_length = session.vocab_size, session.context_length
        self.rewind, self.close = session.rewind, session.close

    @property
    def position(self) -> int:
        return self._session.position

    def feed(self, tokens: Sequence[int], *, all_logits: bool = False) -> np.ndarray:
        logits = self._session.feed(tokens, all_logits=all_logits)
        generator = np.random.default_rng(self.position)
        return logits + generator.normal(scale=self._noise, size=logits.shape).astype(np.float32)


@pytest.mark.parametrize("noise", [0.0, 1.5], ids=["equal", "near"])
def test_a_draft_leaves_greedy_text_as_it_is(opened: Opener, noise: float) -> None:
    """Several tokens judged in one call, then a rewind: in every engine the same text as one by one."""
    alone, target, draft = opened(), opened(), Distorted(opened(), noise)
    expected = [int(alone.feed(TOKENS[:20])[-1].argmax())]
    while len(expected) < 50:
        expected.append(int(alone.feed(expected[-1:])[-1].argmax()))
    helper = Draft(draft, target)
    choices = write(target, History(TOKENS[:20]), GREEDY, 50, proposer=helper)
    assert [token for token, _ in choices] == expected
    assert target.position == alone.position
    found = helper.acceptance()
    assert found.rate == 1 if noise == 0 else 0.05 < found.rate < 0.95


OPENED_FILE = {
    "gguf": "*.gguf",
    "onnx": "model.onnx",
    "openvino": "openvino_model.xml",
    "safetensors": "model.safetensors",
}


@pytest.mark.parametrize("containers", ["tiny_llama_dir"], indirect=True)
def test_a_damaged_file_is_an_error_and_not_a_crash(containers: Path, engine: str, tmp_path: Path) -> None:
    """Opened in a child first; tests/integration/test_damaged_files.py has many kinds and places of damage."""
    folder = Path(shutil.copytree(containers / engine, tmp_path / engine))
    load(folder, options=SessionOptions(threads=1)).close()
    file = next(folder.glob(OPENED_FILE[engine]))
    content = file.read_bytes()
    for damage in (content[: len(content) // 2], b"", b"this is not a model\n" * 50):
        file.write_bytes(damage)
        with pytest.raises(EdgeportError) as caught:
            load(folder)
        assert file.name in str(caught.value), "the error must name the file"


def test_a_missing_file_is_named(engine: str, tmp_path: Path) -> None:
    with pytest.raises(EdgeportError, match=str(tmp_path)):
        open_session(engine, tmp_path, SessionOptions())


def test_engines_leave_the_processors_arithmetic_alone(opened: Opener) -> None:
    """An engine that flushes denormals to zero does it to the calling thread, and numpy's results change with it."""
    opened(exact=False).feed(TOKENS[:4])
    halves = np.full(64, 2.0**-140, np.float32) * np.float32(0.5)
    # Bits, because a comparison would read a denormal as zero too.
    assert (halves.view(np.uint32) == 1 << 8).all()
