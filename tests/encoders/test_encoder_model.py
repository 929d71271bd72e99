"""`load` on an encoder: vectors as the model was made for, labels with scores, and clear words for what it cannot."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoder_twins import add_sentence_files, pack, transformers_answers, write, write_twin
from tokenizers import Tokenizer

from edgeport.errors import ArtifactError, RuntimeFailure, UnsupportedModel, UsageError
from edgeport.runtimes import EmbeddingOptions, EncoderModel, Model, SessionOptions, load
from edgeport.runtimes.classification import classify_logits, scores_of
from edgeport.runtimes.container import Container
from edgeport.runtimes.encoder_container import is_encoder
from edgeport.runtimes.engines import open_session
from edgeport.runtimes.pooling import normalize, pool

Twins = Callable[..., Path]
TEXTS = ["The quick brown fox jumps over the lazy dog.", "no", "What time is it in the morning?"]
OPTIONS = SessionOptions(threads=1, exact=True)  # OpenVINO computes in bfloat16 by default
FORMATS = ("onnx", "openvino", "gguf")


@pytest.fixture(scope="module")
def sentence_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers folder whose tokenizer.json cuts and pads, as theirs do."""
    folder = write_twin("bert", tmp_path_factory.mktemp("sentence") / "model")
    add_sentence_files(folder, "cls", normalize=True, max_length=40)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def containers(sentence_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sub-folders onnx, openvino, gguf in float32, without a manifest."""
    root = tmp_path_factory.mktemp("containers")
    _, encoder = pack(sentence_model, "f32", root / "checkpoint")
    for name in FORMATS:
        write(encoder, name, root / name)
    return root


@pytest.fixture(params=FORMATS)
def model(request: pytest.FixtureRequest, containers: Path) -> Iterator[EncoderModel]:
    opened = load(containers / request.param, options=OPTIONS)
    assert isinstance(opened, EncoderModel)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def expected(sentence_model: Path) -> np.ndarray:
    """Vectors by transformers, pooled as the folder says."""
    tokenizer = Tokenizer.from_file(str(sentence_model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    ids = [item.ids for item in tokenizer.encode_batch(TEXTS)]
    states, _ = transformers_answers(sentence_model, ids)
    return normalize(np.stack([pool(rows, "cls") for rows in states]))


def test_vectors_are_pooled_as_the_model_was_made(model: EncoderModel, expected: np.ndarray) -> None:
    found = model.embed(TEXTS)
    assert found.truncated == () and model.context_length == 40
    np.testing.assert_allclose(found.vectors, expected, atol=2e-3 if model.format == "gguf" else 1e-4)
    assert (model.settings.pooling, model.settings.normalize) == ("cls", True)


def test_other_pooling_can_be_asked_for(model: EncoderModel) -> None:
    mean = model.embed(TEXTS, EmbeddingOptions("mean", normalize=False)).vectors
    assert np.abs(mean - model.embed(TEXTS).vectors).max() > 0.01
    assert model.embed([]).vectors.shape == (0, 64)


def test_a_long_text_is_an_error_or_told(model: EncoderModel) -> None:
    """tokenizer.json would cut it at 16 without a word."""
    long = " ".join(TEXTS[0] for _ in range(6))
    with pytest.raises(RuntimeFailure, match="40"):
        model.embed(["no", long])
    found = model.embed(["no", long], EmbeddingOptions("cls", truncate=True))
    assert found.truncated == (1,) and found.token_counts[1] > 40
    assert np.isfinite(found.vectors).all()


def test_what_an_encoder_is_not(model: EncoderModel) -> None:
    for call in (model.stream, model.generate, model.chat, model.stream_chat, model.score):
        with pytest.raises(UsageError, match="encoder"):
            call("text")
    with pytest.raises(UsageError, match="sequence-classification"):
        model.classify(TEXTS)
    with pytest.raises(UsageError, match="token-classification"):
        model.classify_tokens(TEXTS)
    with pytest.raises(UsageError, match="list"):
        model.embed("text")


@pytest.mark.parametrize("format_name", FORMATS)
def test_an_encoder_is_no_session(format_name: str, containers: Path) -> None:
    """llama.cpp would end the process."""
    with pytest.raises(UsageError, match="holds an encoder"):
        open_session(format_name, containers / format_name, OPTIONS)


def test_a_closed_model(containers: Path) -> None:
    with load(containers / "onnx", options=OPTIONS) as model:
        pass
    model.close()
    with pytest.raises(RuntimeFailure, match="closed"):
        model.embed(["text"])


def test_the_context_is_the_models_own_longest_text(containers: Path) -> None:
    with load(containers / "onnx", options=SessionOptions(context_length=9)) as model:
        assert model.context_length == 9
    with pytest.raises(UsageError, match="40"):
        load(containers / "onnx", options=SessionOptions(context_length=41))


def test_a_bare_gguf_file_says_itself_how_it_pools(containers: Path, tmp_path: Path) -> None:
    file = next((containers / "gguf").glob("*.gguf"))
    shutil.copyfile(file, tmp_path / "alone.gguf")
    assert is_encoder(Container("gguf", tmp_path / "alone.gguf"))
    with load(tmp_path / "alone.gguf", options=OPTIONS) as model:
        assert isinstance(model, EncoderModel)
        assert (model.settings.pooling, model.settings.origin) == ("cls", "the GGUF file")
        assert model.embed(TEXTS).vectors.shape == (3, 64)


def test_a_cut_gguf_file_does_not_end_this_process(containers: Path, tmp_path: Path) -> None:
    file = next((containers / "gguf").glob("*.gguf"))
    (tmp_path / "cut.gguf").write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    with pytest.raises(ArtifactError):
        load(tmp_path / "cut.gguf", options=OPTIONS)


def test_a_decoder_is_still_a_decoder(packed_decoder: Path) -> None:
    with load(packed_decoder / "onnx", options=OPTIONS) as model:
        assert isinstance(model, Model)


@pytest.fixture(scope="module")
def packed_decoder(tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from edgeport.export.checkpoint import Checkpoint
    from edgeport.export.formats.base import WriteOptions
    from edgeport.export.formats.table import get_format
    from edgeport.export.quantize.run import quantize
    from edgeport.export.recipe import load_recipe
    from edgeport.export.source import open_source
    from edgeport.progress import NO_PROGRESS

    root = tmp_path_factory.mktemp("decoder")
    source = open_source(str(tiny_llama_dir))
    (root / "checkpoint").mkdir()
    (root / "onnx").mkdir()
    quantize(source, load_recipe("bf16"), root / "checkpoint", threads=1, progress=NO_PROGRESS)
    checkpoint = Checkpoint(root / "checkpoint", source.spec)
    get_format("onnx").write(checkpoint, root / "onnx", WriteOptions("tiny", 64, NO_PROGRESS))
    return root


@pytest.mark.parametrize("format_name", FORMATS)
def test_labels_of_texts(format_name: str, twin: Twins, tmp_path: Path) -> None:
    folder = twin("roberta", "ForSequenceClassification")
    _, encoder = pack(folder, "f32", tmp_path / "checkpoint")
    with load(write(encoder, format_name, tmp_path / format_name), options=OPTIONS) as model:
        assert isinstance(model, EncoderModel)
        found = model.classify(TEXTS)
        assert model.embed(TEXTS).vectors.shape == (3, 64)
        with pytest.raises(UsageError, match="this one is for sequence-classification"):
            model.classify_tokens(TEXTS)
        with pytest.raises(RuntimeFailure, match="text 1"):
            model.classify(["no", TEXTS[0] * 40])
        assert len(model.classify([TEXTS[0] * 40], truncate=True)) == 1
    pipeline = _pipeline("text-classification", folder, top_k=None)
    for one, rows in zip(found, pipeline(TEXTS), strict=True):
        want = {row["label"]: row["score"] for row in rows}
        assert one.label == max(want, key=lambda name: want[name])
        assert one.score == pytest.approx(want[one.label], abs=2e-3)
        assert one.scores == pytest.approx(want, abs=2e-3)


@pytest.mark.parametrize("format_name", ["onnx", "openvino"])
def test_labels_of_tokens_with_their_characters(format_name: str, twin: Twins, tmp_path: Path) -> None:
    folder = twin("bert", "ForTokenClassification")
    _, encoder = pack(folder, "f32", tmp_path / "checkpoint")
    text = "Größe  and the lazy dog, 3.14!"
    with load(write(encoder, format_name, tmp_path / format_name), options=OPTIONS) as model:
        assert isinstance(model, EncoderModel)
        found = model.classify_tokens([text, "no"])
    assert len(found) == 2 and all(found)
    for item in found[0]:
        assert text[item.begin : item.end] == item.text and item.text.strip() == item.text
    pipeline = _pipeline("token-classification", folder, aggregation_strategy="none", ignore_labels=[])
    want = pipeline(text)
    assert [item.label for item in found[0]] == [row["entity"] for row in want]
    assert [(item.begin, item.end) for item in found[0]] == [(row["start"], row["end"]) for row in want]
    for item, row in zip(found[0], want, strict=True):
        assert item.score == pytest.approx(float(row["score"]), abs=1e-3)


def _pipeline(task: str, folder: Path, **options: Any) -> Any:
    import torch
    import transformers

    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    kind: Any = getattr(transformers, json.loads((folder / "config.json").read_text())["architectures"][0])
    network = kind.from_pretrained(folder, dtype=torch.float32).eval()
    return transformers.pipeline(task, model=network, tokenizer=tokenizer, device="cpu", **options)


def test_scores_are_those_of_transformers_pipelines() -> None:
    logits = np.array([1.0, -1.0, 0.5], np.float32)
    assert scores_of(logits, None).sum() == pytest.approx(1)
    several = scores_of(logits, "multi_label_classification")
    np.testing.assert_allclose(several, 1 / (1 + np.exp(-logits)), rtol=1e-6)
    assert scores_of(logits[:1], None)[0] == pytest.approx(0.7310586)
    assert scores_of(logits[:1], "regression")[0] == 1.0
    assert np.isfinite(scores_of(np.array([1e4, -1e4], np.float32), "multi_label_classification")).all()
    found = classify_logits(logits, ("a", "b", "c"), None)
    assert found.label == "a" and list(found.scores) == ["a", "b", "c"]
    with pytest.raises(ArtifactError, match="2 labels"):
        classify_logits(logits, ("a", "b"), None)


def test_texts_are_lower_cased_where_the_model_says_so(sentence_model: Path, tmp_path: Path) -> None:
    folder = write_twin("distilbert", tmp_path / "cased")  # its tokenizer keeps capitals
    _, plain = pack(folder, "f32", tmp_path / "checkpoint")
    lower = json.dumps({"max_seq_length": 40, "do_lower_case": True})
    vectors = []
    for name, document in (("plain", None), ("lower", lower)):
        container = write(plain, "onnx", tmp_path / name)
        if document is not None:
            (container / "sentence_bert_config.json").write_text(document)
        with load(container, options=OPTIONS) as model:
            vectors.append([model.embed([text]).vectors for text in ("Fox", "fox")])
    assert np.abs(vectors[0][0] - vectors[0][1]).max() > 1e-3
    np.testing.assert_array_equal(vectors[1][0], vectors[1][1])


def test_unknown_modules_beside_a_container_are_refused(containers: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(containers / "onnx", tmp_path / "onnx"))
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UnsupportedModel, match="3_Dense"):
        load(folder, options=OPTIONS)
