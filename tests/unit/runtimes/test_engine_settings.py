"""Settings: what each engine understands, what is refused, and that they arrive in the engines."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgeport.errors import UsageError
from edgeport.runtimes.engine_settings import (
    ENGINE_FIELDS,
    EngineSettings,
    check_settings,
    parse_settings,
    settings_from,
)
from edgeport.runtimes.engines import ENGINES, open_session, unavailable_because
from edgeport.runtimes.session import Session, SessionOptions

TOKENS = [int(token) for token in np.random.default_rng(3).integers(0, 256, 1800)]


def opened(folder: Path, engine: str, words: str, **options: object) -> Session:
    reason = unavailable_because(engine)
    if reason is not None:
        pytest.skip(reason)
    settings = parse_settings(words.split())
    return open_session(engine, folder, SessionOptions(settings=settings, **options))  # type: ignore[arg-type]


def test_every_engine_says_what_it_has_and_every_field_is_somebodys() -> None:
    assert set(ENGINE_FIELDS) == set(ENGINES)
    assert frozenset().union(*ENGINE_FIELDS.values()) == set(EngineSettings.__slots__)


@pytest.mark.parametrize(
    ("words", "engine", "match"),
    [
        ("spinning=off", "openvino", "spinning is not a setting of openvino"),
        ("value_cache=q8_0 flash_attention=off", "gguf", "needs flash attention"),
        ("key_cache=u8", "gguf", "key_cache is 'u8'"),
        ("key_cache=q8_0", "openvino", "key_cache is 'q8_0'"),
        ("inference_precision=fp16", "openvino", "inference_precision is 'fp16'"),
        ("threads=0", "onnx", "threads is 0"),
        ("threads=2", "safetensors", "threads is not a setting"),
    ],
)
def test_what_an_engine_cannot_do_is_refused(words: str, engine: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        check_settings(parse_settings(words.split()), engine)


@pytest.mark.parametrize(
    ("words", "match"),
    [("thread=2", "no setting is called"), ("threads=two", "threads is 'two'"), ("spinning", "name=value")],
)
def test_words_nobody_understands_are_refused(words: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        parse_settings(words.split())


def test_settings_survive_being_written() -> None:
    settings = parse_settings(["threads=2", "flash_attention=on", "key_cache=q8_0"])
    assert settings_from(settings.chosen()) == settings
    assert str(settings) == "threads=2, key_cache=q8_0, flash_attention=on"
    assert str(EngineSettings()) == "defaults"


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ("gguf", "key_cache=bf16 value_cache=bf16 flash_attention=on"),
        ("openvino", "key_cache=u4 value_cache=u4 dynamic_quantization_group=64 inference_precision=bf16"),
    ],
)
def test_arithmetic_arrives_in_the_engine_and_not_in_an_exact_session(
    packed_dir: Path, engine: str, words: str
) -> None:
    def logits(words: str, *, exact: bool) -> np.ndarray:
        session = opened(packed_dir / engine, engine, words, threads=1, exact=exact)
        found = session.feed(TOKENS[:60], all_logits=True)
        session.close()
        return found

    assert np.abs(logits(words, exact=False) - logits("", exact=False)).max() > 1e-3
    np.testing.assert_array_equal(logits(words, exact=True), logits("", exact=True))


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ("gguf", "threads=2 prompt_threads=1 spinning=off memory_map=on prompt_chunk_tokens=16"),
        ("gguf", "repack=off full_window_cache=on lock_memory=on"),
        ("onnx", "threads=2 spinning=off prompt_chunk_tokens=16"),
        ("openvino", "threads=2 pin_threads=off memory_map=off prompt_chunk_tokens=16"),
    ],
)
def test_other_settings_leave_the_logits_alone(packed_dir: Path, engine: str, words: str) -> None:
    plain, session = (opened(packed_dir / engine, engine, text, exact=True) for text in ("", words))
    for feed in (TOKENS[:60], TOKENS[60:61]):
        np.testing.assert_allclose(session.feed(feed), plain.feed(feed), atol=1e-4, rtol=0)


def test_what_llama_cpp_was_told(packed_dir: Path) -> None:
    """Its own log: the mapped file, the cache's types, and how it allocates a cache it does not keep for sliding layers."""
    from edgeport.runtimes import llama_library

    session = opened(packed_dir / "gguf", "gguf", "memory_map=on key_cache=bf16 value_cache=bf16")
    log = "\n".join(llama_library._log)
    session.close()
    assert "load_mode = mmap" in log and "K (bf16)" in log and "V (bf16)" in log


@pytest.fixture(scope="module")
def sliding_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny gemma3 with a window of 700 tokens, as the tests of the memory estimate write it."""
    pytest.importorskip("gguf")
    file = Path(__file__).parents[1] / "devices" / "test_memory_llama_cpp.py"
    specification = importlib.util.spec_from_file_location("memory_models", file)
    assert specification is not None and specification.loader is not None
    module: ModuleType = importlib.util.module_from_spec(specification)
    sys.modules["memory_models"] = module
    specification.loader.exec_module(module)
    path: Path = module.write_model(tmp_path_factory.mktemp("sliding") / "gemma3.gguf", "gemma3")
    return path


@pytest.mark.parametrize("position", [0, 100, 900, 1500, 1790])
def test_a_rewind_behind_the_window_is_correct(sliding_model: Path, position: int) -> None:
    """What a sliding layer has dropped is fed again; 1500 and 1790 are within the window that is kept."""
    session = opened(sliding_model, "gguf", "", threads=1, context_length=2048)
    session.feed(TOKENS)
    session.rewind(position)
    fresh = opened(sliding_model, "gguf", "", threads=1, context_length=2048)
    if position:
        fresh.feed(TOKENS[:position])
    for token in (7, 8, 9):
        assert session.position == fresh.position
        np.testing.assert_allclose(session.feed([token]), fresh.feed([token]), atol=1e-4, rtol=0)


def test_a_window_is_kept_instead_of_the_whole_context(sliding_model: Path) -> None:
    from edgeport.runtimes import llama_library

    def cells(words: str) -> list[str]:
        session = opened(sliding_model, "gguf", words, threads=1, context_length=4096)
        session.close()
        return [line for line in llama_library._log if "llama_kv_cache: size" in line]

    assert cells("") != cells("full_window_cache=on")
