"""Stock tools open the sub-folders unchanged: llama.cpp, onnxruntime-genai, OpenVINO GenAI and transformers.

Each runs in a process of its own, as its documentation says and without a line of edgeport. The artifact holds float16
weights: there every engine can compute in float32, and greedy tokens must be those of transformers on the same weights.
INT4 artifacts are opened too; engines that quantize activations may choose another token there, so it is text that counts.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

Edgeport = Callable[..., subprocess.CompletedProcess[str]]
NEW_TOKENS = 16
PROMPT = [17, 301, 44, 260, 99, 333, 5, 412]
TEXT = "def fibonacci(n: int) -> int:\n"

# Every script prints {"tokens": [...], "text": "..."} for PROMPT in sys.argv[2] and the text in sys.argv[3].
PREAMBLE = "import json, sys\nfolder, prompt, text, count = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3], int(sys.argv[4])\n"
SCRIPTS = {
    "gguf": """
import glob, llama_cpp
model = llama_cpp.Llama(glob.glob(folder + "/*.gguf")[0], n_ctx=128, n_threads=1, verbose=False, seed=1)
out = model.create_completion(text, max_tokens=count, temperature=0)["choices"][0]["text"]
model.reset()
tokens = []
for token in model.generate(prompt, top_k=1, temp=0):
    tokens.append(token)
    if len(tokens) == count:
        break
print(json.dumps({"tokens": tokens, "text": out}))
""",
    "onnx": """
import onnxruntime_genai as og
model = og.Model(folder)
tokenizer = og.Tokenizer(model)
def run(ids):
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=len(ids) + count, min_length=len(ids) + count)
    generator = og.Generator(model, parameters)
    generator.append_tokens(ids)
    while not generator.is_done():
        generator.generate_next_token()
    return [int(token) for token in generator.get_sequence(0)][len(ids):]
out = tokenizer.decode(run(tokenizer.encode(text)))
print(json.dumps({"tokens": run(prompt), "text": out}))
""",
    "openvino": """
import numpy, openvino, openvino_genai
exact = {"EXECUTION_MODE_HINT": "ACCURACY", "INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
pipeline = openvino_genai.LLMPipeline(folder, "CPU", **exact)
settings = openvino_genai.GenerationConfig(max_new_tokens=count, do_sample=False, ignore_eos=True, apply_chat_template=False)
out = pipeline.generate(text, settings)
ids = openvino.Tensor(numpy.array([prompt], dtype=numpy.int64))
mask = openvino.Tensor(numpy.ones((1, len(prompt)), dtype=numpy.int64))
tokens = pipeline.generate(openvino_genai.TokenizedInputs(ids, mask), settings).tokens[0]
print(json.dumps({"tokens": [int(token) for token in tokens], "text": str(out)}))
""",
    "safetensors": """
import torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
def run(ids):
    ids = torch.tensor([ids])
    kept = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, min_new_tokens=count, do_sample=False)
    return kept[0, ids.shape[1]:].tolist()
out = tokenizer.decode(run(tokenizer(text)["input_ids"]))
print(json.dumps({"tokens": run(prompt), "text": out}))
""",
}


def run_stock(name: str, folder: Path) -> dict[str, object]:
    words = [
        sys.executable,
        "-c",
        PREAMBLE + SCRIPTS[name],
        str(folder),
        json.dumps(PROMPT),
        TEXT,
        str(NEW_TOKENS),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=folder, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return result


Answers = Mapping[str, dict[str, object]]


def all_answers(artifact: Path) -> Answers:
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda name: run_stock(name, artifact / name), SCRIPTS)
        return dict(zip(SCRIPTS, found, strict=True))


@pytest.fixture(scope="module")
def exact_answers(
    tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory, edgeport: Edgeport
) -> Answers:
    out = tmp_path_factory.mktemp("stock") / "out"
    words = ("--device", "edge", "-o", out, "--recipe", "f16", "--no-verify", "--quiet")
    done = edgeport("export", tiny_llama_dir, *words)
    assert done.returncode == 0, done.stderr
    return all_answers(out)


@pytest.mark.parametrize("name", SCRIPTS)
def test_greedy_tokens_on_float16_weights(name: str, exact_answers: Answers) -> None:
    tokens = exact_answers[name]["tokens"]
    assert tokens == exact_answers["safetensors"]["tokens"]
    assert isinstance(tokens, list) and len(tokens) == NEW_TOKENS and len(set(tokens)) > 3


@pytest.mark.parametrize("name", SCRIPTS)
def test_text_from_text(name: str, exact_answers: Answers) -> None:
    assert exact_answers[name]["text"]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_int4_artifacts_open(family: str, request: pytest.FixtureRequest) -> None:
    artifact: Path = request.getfixturevalue(f"{family}_artifact")
    answers = all_answers(artifact)
    for name, answer in answers.items():
        assert answer["text"], name
        assert len(answer["tokens"]) == NEW_TOKENS, name  # type: ignore[arg-type]
