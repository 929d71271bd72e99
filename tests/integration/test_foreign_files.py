"""Models that other tools made, as they are: inspected, run and timed without a manifest.

llama.cpp's own quantizer, onnxruntime-genai's builder, optimum-intel with NNCF, and a decoder as torch exports it. What edgeport reads
of them is compared with the source model: its parameters, and its logits in float32.
"""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeport.cli import main
from edgeport.errors import UnsupportedModel
from edgeport.manifest import ContainerEntry, Manifest, ModelFacts, SourceFacts, file_entry, write_manifest
from edgeport.runtimes.bench.measure import Workload
from edgeport.runtimes.bench.run import BenchOptions, benchmark
from edgeport.runtimes.bench.side import parse_side
from edgeport.runtimes.bench.subject import FOREIGN_ID, open_subject
from edgeport.runtimes.container import find_containers
from edgeport.runtimes.engines import open_session
from edgeport.runtimes.inspect.open import inspect_path
from edgeport.runtimes.session import SessionOptions
from edgeport.runtimes.tokenizer import open_tokenizer

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "models" / "reference"
TOKENS = [17, 301, 44, 260, 99, 333, 5, 412]
EXACT = SessionOptions(threads=1, context_length=64, exact=True)
QUICK = BenchOptions(Workload(n_prompt=8, n_gen=2, repetitions=1), threads=1, memory=False)
Q4_K_M, Q6_K, IQ4_XS, Q8_0 = 15, 18, 30, 7
"""llama_ftype (llama.h)."""


def quantized(source: Path, target: Path, file_type: int) -> Path:
    """llama.cpp's own quantizer, called through its C interface."""
    import llama_cpp.llama_cpp as native

    parameters = native.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread, parameters.allow_requantize = file_type, 1, True
    assert (
        native.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters)) == 0
    )
    return target


@pytest.fixture(scope="module")
def k_quant(reference_containers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = next((reference_containers / "gguf").glob("*.gguf"))
    return quantized(source, tmp_path_factory.mktemp("llama") / "reference-Q4_K_M.gguf", Q4_K_M)


@pytest.fixture
def bare_onnx(reference_containers: Path, tmp_path: Path) -> Path:
    """A graph with config.json and tokenizer.json beside it, as optimum leaves them, and nothing of onnxruntime-genai."""
    folder = Path(shutil.copytree(reference_containers / "onnx", tmp_path / "onnx"))
    (folder / "genai_config.json").unlink()
    for name in ("config.json", "generation_config.json"):
        shutil.copy(REFERENCE / name, folder)
    return folder


@pytest.fixture
def bare_openvino(reference_containers: Path, tmp_path: Path) -> Path:
    """Only what openvino-genai needs: model, tokenizer, detokenizer, config.json."""
    folder = Path(shutil.copytree(reference_containers / "openvino", tmp_path / "openvino"))
    if not (folder / "openvino_tokenizer.xml").is_file():
        pytest.skip("the tokenizer was not converted here")
    (folder / "tokenizer.json").unlink()
    return folder


def runs(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The text after the prompt, through the command."""
    capsys.readouterr()
    words = ["run", str(path), "def area(", "--max-tokens", "6", "--threads", "1", "--check", "never"]
    code = main(words)
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert printed.out.startswith("def area(")
    return printed.out.removeprefix("def area(").rstrip("\n")


def test_a_k_quant_file_is_inspected_run_and_timed(
    k_quant: Path, reference_containers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = inspect_path(k_quant)
    same = inspect_path(reference_containers / "gguf")
    assert found.parameters == same.parameters and found.shapes == same.shapes
    assert {"Q4_K", "Q6_K"} <= {item.type for item in found.tensor_types} and found.quantization == "Q4_K"
    assert found.problems == () and found.engines[0].accepted
    assert runs(k_quant, capsys)
    before = sorted(k_quant.parent.iterdir())
    assert (
        main(
            [
                "bench",
                str(k_quant),
                "-p",
                "8",
                "-n",
                "2",
                "-r",
                "1",
                "--threads",
                "1",
                "--no-memory",
                "--json",
            ]
        )
        == 0
    )
    document = json.loads(capsys.readouterr().out)
    assert document["artifact"] == k_quant.name
    (speed,) = document["containers"]
    assert speed["format"] == "gguf" and speed["weights_id"].startswith(FOREIGN_ID)
    assert speed["decode"]["tokens_per_s"] > 0 and speed["predicted"] is None
    first = document["results"][0]
    assert first["model_n_params"] == found.parameters and first["model_size"] == k_quant.stat().st_size
    assert first["model_type"] == "llama 5.57M Q4_K"
    assert sorted(k_quant.parent.iterdir()) == before, "nothing is written beside a foreign file"


def test_a_folder_with_one_file_and_a_sweep(k_quant: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", str(k_quant.parent), "-p", "4,8", "-n", "0", "-r", "1", "--threads", "1", "-o", "csv"]
    assert main(words) == 0
    rows = capsys.readouterr().out.strip().splitlines()
    assert len(rows) == 3 and k_quant.name in rows[1]


def test_sides_of_a_comparison_may_be_files(k_quant: Path, reference_containers: Path) -> None:
    other = next((reference_containers / "gguf").glob("*.gguf"))
    a, b = (parse_side(f"{path},threads=1", None) for path in (k_quant, other))
    assert a.path == k_quant and b.path == other
    assert a.weights_id != b.weights_id and a.kv_bytes_per_token == b.kv_bytes_per_token > 0


def test_graphs_without_genai_config_run_as_they_did(
    bare_onnx: Path, reference_containers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cache is then copied from run to run and not shared: the same logits, bit for bit."""
    sessions = [open_session("onnx", path, EXACT) for path in (reference_containers / "onnx", bare_onnx)]
    assert [session.shared_cache for session in sessions] == [True, False]
    expected, found = (
        np.concatenate([session.feed(TOKENS[:5], all_logits=True), session.feed(TOKENS[5:6])])
        for session in sessions
    )
    np.testing.assert_array_equal(found, expected)
    assert sessions[1].context_length == 64
    inspected = inspect_path(bare_onnx)
    assert inspected.engines[0].accepted and not inspected.engines[1].accepted
    assert runs(bare_onnx, capsys)
    report = benchmark(bare_onnx, QUICK)
    assert report.containers[0].context_length == 10 and not report.failed


def test_a_graph_that_says_too_little_is_refused(bare_onnx: Path) -> None:
    import onnx

    model = onnx.load(bare_onnx / "model.onnx", load_external_data=False)
    for value in (*model.graph.input, *model.graph.output):
        if "key" in value.name or "value" in value.name:
            value.type.tensor_type.shape.dim[3].dim_param = "width"
    (bare_onnx / "model.onnx").write_bytes(model.SerializeToString())
    open_session("onnx", bare_onnx, EXACT).close()
    (bare_onnx / "config.json").unlink()
    assert "how large the cache is" in inspect_path(bare_onnx).engines[0].reason
    with pytest.raises(UnsupportedModel, match="how wide a head is"):
        open_session("onnx", bare_onnx, EXACT)


def test_openvinos_own_tokenizer_gives_the_same_tokens(
    bare_openvino: Path, reference_containers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = open_tokenizer(find_containers(bare_openvino)[0])
    ours = open_tokenizer(find_containers(reference_containers / "openvino")[0])
    texts = ["def area(self, x: int) -> float:\n    return x * 2\n", "Größe, 你好 😀", " two  spaces", "\n\n"]
    for text in texts:
        for special in (True, False):
            tokens = ours.encode(text, add_special_tokens=special)
            assert theirs.encode(text, add_special_tokens=special) == tokens, text
        assert theirs.decode(tokens) == ours.decode(tokens) == text
    messages = [{"role": "user", "content": "Hello"}]
    assert theirs.chat_prompt(messages) == ours.chat_prompt(messages)
    assert theirs.decode([]) == "" and not theirs.is_stop(tokens[0])
    assert [token for token in range(8) if theirs.is_stop(token)] == [
        token for token in range(8) if ours.is_stop(token)
    ]
    found = inspect_path(bare_openvino)
    assert found.tokenizer is not None and found.tokenizer.kind == "OpenVINO tokenizer"
    assert found.chat_template and found.engines[0].accepted
    assert runs(bare_openvino, capsys)
    assert benchmark(bare_openvino, QUICK).containers[0].format == "openvino"


def test_a_container_of_an_artifact_is_its_own_subject(reference_containers: Path, tmp_path: Path) -> None:
    for name in ("gguf", "onnx"):
        shutil.copytree(reference_containers / name, tmp_path / name)
    file = next((tmp_path / "gguf").glob("*.gguf"))
    entries = tuple(
        ContainerEntry(name, entry, (file_entry(tmp_path / entry, tmp_path),), 1, "ab" * 32)
        for name, entry in (("gguf", f"gguf/{file.name}"), ("onnx", "onnx/model.onnx"))
    )
    facts = ModelFacts("llama", 1, 6, 256, 768, 8, 2, 32, 4096, 512, True, 4.5, 1536)
    source = SourceFacts("reference", "00", 1, "bf16")
    write_manifest(Manifest("r", "now", source, {}, "edge", facts, "ab" * 32, entries), tmp_path)
    subject = open_subject(tmp_path / "gguf")
    assert subject.directory == tmp_path and not subject.is_artifact
    assert [entry.format for entry in subject.manifest.containers] == ["gguf"]
    assert subject.manifest.weights_id == "ab" * 32 and open_subject(tmp_path).is_artifact
    assert benchmark(tmp_path / "gguf", QUICK).containers[0].format == "gguf"


def traced_decoder(source: Path, out: Path) -> Path:
    """A decoder as torch traces it, with the inputs and outputs optimum gives it: no fused operator, no genai_config.json."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.cache_utils import DynamicCache

    model = AutoModelForCausalLM.from_pretrained(
        source, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    config = model.config
    width = config.hidden_size // config.num_attention_heads

    class Decoder(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, tokens: Any, attention_mask: Any, positions: Any, *past: Any) -> tuple[Any, ...]:
            cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
            places = torch.cumsum(attention_mask, -1) - 1
            hidden = places[:, None, None, :] > positions[:, None, :, None]
            mask = hidden.to(torch.float32) * -1e9
            found = self.model(tokens, attention_mask=mask, position_ids=positions, past_key_values=cache)
            return found.logits, *(item for layer in cache.layers for item in (layer.keys, layer.values))

    names = [f"{layer}.{part}" for layer in range(config.num_hidden_layers) for part in ("key", "value")]
    past = [torch.zeros(1, config.num_key_value_heads, 3, width) for _ in names]
    tokens, mask, positions = torch.zeros(1, 2).long(), torch.ones(1, 5).long(), torch.arange(3, 5)[None]
    inputs = ["input_ids", "attention_mask", "position_ids", *(f"past_key_values.{name}" for name in names)]
    outputs = ["logits", *(f"present.{name}" for name in names)]
    axes = {name: {0: "batch", 2 if "." in name else 1: f"length of {name}"} for name in (*inputs, *outputs)}
    out.mkdir()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer tells of each constant it takes
        torch.onnx.export(
            Decoder(), (tokens, mask, positions, *past), str(out / "model.onnx"), dynamo=False, opset_version=17,
            input_names=inputs, output_names=outputs, dynamic_axes=axes,
        )  # fmt: skip
    for file in (*source.glob("*.json"), *source.glob("*.jinja")):
        shutil.copy(file, out)
    return out


def test_a_traced_decoder_runs_and_is_told_to_be_slow(
    tiny_llama_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = traced_decoder(tiny_llama_dir, tmp_path / "traced")
    session = open_session("onnx", folder, EXACT)
    logits = np.concatenate([session.feed(TOKENS[:5], all_logits=True), session.feed(TOKENS[5:6])])
    expected = source_logits(tiny_llama_dir)
    np.testing.assert_allclose(logits, expected[:6], atol=1e-4)
    session.rewind(3)
    np.testing.assert_allclose(session.feed(TOKENS[3:], all_logits=True), expected[3:], atol=1e-4)
    found = inspect_path(folder)
    assert found.engines[0].accepted and not found.has_errors
    told = [problem.what for problem in found.problems]
    assert (
        len(told) == 2
        and "attention is not fused: 2 Softmax" in told[0]
        and "repeats the embedding" in told[1]
    )
    assert runs(folder, capsys)


# From here on with the tools themselves, which take their time.


def tool(*words: str | Path) -> None:
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def genai(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime_genai")
    pytest.importorskip("onnx_ir")  # the builder wants it; `make peers` brings it
    out = tmp_path_factory.mktemp("genai")
    words = ("-i", REFERENCE, "-o", out / "model", "-c", out / "cache", "-p", "int4", "-e", "cpu")
    tool(
        sys.executable, "-m", "onnxruntime_genai.models.builder", *words, "--extra_options", "hf_token=false"
    )
    return out / "model"


@pytest.fixture(scope="module")
def optimum(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """{"float": ..., "int4": ...}: optimum-intel's export, and the same with NNCF's weights."""
    pytest.importorskip("optimum.intel")
    out = tmp_path_factory.mktemp("optimum")
    program = (sys.executable, "-m", "optimum.commands.optimum_cli")
    words = (*program, "export", "openvino", "--model", REFERENCE, "--task", "text-generation-with-past")
    tool(*words, "--weight-format", "fp32", out / "float")
    tool(*words, "--weight-format", "int4", "--group-size", "32", "--ratio", "1.0", out / "int4")
    return {"float": out / "float", "int4": out / "int4"}


def source_logits(source: Path = REFERENCE) -> Any:
    """Of transformers, in float32: [tokens, vocab_size]."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.tensor([TOKENS])).logits[0].numpy()


@pytest.mark.slow
def test_a_folder_of_the_genai_builder(
    genai: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, source = inspect_path(genai), inspect_path(REFERENCE)
    assert (
        found.parameters == source.parameters
        and found.made_by is not None
        and "onnxruntime-genai" in found.made_by
    )
    assert [item.accepted for item in found.engines] == [True, True]
    assert not found.has_errors and found.chat_template
    text = runs(genai, capsys)
    assert benchmark(genai, QUICK).containers[0].format == "onnx"
    bare = Path(shutil.copytree(genai, tmp_path / "bare"))
    (bare / "genai_config.json").unlink()
    shutil.copy(REFERENCE / "config.json", bare)
    assert runs(bare, capsys) == text


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["float", "int4"])
def test_folders_of_optimum_intel(
    weights: str, optimum: Mapping[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = optimum[weights]
    found, source = inspect_path(folder), inspect_path(REFERENCE)
    assert found.parameters == source.parameters and found.shapes == source.shapes
    assert found.made_by is not None and "optimum-intel" in found.made_by
    assert [item.accepted for item in found.engines] == [True, True] and not found.has_errors
    kinds = {item.type for item in found.tensor_types}
    if weights == "int4":
        assert (
            kinds & {"u4", "i4"}
            and found.quantization is not None
            and found.quantization.startswith("NNCF int4")
        )
    else:
        logits = open_session("openvino", folder, EXACT).feed(TOKENS, all_logits=True)
        np.testing.assert_allclose(logits, source_logits(), atol=1e-3)
    assert runs(folder, capsys)
    assert benchmark(folder, QUICK).containers[0].format == "openvino"


@pytest.mark.slow
@pytest.mark.parametrize("file_type", [Q6_K, IQ4_XS, Q8_0])
def test_other_quantizations_of_llama_cpp(
    file_type: int, reference_containers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = next((reference_containers / "gguf").glob("*.gguf"))
    file = quantized(source, tmp_path / "x.gguf", file_type)
    assert inspect_path(file).parameters == inspect_path(source).parameters
    assert inspect_path(file).problems == () and runs(file, capsys)
