"""Teacher and student: their networks against transformers' own, what two models cannot do together, what does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from edgeport.devices.probe import HostFacts, read_host
from edgeport.errors import DoesNotFit, UsageError
from edgeport.export.recover import memory as memory_module
from edgeport.export.recover.distill import check_models
from edgeport.export.recover.full import FullStudent
from edgeport.export.recover.losses import FullTarget, LossSettings
from edgeport.export.recover.memory import require_training_memory, training_memory
from edgeport.export.recover.network import load_float_network
from edgeport.export.recover.precision import choose_precision
from edgeport.export.recover.settings import settings_from
from edgeport.export.recover.student import StudentSettings
from edgeport.export.recover.students import student_class
from edgeport.export.recover.teacher import LiveTeacher
from edgeport.export.recover.teacher_cache import CachedTeacher, coarsen
from edgeport.export.source import open_source

Edited = Callable[..., Path]


@pytest.fixture(scope="module")
def tokens() -> Any:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 512, (3, 200)))


@pytest.mark.parametrize("model", ["tiny_llama_dir", "tiny_qwen2_dir"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_network_gives_transformers_logits_and_gradients(
    request: pytest.FixtureRequest, tokens: Any, model: str, checkpointing: bool
) -> None:
    source = open_source(str(request.getfixturevalue(model)))
    mine = load_float_network(source, gradient_checkpointing=checkpointing)
    theirs = AutoModelForCausalLM.from_pretrained(
        source.directory, dtype=torch.float32, attn_implementation="eager"
    )
    found, wanted = (network(tokens, use_cache=False).logits for network in (mine, theirs))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    for network, logits in ((mine, found), (theirs, wanted)):
        logits.square().mean().backward()
        assert network.model.layers[0].self_attn.q_proj.weight.grad.abs().max() > 0
    for (name, a), b in zip(mine.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("model", ["tiny_llama_dir", "tiny_qwen2_dir"])
def test_a_student_is_written_as_the_model_it_came_from(
    request: pytest.FixtureRequest, tmp_path: Path, model: str
) -> None:
    source = open_source(str(request.getfixturevalue(model)))
    student = FullStudent(source, StudentSettings())
    student.write(tmp_path)
    again = open_source(str(tmp_path))
    assert again.spec == source.spec
    for item in source.spec.tensors():
        assert again.weights.entry(item.name).dtype == source.weights.entry(item.name).dtype
        np.testing.assert_array_equal(
            again.tensor(item.name).view(np.uint16), source.tensor(item.name).view(np.uint16)
        )
    AutoModelForCausalLM.from_pretrained(tmp_path)


def test_restored_arrays_are_the_parameters_the_optimizer_holds(tiny_llama_dir: Path, tokens: Any) -> None:
    student = FullStudent(open_source(str(tiny_llama_dir)), StudentSettings())
    before = {name: np.array(values) for name, values in student.arrays().items()}
    held = [parameter for group in student.parameter_groups() for parameter in group["params"]]
    with torch.no_grad():
        first = student.forward(tokens, hidden_states=False).logits
        for parameter in held:
            parameter.mul_(1.5)
        moved = student.forward(tokens, hidden_states=False).logits
        student.restore(before)
        back = student.forward(tokens, hidden_states=False).logits
    assert (moved - first).abs().max() > 0.1
    assert torch.equal(back, first)
    assert sum(parameter.numel() for parameter in held) == open_source(str(tiny_llama_dir)).spec.parameters()


def test_unknown_kinds_and_options_are_refused(tiny_llama_dir: Path) -> None:
    with pytest.raises(UsageError, match="'half'"):
        student_class("half")
    with pytest.raises(UsageError, match="rank"):
        FullStudent(open_source(str(tiny_llama_dir)), StudentSettings(options={"rank": 4}))


def test_a_teacher_in_16_bits_is_near_the_one_in_32(tiny_llama_dir: Path, tokens: Any) -> None:
    source, loss = open_source(str(tiny_llama_dir)), LossSettings(hidden_weight=1.0)
    numbers = np.arange(3)
    exact, rounded = (
        LiveTeacher(source, loss, precision=precision, vocab_size=500).targets(numbers, tokens)
        for precision in ("f32", "bf16")
    )
    assert exact.logits.shape == (3, 200, 500)
    assert exact.hidden_states is not None and len(exact.hidden_states) == 3
    difference = (exact.logits - rounded.logits.float()).abs().mean() / exact.logits.std()
    assert 0 < difference < 0.05


class CountingTeacher:
    """A live teacher that remembers what it was asked."""

    def __init__(self, logits: Any) -> None:
        self.logits, self.asked = logits, []

    def targets(self, numbers: Any, tokens: Any) -> FullTarget:
        self.asked.append(numbers.tolist())
        return FullTarget(self.logits[torch.from_numpy(numbers)])

    def sync(self) -> None:
        return None


def test_a_cached_teacher_is_asked_once_and_survives(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    live = CountingTeacher(3 * torch.randn((6, 10, 40), generator=generator))
    tokens = torch.zeros((6, 10), dtype=torch.long)

    def opened(temperature: float = 2.0) -> CachedTeacher:
        return CachedTeacher(
            live, tmp_path / "cache", {"teacher": "x"}, shape=(6, 10), k=7, temperature=temperature
        )

    cache = opened()
    first = cache.targets(np.array([4, 1]), tokens[:2])
    wanted = coarsen(live.logits[[4, 1]], 7, 2.0)
    assert torch.equal(first.indices, wanted.indices)
    torch.testing.assert_close(first.log_probabilities, wanted.log_probabilities, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(first.log_probabilities.exp().sum(dim=-1), torch.ones(2, 10))
    again = cache.targets(np.array([1, 4, 2]), tokens[:3])
    assert live.asked == [[4, 1], [2]]
    assert torch.equal(again.log_probabilities[:2], first.log_probabilities[[1, 0]])
    cache.sync()
    cache.targets(np.array([5]), tokens[:1])  # never synced

    reopened = opened()
    found = reopened.targets(np.array([4, 1, 2, 5]), tokens[:4])
    assert live.asked[2:] == [[5], [5]]
    assert torch.equal(found.log_probabilities[:2], first.log_probabilities)
    opened(temperature=1.0).targets(np.array([4]), tokens[:1])
    assert live.asked[-1] == [4]  # another temperature is another distribution


def test_other_tokenizers_are_refused_with_the_first_difference(tiny_llama_dir: Path, edited: Edited) -> None:
    changed = edited(tiny_llama_dir)
    document = json.loads((changed / "tokenizer.json").read_text())
    vocab = document["model"]["vocab"]
    names = {number: token for token, number in vocab.items()}
    vocab[names[300]], vocab[names[301]] = 301, 300
    (changed / "tokenizer.json").write_text(json.dumps(document))
    teacher, student = open_source(str(tiny_llama_dir)), open_source(str(changed))
    assert check_models(teacher, teacher, settings_from({"n_ctx": 64})) == 512
    with pytest.raises(UsageError, match="id 300 is"):
        check_models(teacher, student, settings_from({"n_ctx": 64}))


def test_what_two_models_cannot_do_together_is_refused(tiny_llama_dir: Path) -> None:
    model = open_source(str(tiny_llama_dir))
    with pytest.raises(UsageError, match="context of edited|context of tiny-llama is 256"):
        check_models(model, model, settings_from({"n_ctx": 512}))
    with pytest.raises(UsageError, match="no teacher"):
        check_models(None, model, settings_from({"n_ctx": 64}))
    assert check_models(None, model, settings_from({"n_ctx": 64, "alpha": 0})) == 512
    with pytest.raises(UsageError, match="the models have 512"):
        check_models(model, model, settings_from({"n_ctx": 64, "cache_teacher": 512}))


def test_hidden_states_need_one_hidden_size(tiny_llama_dir: Path, tmp_path: Path) -> None:
    import shutil

    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512, "num_hidden_layers": 2}
    wide = LlamaConfig(
        hidden_size=128, intermediate_size=128, max_position_embeddings=256, tie_word_embeddings=True, **shape
    )
    LlamaForCausalLM(wide).save_pretrained(tmp_path / "wide")
    shutil.copy(tiny_llama_dir / "tokenizer.json", tmp_path / "wide" / "tokenizer.json")
    teacher, student = open_source(str(tmp_path / "wide")), open_source(str(tiny_llama_dir))
    assert check_models(teacher, student, settings_from({"n_ctx": 64})) == 512
    with pytest.raises(UsageError, match="hidden size of 128"):
        check_models(teacher, student, settings_from({"n_ctx": 64, "hidden_weight": 1}))


def test_what_does_not_fit_is_refused_with_numbers_and_a_knob(
    tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, host = open_source(str(tiny_llama_dir)), read_host()

    def with_memory(available_bytes: int) -> Callable[[], HostFacts]:
        return lambda: HostFacts(host.cpu, host.limits, host.ram_bytes, available_bytes, host.threads)

    settings = settings_from({"n_ctx": 64})
    needed = require_training_memory(model, model, settings, precision="f32").total_bytes
    monkeypatch.setattr(memory_module, "read_host", with_memory(needed))
    require_training_memory(model, model, settings, precision="f32")
    monkeypatch.setattr(memory_module, "read_host", with_memory(needed - 1))
    with pytest.raises(DoesNotFit, match="MiB are available") as refusal:
        require_training_memory(model, model, settings, precision="f32")
    assert "--micro-tokens" in str(refusal.value.hint)
    require_training_memory(None, model, settings, precision="f32")
    small = settings_from({"n_ctx": 64, "micro_tokens": 64})
    require_training_memory(model, model, small, precision="f32")
    less = training_memory(
        model, model, settings_from({"n_ctx": 64, "gradient_checkpointing": True}), precision="f32"
    )
    assert less.total_bytes < needed


def test_bf16_is_chosen_where_the_processor_has_it() -> None:
    assert choose_precision("auto", ("avx2", "avx512_bf16")) == "bf16"
    assert choose_precision("auto", ("avx2", "avx512f")) == "f32"
    assert choose_precision("f32", ("amx_bf16",)) == "f32"
