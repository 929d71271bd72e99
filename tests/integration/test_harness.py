"""The lm-evaluation-harness over an artifact: its own command line, local tasks, no network; numbers against transformers."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import math
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeport.cli import main
from edgeport.errors import UsageError

pytest.importorskip("lm_eval")

ROOT = Path(__file__).parents[2]
CHOICES = [" return", " raise", " self.values"]
TEXTS = ["def area(self):\n    return self.width * self.height\n", "import os\nimport sys\n" * 30]
TASKS = {
    "local_choice": """output_type: multiple_choice
doc_to_text: "{{prompt}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
target_delimiter: ""
""",
    "local_text": """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
""",
    "local_writing": """output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "none"
generation_kwargs: {until: ["\\n\\n"], max_gen_toks: 12, do_sample: false}
""",
}
METRICS = {"local_choice": "acc", "local_text": "byte_perplexity", "local_writing": "exact_match"}
PROMPTS = ["def add(a, b):\n   ", "class Shape:\n    def area(self):\n       "]


@pytest.fixture(scope="module")
def artifact(tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("harness") / "artifact"
    words = ["--device", "edge", "--recipe", "bf16", "--format", "onnx,gguf", "--no-verify", "--quiet"]
    assert main(["export", str(tiny_llama_dir), "-o", str(out), *words]) == 0
    return out


@pytest.fixture(scope="module")
def network(tiny_llama_dir: Path) -> object:
    from edgeport.export.evaluate.torch_session import load_network
    from edgeport.runtimes.session import SessionOptions

    return load_network(tiny_llama_dir, SessionOptions(threads=1, exact=True))


@pytest.fixture(scope="module")
def tokenizer(tiny_llama_dir: Path) -> object:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(tiny_llama_dir / "tokenizer.json"))


def _tasks(folder: Path) -> None:
    rows = {
        "local_choice": [{"prompt": prompt, "choices": CHOICES, "answer": 0} for prompt in PROMPTS],
        "local_text": [{"text": text} for text in TEXTS],
        "local_writing": [{"prompt": prompt} for prompt in PROMPTS],
    }
    for name, yaml in TASKS.items():
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows[name]), encoding="utf-8")
        (folder / f"{name}.yaml").write_text(
            f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\n"
            f"test_split: test\n{yaml}metric_list: [{{metric: {METRICS[name]}}}]\n",
            encoding="utf-8",
        )


@pytest.fixture(scope="module")
def samples(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, object]]]:
    """What the harness wrote about each request, after one run of its own command line."""
    folder = tmp_path_factory.mktemp("tasks")
    _tasks(folder)
    command = [sys.executable, "-m", "edgeport.export.evaluate.harness", "--model", "edgeport"]
    command += ["--model_args", f"artifact={artifact},runtime=onnx,threads=1", "--tasks", ",".join(TASKS)]
    command += ["--include_path", str(folder), "--output_path", str(folder / "out"), "--log_samples"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "home")}
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **offline}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "|local_choice" in done.stdout
    found = {}
    for name in TASKS:
        (path,) = (folder / "out").rglob(f"samples_{name}_*.jsonl")
        lines = path.read_text(encoding="utf-8").splitlines()
        found[name] = sorted((json.loads(line) for line in lines), key=lambda row: int(row["doc_id"]))
    return found


def _log_probs(network: object, tokens: list[int]) -> object:
    """[len(tokens), vocab_size]"""
    import torch

    with torch.inference_mode():
        return network(torch.tensor([tokens])).logits[0].double().log_softmax(-1)


# bf16 weights are the same numbers in both; what is left is float32's rounding in sums over 64 to 128 terms, some 1e-5
# relative on logits of size 10, which a sum over some ten tokens makes 1e-3 at worst.
TOLERANCE = 2e-3


def test_choices_have_the_log_likelihoods_of_transformers(
    samples: dict[str, list[dict]], network: object, tokenizer: object
) -> None:
    for row, prompt in zip(samples["local_choice"], PROMPTS, strict=True):
        for choice, ((log_likelihood, greedy),) in zip(CHOICES, row["resps"], strict=True):
            # the harness moves spaces at the prompt's end to the choice, and splits where the prompt ends
            context = tokenizer.encode(prompt.rstrip()).ids
            whole = tokenizer.encode(prompt + choice).ids
            log_p = _log_probs(network, whole)[len(context) - 1 : -1]
            expected = sum(float(log_p[at, token]) for at, token in enumerate(whole[len(context) :]))
            assert float(log_likelihood) == pytest.approx(expected, abs=TOLERANCE)
            assert str(greedy) == str(log_p.argmax(-1).tolist() == whole[len(context) :])


def test_whole_texts_have_the_log_likelihood_of_transformers(
    samples: dict[str, list[dict]], network: object, tokenizer: object
) -> None:
    for row, text in zip(samples["local_text"], TEXTS, strict=True):
        tokens = tokenizer.encode(text).ids  # with the begin token, which the first is predicted from
        assert len(tokens) < 256, "one window: longer texts are the next test's"
        log_p = _log_probs(network, tokens)[:-1]
        expected = sum(float(log_p[at, token]) for at, token in enumerate(tokens[1:]))
        ((got,),) = row["resps"]
        assert float(got[0] if isinstance(got, list) else got) == pytest.approx(expected, abs=10 * TOLERANCE)


def test_texts_go_on_like_transformers(
    samples: dict[str, list[dict]], network: object, tokenizer: object
) -> None:
    for row, prompt in zip(samples["local_writing"], PROMPTS, strict=True):
        tokens = tokenizer.encode(prompt).ids
        start = len(tokens)
        for _ in range(12):
            tokens.append(int(_log_probs(network, tokens)[-1].argmax()))
            if tokens[-1] == 2:  # the end of a turn
                break
        expected = tokenizer.decode(tokens[start:]).split("\n\n")[0]
        ((got,),) = row["resps"]
        assert got == expected


def test_a_text_longer_than_the_context_is_scored_in_windows(
    artifact: Path, network: object, tokenizer: object
) -> None:
    model = _model(artifact, max_length=32)
    (got,) = model.loglikelihood_rolling([SimpleNamespace(args=(TEXTS[1],))], disable_tqdm=True)
    tokens = tokenizer.encode(TEXTS[1]).ids
    assert len(tokens) > 100
    expected, window = 0.0, 32
    for start in range(0, len(tokens) - 1, window):  # each token once, predicted from the one before
        stop = min(start + window, len(tokens) - 1)
        begin = max(stop - window, 0)  # the last window reaches back, so that it is full as well
        log_p = _log_probs(network, tokens[begin:stop])[start - begin :]
        expected += sum(float(log_p[at, token]) for at, token in enumerate(tokens[start + 1 : stop + 1]))
    assert got == pytest.approx(expected, rel=1e-3)


def _model(artifact: Path, **arguments: object):
    from edgeport.export.evaluate.harness_model import EdgeportModel

    return EdgeportModel(artifact=str(artifact), **{"runtime": "onnx", "threads": 1, **arguments})


def test_what_does_not_fit_is_cut_aloud(artifact: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = _model(artifact, max_length=16)
    with caplog.at_level(logging.WARNING):
        long, short = (
            model.loglikelihood([SimpleNamespace(args=(text, " return"))], disable_tqdm=True)
            for text in (("x = 1\n" * 20).strip(), "x")  # the harness moves space at its end to the choice
        )
    room = 16 - len(model.tok_encode(" return", add_special_tokens=False)) + 1
    assert f"is cut from the left to {room}" in caplog.text and caplog.text.count("is cut") == 1
    assert math.isfinite(long[0][0]) and long != short
    with pytest.raises(UsageError, match="does not fit a context of 16"):
        model.loglikelihood([SimpleNamespace(args=("x", "x = 1\n" * 20))], disable_tqdm=True)


def test_unknown_arguments_are_refused_and_idle_ones_said(
    artifact: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UsageError, match="unknown in --model_args: pretrained"):
        _model(artifact, pretrained="x")
    with caplog.at_level(logging.WARNING):
        model = _model(artifact, batch_size=8, device="cuda")
        request = SimpleNamespace(args=("x", {"until": "\n", "max_gen_toks": 2, "num_beams": 4}))
        assert isinstance(model.generate_until([request], disable_tqdm=True)[0], str)
    for words in ("batch_size 8 has no effect", "device cuda has no effect", "num_beams=4 is not known"):
        assert words in caplog.text


def test_another_runtime_and_the_empty_context(artifact: Path, network: object) -> None:
    """The GGUF file brings its own vocabulary; an empty context stands for the begin token."""
    model = _model(artifact, runtime="gguf")
    tokens = model.tok_encode("import os", add_special_tokens=False)
    ((got, _),) = model.loglikelihood([SimpleNamespace(args=("", "import os"))], disable_tqdm=True)
    log_p = _log_probs(network, [0, *tokens])
    expected = sum(float(log_p[at, token]) for at, token in enumerate(tokens))
    # llama.cpp keeps keys and values in 16 bits
    assert got == pytest.approx(expected, rel=0.02)
    assert model.tok_encode("<|endoftext|>import os") == [0, *tokens], "the begin token is not doubled"


def test_the_plugin_line_names_the_model() -> None:
    """What releases of the harness with plugins read; today's registry takes an entry point as well."""
    from lm_eval.api.registry import Registry

    from edgeport.export.evaluate.harness import MODEL_NAME, MODEL_TARGET
    from edgeport.export.evaluate.harness_model import EdgeportModel

    lines = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    assert lines["lm_eval.models"] == {MODEL_NAME: MODEL_TARGET}
    registry: Registry = Registry("model")
    registry.register(
        MODEL_NAME, target=importlib.metadata.EntryPoint(MODEL_NAME, MODEL_TARGET, "lm_eval.models")
    )
    assert registry.get(MODEL_NAME) is EdgeportModel


def test_the_harness_keeps_its_own_models() -> None:
    from lm_eval.api.registry import get_model, model_registry

    from edgeport.export.evaluate.harness import register

    register()
    register()
    assert get_model("edgeport").__name__ == "EdgeportModel" and "hf" in model_registry
