"""The shipped reference model: loads in transformers and is as good as its card says."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import reference_card as card  # noqa: E402
import reference_model  # noqa: E402
import train_reference as training  # noqa: E402

LARGEST_WEIGHTS_BYTES = 16_000_000


@pytest.fixture(scope="module")
def record(reference: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((reference / "training.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def model(reference: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(reference, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer(reference: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(reference)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On busy processors torch's threads wait for each other at every operator; one alone is many times faster."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def measured_perplexity(model: Any, ids: list[int], chunks: int) -> float:
    """llama.cpp's convention, written again without the card's code."""
    losses = []
    for index in range(chunks):
        chunk = torch.tensor([ids[index * 512 : (index + 1) * 512]])
        with torch.no_grad():
            scores = torch.log_softmax(model(input_ids=chunk).logits[0, 256:511].double(), dim=-1)
        losses += (-scores[torch.arange(255), chunk[0, 257:512]]).tolist()
    return math.exp(sum(losses) / len(losses))


def test_shape_and_size(reference: Path, model: Any, record: dict[str, Any]) -> None:
    config = model.config
    shape = (
        config.hidden_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.num_key_value_heads,
    )
    assert shape == (256, 6, 8, 2) and config.vocab_size == 4096 and config.tie_word_embeddings
    assert json.loads((reference / "config.json").read_text())["dtype"] == "bfloat16"
    assert (
        (reference / "model.safetensors").stat().st_size == record["weights_bytes"] <= LARGEST_WEIGHTS_BYTES
    )
    assert sum(parameter.numel() for parameter in model.parameters()) == record["parameters"]


def test_heldout_perplexity_is_the_recorded_one(
    reference: Path, model: Any, tokenizer: Any, record: dict[str, Any]
) -> None:
    quality = record["quality"]["heldout"]
    text = (reference / "text" / "heldout.txt").read_text(encoding="utf-8")
    ids = tokenizer.backend_tokenizer.encode(text).ids
    assert len(ids) == quality["tokens"]
    found = measured_perplexity(model, ids, quality["first_chunks"])
    assert found == pytest.approx(quality["perplexity_of_first_chunks"], rel=0.02)


@pytest.mark.slow
def test_perplexity_of_the_whole_heldout_text(
    reference: Path, model: Any, tokenizer: Any, record: dict[str, Any]
) -> None:
    quality = record["quality"]["heldout"]
    text = (reference / "text" / "heldout.txt").read_text(encoding="utf-8")
    ids = tokenizer.backend_tokenizer.encode(text).ids
    assert measured_perplexity(model, ids, len(ids) // 512) == pytest.approx(quality["perplexity"], rel=0.02)


def test_it_writes_python(model: Any, tokenizer: Any) -> None:
    text = "import os\n" + card.complete(model, tokenizer, "import os\n", sampled=False, tokens=48)
    whole_lines = text.rsplit("\n", 1)[0]
    ast.parse(whole_lines.split("\n\n", 1)[0] or whole_lines)  # at least the first paragraph parses
    assert "import" in text


def test_card_and_record_agree(reference: Path, record: dict[str, Any]) -> None:
    assert (reference / "README.md").read_text(encoding="utf-8") == card.render_card(record)
    assert record["repeat_command"] in card.render_card(record)
    assert (reference / "loss.png").stat().st_size > 5_000


def test_chunked_attention_equals_torch() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, heads, 300, 32) for heads in (8, 2, 2))
    found, _ = reference_model.chunked_causal_attention(torch.nn.Module(), query, key, value, None, 32**-0.5)
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, enable_gqa=True
    )
    assert torch.allclose(found, expected.transpose(1, 2), atol=1e-5)


def test_learning_rate_warms_up_and_falls() -> None:
    settings = reference_model.Settings()
    factors = [reference_model.learning_rate_factor(settings, share / 100) for share in range(101)]
    assert factors[0] < 0.1 and max(factors) == pytest.approx(1.0)
    assert factors[-1] == pytest.approx(settings.final_learning_rate_share)
    assert all(later <= earlier for earlier, later in zip(factors[3:], factors[4:], strict=False))


def test_clock_pacer_fits_the_time_and_a_record_repeats_it() -> None:
    pacer, progress = training.ClockPacer(minutes=10), training.Progress()
    while not progress.finished:
        if progress.step % training.STEPS_PER_SCHEDULE_UPDATE == 0:
            progress.pace = pacer.pace(progress)
            progress.schedule.append([progress.step, progress.pace])
        slow = 3.0 if 60 < progress.seconds < 200 else 1.0  # a neighbour takes the processor for a while
        progress.seconds += slow
        progress.step += 1
        progress.share += progress.pace
    assert 540 < progress.seconds < 660
    repeated, again = training.RecordedPacer(progress.schedule), training.Progress()
    while not again.finished:
        again.share += repeated.pace(again)
        again.step += 1
    assert again.step == progress.step


def test_batches_depend_on_seed_and_step_only() -> None:
    numpy = pytest.importorskip("numpy")
    documents = [numpy.arange(start, start + 3000, dtype=numpy.int32) for start in range(0, 60_000, 3000)]
    settings = reference_model.Settings()
    first, second = training.Stream(documents, settings), training.Stream(documents, settings)
    first.batch(0, 512)
    inputs, targets = first.batch(first.steps_per_epoch + 1, 512)
    assert torch.equal(inputs, second.batch(second.steps_per_epoch + 1, 512)[0])
    assert inputs.shape == (8, 512) and torch.equal(inputs[:, 1:], targets[:, :-1])
