"""What every runtime must do, run against every engine in the table: a new engine is tested by its line there.

Each container is written from one checkpoint by the exporter, and each session is opened in its engine's exact mode, so
that the numpy reference is an oracle for all of them. How far the shipped arithmetic is from it is measured by `eval`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeport.errors import EdgeportError, RuntimeFailure, UsageError
from edgeport.runtimes.artifact import choose
from edgeport.runtimes.container import find_containers
from edgeport.runtimes.draft_model import Draft
from edgeport.runtimes.engines import ENGINES, open_session, unavailable_because
from edgeport.runtimes.generate import GenerationOptions, generate
from edgeport.runtimes.isolation import run_isolated
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
def containers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one sub-folder per format, all from one INT4 checkpoint (INT8 embedding and head)."""
    from edgeport.export.checkpoint import Checkpoint
    from edgeport.export.formats.base import WriteOptions
    from edgeport.export.formats.table import get_format
    from edgeport.export.quantize.run import quantize
    from edgeport.export.recipe import load_recipe
    from edgeport.export.source import open_source
    from edgeport.progress import Progress

    folder = tmp_path_factory.mktemp("containers")
    checkpoint, progress = folder / "work" / "checkpoint", Progress()
    checkpoint.mkdir(parents=True)
    source = open_source(str(request.getfixturevalue(request.param)))
    quantize(source, replace(load_recipe("int4"), solver="rtn"), checkpoint, threads=2, progress=progress)
    for name in ENGINES:
        (folder / "packed" / name).mkdir(parents=True)
        written = Checkpoint(checkpoint, source.spec)
        get_format(name).write(written, folder / "packed" / name, WriteOptions("tiny", CONTEXT, progress))
    return folder / "packed"


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


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "foreign": lambda content: b"this is not a model\n" * 50,
}
OPENED_FILE = {
    "gguf": "*.gguf",
    "onnx": "model.onnx",
    "openvino": "openvino_model.xml",
    "safetensors": "model.safetensors",
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_file_is_an_error_and_not_a_crash(
    containers: Path, engine: str, damage: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(containers / engine, tmp_path / engine)
    file = next(folder.glob(OPENED_FILE[engine]))
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    with pytest.raises(EdgeportError) as caught:
        run_isolated(
            f"{__name__}:open_in_child", {"format_name": engine, "folder": str(folder)}, timeout_s=60
        )
    assert file.name in str(caught.value), "the error must name the file"


def open_in_child(format_name: str, folder: str) -> None:
    open_session(format_name, Path(folder), SessionOptions()).close()


def test_a_missing_file_is_named(engine: str, tmp_path: Path) -> None:
    with pytest.raises(EdgeportError, match=str(tmp_path)):
        open_session(engine, tmp_path, SessionOptions())


def test_engines_leave_the_processors_arithmetic_alone(opened: Opener) -> None:
    """An engine that flushes denormals to zero does it to the calling thread, and numpy's results change with it."""
    opened(exact=False).feed(TOKENS[:4])
    halves = np.full(64, 2.0**-140, np.float32) * np.float32(0.5)
    # Bits, because a comparison would read a denormal as zero too.
    assert (halves.view(np.uint32) == 1 << 8).all()
