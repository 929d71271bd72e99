"""What edgeport does not take is refused with exit code 2, a reason and a cure, before anything is written or any foreign code runs."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from edgeport.cli import main

Edgeport = Callable[..., subprocess.CompletedProcess[str]]
Change = Callable[[Path], None]
INDEX = "model.safetensors.index.json"
MARKER = "the-models-own-code-ran"


def set_config(**values: Any) -> Change:
    """`...` takes a key out."""

    def write(folder: Path) -> None:
        document = json.loads((folder / "config.json").read_text()) | values
        kept = {key: value for key, value in document.items() if value is not ...}
        (folder / "config.json").write_text(json.dumps(kept))

    return write


def own_code(class_name: str, **config: Any) -> Change:
    """Code beside the model that leaves a mark when it is imported, and the auto_map that names it."""

    def write(folder: Path) -> None:
        mark = folder.parent / MARKER
        (folder / "modeling_own.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
        set_config(auto_map={"AutoModelForCausalLM": f"modeling_own.{class_name}"}, **config)(folder)

    return write


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def only_pickled(name: str) -> Change:
    def write(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(pickle.dumps(_Bomb(folder.parent / MARKER)))

    return write


def without_a_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    places = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))


def in_two_files(folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder / "other.safetensors")


def write(name: str, text: str) -> Change:
    return lambda folder: (folder / name).write_text(text) and None


def without_a_special_token(folder: Path) -> None:
    """The template puts a token before each text that nobody defines: the library's native code panics."""
    document = json.loads((folder / "tokenizer.json").read_text())
    document["post_processor"]["single"][0] = {"SpecialToken": {"id": "<nowhere>", "type_id": 0}}
    (folder / "tokenizer.json").write_text(json.dumps(document))


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


REFUSALS: Mapping[str, tuple[Change, str, str]] = {
    "architecture": (
        set_config(architectures=["Mamba2ForCausalLM"], model_type="mamba2"),
        "architecture Mamba2ForCausalLM is not supported", "supported are LlamaForCausalLM",
    ),
    "no architecture": (set_config(architectures=...), "architecture none", "supported are"),
    "strange architecture": (set_config(architectures=[{"a": 1}]), "config.json", "compare it with the config.json"),
    "own code": (
        own_code("OwnForCausalLM", architectures=["OwnForCausalLM"]),
        "code of its own (auto_map: modeling_own.OwnForCausalLM), which edgeport never runs", "built in",
    ),
    "own code under a known name": (own_code("OwnForCausalLM"), "which edgeport never runs", "built in"),
    "pickled": (
        only_pickled("pytorch_model.bin"), "only pickled weights: pytorch_model.bin", "fetch the model.safetensors",
    ),
    "pickled .pt": (only_pickled("model.pt"), "only pickled weights: model.pt", "fetch the model.safetensors"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no *.safetensors file", "save_pretrained()"),
    "shard": (without_a_shard, "model-00002-of-00002.safetensors is missing", "download all shards"),
    "index": (write(INDEX, '{"weight_map": 5}'), "has no usable weight_map", "fetch it again"),
    "cut": (cut, "model.safetensors: tensor", "truncated or damaged"),
    "twice": (in_two_files, "is both in", "keep one"),
    "other width": (set_config(hidden_size=128), "weights and config.json disagree", "of one revision"),
    "other layers": (set_config(num_hidden_layers=3), "model.layers.2.input_layernorm.weight is missing", "of one revision"),
    "other vocabulary": (set_config(vocab_size=600), "config.json says [600, 64]", "of one revision"),
    "huge": (set_config(num_hidden_layers=10**9), "num_hidden_layers is 1000000000", "compare it with"),
    "negative": (set_config(hidden_size=-64), "hidden_size is -64", "compare it with"),
    "no number": (set_config(rms_norm_eps=float("nan")), "the number nan", "compare it with"),
    "text": (set_config(rms_norm_eps="small"), "config.json", "compare it with"),
    "missing key": (set_config(hidden_size=...), "lacks hidden_size", "compare it with"),
    "no JSON": (write("config.json", "{"), "is not JSON", "save_pretrained()"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "no config.json", "save_pretrained()"),
    "quantized": (
        set_config(quantization_config={"quant_method": "gptq"}), "already quantized (gptq)", "give the original",
    ),
    "tokenizer of another kind": (
        write("tokenizer.json", '{"model": {"type": "Magic"}}'), "cannot be read by the tokenizers library", "fetch the file",
    ),
    "tokenizer that contradicts itself": (without_a_special_token, "cannot be read by the tokenizers library", "fetch the file"),
    "settings that are no JSON": (write("tokenizer_config.json", "{"), "tokenizer_config.json is not JSON", "fetch the file"),
    "settings without end": (
        write("generation_config.json", "[" * 100_000), "generation_config.json is not JSON", "fetch the file",
    ),
    "tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer.json", "save the fast tokenizer"),
}  # fmt: skip


@pytest.fixture
def folder(tiny_llama_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama_dir, tmp_path / "model"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", REFUSALS)
def test_refused_with_the_cure_and_nothing_written(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, reason, cure = REFUSALS[name]
    change(folder)
    before = contents(folder.parent)
    assert main(["export", str(folder), "--device", "edge", "-o", str(folder.parent / "out")]) == 2
    told = capsys.readouterr()
    message, _, hint = told.err.strip().partition("\n")
    assert reason in message and cure in hint, told.err
    assert told.out == ""
    assert contents(folder.parent) == before
    assert sorted(path.name for path in folder.parent.iterdir()) == ["model"]


@pytest.mark.parametrize("name", ["own code", "pickled", "shard"])
def test_the_command_line_says_the_same(name: str, folder: Path, edgeport: Edgeport) -> None:
    change, reason, cure = REFUSALS[name]
    change(folder)
    done = edgeport("export", folder, "--device", "edge", "-o", folder.parent / "out")
    assert done.returncode == 2
    assert reason in done.stderr and cure in done.stderr
    assert sorted(path.name for path in folder.parent.iterdir()) == ["model"]


def test_the_pickle_and_the_code_of_these_tests_leave_their_mark(folder: Path) -> None:
    """Run by the test itself, so that their absence above means something."""
    mark = folder.parent / MARKER
    only_pickled("pytorch_model.bin")(folder)
    pickle.loads((folder / "pytorch_model.bin").read_bytes()).close()
    assert mark.exists()
    mark.unlink()
    own_code("X")(folder)
    exec(compile((folder / "modeling_own.py").read_text(), "modeling_own", "exec"), {})
    assert mark.exists()


def test_code_that_is_not_needed_is_not_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """edgeport builds this architecture itself: an auto_map that names the same class is no reason to refuse, nor to run it."""
    own_code("LlamaForCausalLM")(folder)
    out = folder.parent / "out"
    words = ["export", str(folder), "--device", "edge", "-o", str(out), "--recipe", "int4", "--solver", "rtn"]
    assert main([*words, "--format", "safetensors", "--no-gate", "--no-verify", "--quiet"]) == 0, (
        capsys.readouterr().err
    )
    assert (out / "manifest.json").is_file() and not (folder.parent / MARKER).exists()


def test_a_chat_without_a_template(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "chat_template.jinja").unlink()
    words = ["run", str(folder), "Hello", "--chat", "--check", "never", "--max-tokens", "2"]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert "this model has no chat template" in told and "give it a plain prompt" in told
    assert main([word for word in words if word != "--chat"]) == 0


@pytest.fixture
def encoder(tiny_llama_dir: Path, tmp_path: Path) -> Path:
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    folder = tmp_path / "model"
    BertModel(BertConfig(vocab_size=512, max_position_embeddings=64, **sizes)).save_pretrained(folder)
    shutil.copy(tiny_llama_dir / "tokenizer.json", folder)
    return folder


@pytest.mark.parametrize(
    "name", ["own code", "own code of its class", "pickled", "shard", "huge", "settings that are no JSON"]
)
def test_encoders_are_checked_alike(name: str, encoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, reason, cure = REFUSALS.get(
        name, (own_code("NomicBertModel"), "NomicBertModel), which edgeport never runs", "")
    )
    assert main(["inspect", str(encoder)]) == 0
    assert "edgeport export  accepted" in capsys.readouterr().out
    if name == "own code":
        change = own_code("OwnModel", architectures=["OwnModel"])
        reason = "code of its own (auto_map: modeling_own.OwnModel)"
    change(encoder)
    before = contents(encoder.parent)
    assert main(["export", str(encoder), "--device", "edge", "-o", str(encoder.parent / "out")]) == 2
    told = capsys.readouterr().err
    assert reason in told and cure in told
    assert contents(encoder.parent) == before
