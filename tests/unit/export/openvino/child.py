"""Engine calls for the tests, in a process of their own: `python child.py FUNCTION JSON`, a JSON line on stdout."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

# One thread: models this small gain nothing from more, and spinning threads lose on a busy machine.
SHIPPED = {"INFERENCE_NUM_THREADS": 1}
EXACT = {**SHIPPED, "EXECUTION_MODE_HINT": "ACCURACY", "INFERENCE_PRECISION_HINT": "f32"}


def logits(
    xml: str,
    tokens: str,
    out: str,
    exact: bool,
    split: int,
    mask: str | None = None,
    positions: str | None = None,
    beams: list[int] | None = None,
) -> dict[str, Any]:
    """Prefill of `split` tokens and then one by one through the state; saves logits [batch, seq, vocab] to `out`.

    `beams` (a list of rows) reorders the cache at the first step after the prefill.
    """
    import openvino

    ids = np.load(tokens)
    batch, count = ids.shape
    seen = np.load(mask) if mask else np.ones_like(ids)
    places = np.load(positions) if positions else np.tile(np.arange(count), (batch, 1))
    request = openvino.Core().compile_model(xml, "CPU", EXACT if exact else SHIPPED).create_infer_request()
    pieces = []
    for start, stop in [(0, split), *((at, at + 1) for at in range(split, count))]:
        rows = beams if beams and start == split else list(range(batch))
        feed = {
            "input_ids": ids[:, start:stop],
            "attention_mask": seen[:, :stop],
            "position_ids": places[:, start:stop],
            "beam_idx": np.array(rows, dtype=np.int32),
        }
        request.infer(feed)
        pieces.append(request.get_tensor("logits").data.copy())
    np.save(out, np.concatenate(pieces, axis=1))
    return {"states": sorted(state.name for state in request.query_state())}


def execution(xml: str) -> dict[str, Any]:
    """What the CPU plug-in runs: [layer type, friendly name, element types of the inputs] of every node."""
    import openvino

    compiled = openvino.Core().compile_model(xml, "CPU", SHIPPED)
    request = compiled.create_infer_request()
    feed = {"input_ids": [[1, 2]], "attention_mask": [[1, 1]], "position_ids": [[0, 1]], "beam_idx": [0]}
    request.infer(
        {
            name: np.array(value, dtype=np.int32 if name == "beam_idx" else np.int64)
            for name, value in feed.items()
        }
    )
    nodes = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        kinds = [item.get_element_type().get_type_name() for item in node.inputs()]
        nodes.append([node.get_rt_info()["layerType"].astype(str), node.get_friendly_name(), kinds])
    return {"nodes": nodes}


def paged(xml: str) -> dict[str, Any]:
    """How many of which operations are there after SDPAToPagedAttention, and the names of the inputs."""
    import collections

    import openvino
    from openvino._offline_transformations import paged_attention_transformation

    model = openvino.Core().read_model(xml)
    paged_attention_transformation(model)
    counts = collections.Counter(node.get_type_name() for node in model.get_ordered_ops())
    return {"operations": counts, "inputs": [item.get_any_name() for item in model.inputs]}


def greedy(directory: str, tokens: str, count: int) -> dict[str, Any]:
    """Token ids from openvino_genai in float32, by its default back end."""
    import openvino
    import openvino_genai

    pipeline = openvino_genai.LLMPipeline(directory, "CPU", **EXACT)
    settings = openvino_genai.GenerationConfig()
    settings.max_new_tokens, settings.ignore_eos, settings.do_sample = count, True, False
    prompt = np.load(tokens)
    encoded = openvino_genai.TokenizedInputs(openvino.Tensor(prompt), openvino.Tensor(np.ones_like(prompt)))
    return {"ids": list(pipeline.generate(encoded, settings).tokens[0])}


def generate(directory: str, tokens: str, count: int, backend: str | None = None) -> dict[str, Any]:
    """Greedy token ids from openvino_genai in float32; `backend` None is its default."""
    import openvino
    import openvino_genai

    options = dict(EXACT)
    if backend:
        options["ATTENTION_BACKEND"] = backend
    pipeline = openvino_genai.LLMPipeline(directory, "CPU", **options)
    settings = openvino_genai.GenerationConfig()
    settings.max_new_tokens = count
    settings.ignore_eos = True
    settings.do_sample = False
    prompt = np.load(tokens)
    encoded = openvino_genai.TokenizedInputs(openvino.Tensor(prompt), openvino.Tensor(np.ones_like(prompt)))
    ids = list(pipeline.generate(encoded, settings).tokens[0])
    settings.ignore_eos = False
    chat = openvino_genai.ChatHistory([{"role": "user", "content": "def area"}])
    rendered = pipeline.get_tokenizer().apply_chat_template(chat, add_generation_prompt=True)
    text = str(pipeline.generate("def fibonacci", settings))
    return {"ids": ids, "chat": rendered, "text": text}


if __name__ == "__main__":
    result = globals()[sys.argv[1]](**json.loads(sys.argv[2]))
    sys.stdout.write("\n" + json.dumps(result) + "\n")
