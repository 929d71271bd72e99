"""What stands on the new graphs: rewinding past a window, prompts in chunks, logits of one row, hidden states, the stock library."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from onnx_twins import CONTEXT, PREFILL, PackedTwin, network_of, transformers_run

from edgeport.runtimes.encoder import open_encoder
from edgeport.runtimes.onnx import open_session
from edgeport.runtimes.session import SessionOptions

OPTIONS = SessionOptions(threads=1, context_length=CONTEXT, exact=True)
Packer = Callable[..., PackedTwin]
TYPES = {
    "llama": "llama",
    "mistral": "mistral",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "phi3": "phi3",
    "phi4-mini": "phi3",
    "granite": "granite",
    "olmo2": "olmo",
}
STOCK = """
import json, sys
import onnxruntime_genai as engine
for folder, prompt in json.load(sys.stdin):
    model = engine.Model(folder)
    parameters = engine.GeneratorParams(model)
    parameters.set_search_options(max_length=len(prompt) + 24, min_length=len(prompt) + 24)
    generator = engine.Generator(model, parameters)
    generator.append_tokens(prompt)
    while not generator.is_done():
        generator.generate_next_token()
    print(json.dumps([int(token) for token in generator.get_sequence(0)][len(prompt):]))
"""


@pytest.mark.parametrize("family", ["mistral", "gemma3", "phi4-mini", "qwen2-window"])
def test_rewinding_past_the_window_forgets_what_came_after(family: str, packed: Packer) -> None:
    twin = packed(family)
    prompt = twin.prompt()
    session, fresh = open_session(twin.folder, OPTIONS), open_session(twin.folder, OPTIONS)
    session.feed(prompt)
    session.rewind(20)
    other = prompt[::-1][:30]
    found = session.feed(other, all_logits=True)
    expected = fresh.feed([*prompt[:20], *other], all_logits=True)[20:]
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("family", ["gemma2", "granite", "olmo2"])
def test_the_last_row_alone_is_the_last_of_all_rows(family: str, packed: Packer) -> None:
    """Scale and soft cap stand behind the head, and the choice of rows before it."""
    twin = packed(family)
    prompt = twin.prompt()
    session = open_session(twin.folder, OPTIONS)
    expected = session.feed(prompt, all_logits=True)[-1:]
    session.rewind(0)
    found = session.feed(prompt)
    assert session._chooses_rows and found.shape == (1, twin.checkpoint.spec.vocab_size)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("family", ["gemma2", "gemma3", "granite", "olmo2", "phi4-mini", "qwen3"])
def test_hidden_states_are_those_before_the_head(family: str, packed: Packer) -> None:
    """Two sequences of different lengths share a run: padding changes nothing, windows and own rotation included."""
    import torch

    twin = packed(family)
    prompt = twin.prompt()
    sequences = [prompt, prompt[:41]]
    network = network_of(twin).model
    encoder = open_encoder("onnx", twin.folder, OPTIONS)
    found = encoder.encode(sequences)
    encoder.close()
    for tokens, states in zip(sequences, found, strict=True):
        with torch.no_grad():
            expected = network(torch.tensor([tokens])).last_hidden_state[0].numpy()
        assert states.shape == expected.shape
        assert np.linalg.norm(states - expected) / np.linalg.norm(expected) < 1e-4


def test_the_stock_library_opens_every_family_and_writes_the_same_tokens(packed: Packer) -> None:
    """Past the window, with caches the library allocates."""
    twins = {family: packed(family) for family in TYPES}
    prompts = [(str(twin.folder), twin.prompt()[: PREFILL // 2]) for twin in twins.values()]
    done = subprocess.run(
        [sys.executable, "-c", STOCK], input=json.dumps(prompts), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    for (family, twin), (_, prompt), tokens in zip(twins.items(), prompts, lines, strict=True):
        _, expected = transformers_run(network_of(twin), prompt)
        assert tokens == expected[: len(tokens)] and len(tokens) == 24, family


@pytest.mark.parametrize("family", TYPES)
def test_what_the_stock_library_is_told(family: str, packed: Packer) -> None:
    twin = packed(family)
    document = json.loads((twin.folder / "genai_config.json").read_text())["model"]
    generation = json.loads((twin.model / "generation_config.json").read_text())
    assert document["type"] == TYPES[family]
    assert document["eos_token_id"] == generation["eos_token_id"]
    assert "sliding_window" not in document["decoder"], "its caches are whole"
