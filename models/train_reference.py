"""Trains the embedded reference model on Python's standard library and writes models/reference/.

    python models/train_reference.py --max-minutes 55          # measures the speed, then fixes a token budget
    python models/train_reference.py --tokens 12000000         # repeats a run of a known token budget
    python models/train_reference.py --resume                  # continues after a kill
    python models/train_reference.py --card-only               # card and picture again, from training.json

The learning rate follows a cosine over the token budget. The best checkpoint is chosen on validation modules which
are neither trained on nor shipped, so the shipped held-out text stays untouched until the model card is written.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from transformers import (
    AttentionInterface,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

sys.path.insert(0, str(Path(__file__).resolve().parent))  # models/ is a folder of scripts, not a package

import reference_card as card
import reference_data as data

HERE = Path(__file__).resolve().parent
BLOCK_TOKENS = 1024
ATTENTION_CHUNK = 128


@dataclass(frozen=True)
class Settings:
    """Everything that decides the result of a run, apart from the token budget."""

    seed: int = 0
    peak_learning_rate: float = 3e-3
    final_learning_rate_share: float = 0.02
    warmup_share: float = 0.02
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    gradient_clip: float = 1.0
    blocks_per_step: int = 4
    short_sequence_tokens: int = 512
    long_sequence_share: float = 0.15
    library_repeats: int = 2
    chat_share: float = 0.05
    steps_per_evaluation: int = 100
    patience_evaluations: int = 8
    threads: int = 2

    @property
    def tokens_per_step(self) -> int:
        return self.blocks_per_step * BLOCK_TOKENS


@dataclass
class Progress:
    """What a resumed run has to know."""

    step: int = 0
    seconds: float = 0.0
    token_budget: int = 0
    best_validation_loss: float = math.inf
    best_step: int = 0
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)


def model_config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=data.VOCAB_SIZE, hidden_size=256, intermediate_size=768, num_hidden_layers=6,
        num_attention_heads=8, num_key_value_heads=2, head_dim=32, max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, rms_norm_eps=1e-5,
        tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, pad_token_id=0)


def chunked_causal_attention(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    attention_mask: torch.Tensor | None, scaling: float, **_: object,
) -> tuple[torch.Tensor, None]:
    """Causal attention without padding; query [b, heads, s, d], key and value [b, kv, s, d] -> [b, s, heads, d].

    On a CPU this is nearly twice as fast as torch's flash kernel at a head size of 32: each chunk of queries sees
    only its own prefix, and the query heads of one KV head share one matrix product.
    """
    batch, heads, length, size = query.shape
    kv_heads = key.shape[1]
    grouped = (query * scaling).reshape(batch, kv_heads, heads // kv_heads, length, size)
    pieces = []
    for start in range(0, length, ATTENTION_CHUNK):
        stop = min(start + ATTENTION_CHUNK, length)
        rows = grouped[:, :, :, start:stop].reshape(batch, kv_heads, -1, size)
        scores = (rows @ key[:, :, :stop].transpose(-1, -2)).view(batch, kv_heads, -1, stop - start, stop)
        future = torch.ones(stop - start, stop, dtype=torch.bool).triu(start + 1)
        weights = F.softmax(scores.masked_fill(future, -torch.inf), dim=-1).flatten(2, 3)
        pieces.append((weights @ value[:, :, :stop]).view(batch, heads, stop - start, size))
    return torch.cat(pieces, dim=2).transpose(1, 2), None


class Stream:
    """Training tokens as blocks of BLOCK_TOKENS; the batch of a step depends on nothing but seed and step."""

    def __init__(self, documents: list[np.ndarray], settings: Settings) -> None:
        self._documents = documents
        self._settings = settings
        self._epoch = -1
        self._tokens = np.empty(0, dtype=np.int32)
        self._starts = np.empty(0, dtype=np.int64)
        total = sum(len(document) for document in documents)
        self.steps_per_epoch = (total - 2 * BLOCK_TOKENS) // BLOCK_TOKENS // settings.blocks_per_step

    def _shuffle(self, epoch: int) -> None:
        rng = np.random.default_rng([self._settings.seed, epoch])
        order = rng.permutation(len(self._documents))
        self._tokens = np.concatenate([self._documents[index] for index in order])
        offset = int(rng.integers(BLOCK_TOKENS))  # block borders fall elsewhere in each epoch
        count = self.steps_per_epoch * self._settings.blocks_per_step
        self._starts = offset + rng.permutation(count) * BLOCK_TOKENS
        self._epoch = epoch

    def batch(self, step: int, sequence_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets, both int64 [tokens_per_step / sequence_tokens, sequence_tokens]."""
        epoch, within = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._shuffle(epoch)
        first = within * self._settings.blocks_per_step
        starts = self._starts[first:first + self._settings.blocks_per_step]
        inputs = np.stack([self._tokens[start:start + BLOCK_TOKENS] for start in starts])
        targets = np.stack([self._tokens[start + 1:start + BLOCK_TOKENS + 1] for start in starts])
        shape = (-1, sequence_tokens)
        return (torch.from_numpy(inputs.reshape(shape).astype(np.int64)),
                torch.from_numpy(targets.reshape(shape).astype(np.int64)))


def training_documents(
    splits: data.Splits, tokenizer: PreTrainedTokenizerFast, settings: Settings
) -> tuple[list[np.ndarray], dict[str, int]]:
    """Token arrays that each end in end-of-text; library modules come `library_repeats` times per epoch."""
    library = [module.document for module in splits.training if not module.is_test]
    tests = [module.document for module in splits.training if module.is_test]
    chats = data.chat_documents(splits.training, settings.chat_share, settings.seed)
    end = tokenizer.convert_tokens_to_ids(data.END_OF_TEXT)

    def encode(texts: list[str]) -> list[np.ndarray]:
        encoded = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
        return [np.array([*item.ids, end], dtype=np.int32) for item in encoded]

    parts = {"library": encode(library), "test": encode(tests), "chat": encode(chats)}
    counts = {f"{name}_tokens": sum(map(len, arrays)) for name, arrays in parts.items()}
    documents = parts["library"] * settings.library_repeats + parts["test"] + parts["chat"]
    return documents, counts | {"epoch_tokens": sum(map(len, documents))}


def learning_rate(settings: Settings, share: float) -> float:
    """Linear warm-up, then a cosine; `share` is the part of the token budget that is used up."""
    if share < settings.warmup_share:
        return settings.peak_learning_rate * (share + 1e-4) / settings.warmup_share
    phase = min(1.0, (share - settings.warmup_share) / (1 - settings.warmup_share))
    floor = settings.final_learning_rate_share
    return settings.peak_learning_rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * phase)))


def make_optimizer(model: LlamaForCausalLM, settings: Settings) -> torch.optim.AdamW:
    """AdamW with weight decay on the linear weights only: norms and embeddings keep their scale."""
    embedding = model.model.embed_tokens.weight
    decayed = [p for p in model.parameters() if p.ndim == 2 and p is not embedding]
    others = [p for p in model.parameters() if p.ndim != 2 or p is embedding]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.peak_learning_rate, betas=(settings.beta1, settings.beta2), fused=True)


def language_loss(model: LlamaForCausalLM, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in nats; inputs and targets [b, s]."""
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=inputs, use_cache=False).last_hidden_state
        logits = F.linear(hidden, model.lm_head.weight)
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


@torch.no_grad()
def validation_loss(model: LlamaForCausalLM, ids: torch.Tensor, sequence_tokens: int) -> float:
    """Mean loss over non-overlapping windows of the validation text, ids [n]."""
    count = (len(ids) - 1) // sequence_tokens
    inputs = ids[:count * sequence_tokens].view(count, sequence_tokens)
    targets = ids[1:count * sequence_tokens + 1].view(count, sequence_tokens)
    losses = [language_loss(model, inputs[i:i + 8], targets[i:i + 8]).item() * len(inputs[i:i + 8])
              for i in range(0, count, 8)]
    return sum(losses) / count


def save_state(folder: Path, name: str, state: dict[str, object]) -> None:
    """Writes beside, then renames: a kill never leaves half a checkpoint."""
    temporary = folder / f"{name}.tmp"
    torch.save(state, temporary)
    os.replace(temporary, folder / name)


class Trainer:
    """One training run: model, optimizer, progress and the folder with its checkpoints."""

    def __init__(self, settings: Settings, stream: Stream, validation_ids: torch.Tensor, folder: Path) -> None:
        torch.manual_seed(settings.seed)
        AttentionInterface.register("chunked_causal", chunked_causal_attention)
        self.settings, self.stream, self.validation_ids, self.folder = settings, stream, validation_ids, folder
        self.model = LlamaForCausalLM._from_config(model_config(), attn_implementation="chunked_causal")
        self.optimizer = make_optimizer(self.model, settings)
        self.progress = Progress()
        folder.mkdir(parents=True, exist_ok=True)

    def resume(self) -> None:
        state = torch.load(self.folder / "state.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])

    def _step(self, share: float) -> float:
        long_form = share >= 1 - self.settings.long_sequence_share
        length = BLOCK_TOKENS if long_form else self.settings.short_sequence_tokens
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.settings, share)
        loss = language_loss(self.model, *self.stream.batch(self.progress.step, length))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def measure_budget(self, minutes: float) -> int:
        """Tokens that fit into `minutes` at the speed of the first steps, less a tenth for evaluation and neighbours.

        The measured steps are undone, so that a run with the same budget given as --tokens is the same run.
        """
        weights = {name: value.clone() for name, value in self.model.state_dict().items()}
        for index in range(25):
            if index == 5:
                start = time.perf_counter()
            self._step(0.0)
        speed = 20 * self.settings.tokens_per_step / (time.perf_counter() - start)
        self.model.load_state_dict(weights)
        self.optimizer = make_optimizer(self.model, self.settings)
        steps = int(speed * minutes * 60 * 0.9) // self.settings.tokens_per_step
        return steps * self.settings.tokens_per_step

    def _evaluate(self, training_loss: float, tokens: int) -> None:
        loss = validation_loss(self.model, self.validation_ids, self.settings.short_sequence_tokens)
        progress = self.progress
        if loss < progress.best_validation_loss:
            progress.best_validation_loss, progress.best_step = loss, progress.step
            save_state(self.folder, "best.pt", dict(self.model.state_dict()))
        progress.history.append({"tokens": tokens, "seconds": round(progress.seconds, 1),
                                 "training_loss": round(training_loss, 4), "validation_loss": round(loss, 4),
                                 "learning_rate": self.optimizer.param_groups[0]["lr"]})
        save_state(self.folder, "state.pt", {"model": self.model.state_dict(),
                                             "optimizer": self.optimizer.state_dict(),
                                             "progress": dataclasses.asdict(progress)})
        left = progress.seconds / tokens * (progress.token_budget - tokens) / 60
        print(f"{tokens / 1e6:7.2f}M tokens  train {training_loss:.3f}  validation {loss:.3f}  "
              f"{tokens / progress.seconds:6.0f} tokens/s  {left:5.1f} min left", flush=True)

    def run(self, max_seconds: float) -> str:
        """Trains to the token budget; returns why it stopped: 'budget', 'patience' or 'time'."""
        progress, settings = self.progress, self.settings
        steps = progress.token_budget // settings.tokens_per_step
        losses: list[float] = []
        while progress.step < steps:
            start = time.perf_counter()
            losses.append(self._step(progress.step / steps))
            progress.step += 1
            progress.seconds += time.perf_counter() - start
            if progress.step % settings.steps_per_evaluation and progress.step < steps:
                continue
            start = time.perf_counter()
            self._evaluate(sum(losses) / len(losses), progress.step * settings.tokens_per_step)
            progress.seconds += time.perf_counter() - start
            losses = []
            if progress.step - progress.best_step >= settings.patience_evaluations * settings.steps_per_evaluation:
                return "patience"
            if progress.seconds > max_seconds:
                return "time"
        return "budget"


def write_texts(splits: data.Splits, output: Path) -> None:
    folder = output / "text"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "calibration.txt").write_text(data.join_documents(splits.calibration), encoding="utf-8")
    (folder / "heldout.txt").write_text(data.join_documents(splits.heldout), encoding="utf-8")
    (folder / "LICENSE-PSF.txt").write_text(card.licence_notice(data.standard_library(), platform.python_version()), encoding="utf-8")
    names = {name: [module.path for module in getattr(splits, name)]
             for name in ("calibration", "heldout", "validation", "training")}
    (folder / "split.json").write_text(json.dumps(names, indent=0) + "\n", encoding="utf-8")


def write_model(best: dict[str, torch.Tensor], output: Path) -> int:
    """Saves the best weights in bf16 as transformers does; returns the number of parameters."""
    model = LlamaForCausalLM(model_config())
    model.load_state_dict(best)
    model = model.to(torch.bfloat16)
    model.config.architectures = ["LlamaForCausalLM"]
    model.generation_config = GenerationConfig(bos_token_id=0, eos_token_id=[0, 2], pad_token_id=0)
    model.save_pretrained(output)
    return sum(parameter.numel() for parameter in model.parameters())


def training_record(trainer: Trainer, stop: str, counts: dict[str, int], splits: data.Splits) -> dict[str, object]:
    progress = trainer.progress
    sizes = {name: {"modules": len(getattr(splits, name)),
                    "bytes": sum(module.size_bytes for module in getattr(splits, name))}
             for name in ("training", "calibration", "heldout", "validation")}
    return {
        "repeat_command": f"python models/train_reference.py --tokens {progress.token_budget}"
                          f" --seed {trainer.settings.seed}",
        "settings": dataclasses.asdict(trainer.settings), "stopped_by": stop,
        "tokens_per_step": trainer.settings.tokens_per_step,
        "trained_tokens": progress.step * trainer.settings.tokens_per_step, "token_budget": progress.token_budget,
        "trained_minutes": round(progress.seconds / 60, 1), "best_step": progress.best_step,
        "best_validation_loss": round(progress.best_validation_loss, 4), "data": sizes, "stream": counts,
        "versions": {"python": platform.python_version(), "torch": torch.__version__,
                     "transformers": transformers.__version__, "numpy": np.__version__},
        "history": progress.history,
    }


def train(arguments: argparse.Namespace) -> None:
    settings = Settings(seed=arguments.seed, peak_learning_rate=arguments.learning_rate)
    torch.set_num_threads(settings.threads)
    output: Path = arguments.output
    splits = data.split_modules(data.collect_modules(data.standard_library()))
    if arguments.resume:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(output)
    else:
        tokenizer = data.train_tokenizer(splits.training)
        tokenizer.save_pretrained(output)
        write_texts(splits, output)
    documents, counts = training_documents(splits, tokenizer, settings)
    validation = tokenizer.backend_tokenizer.encode(data.join_documents(splits.validation)).ids
    trainer = Trainer(settings, Stream(documents, settings), torch.tensor(validation), arguments.work)
    if arguments.resume:
        trainer.resume()
    else:
        trainer.progress.token_budget = arguments.tokens or trainer.measure_budget(arguments.max_minutes)
    print(f"{counts}; budget {trainer.progress.token_budget:,} tokens", flush=True)
    # A budget given in minutes may overrun when neighbours take the processor, but not without end.
    limit = math.inf if arguments.tokens else arguments.max_minutes * 60 * 1.3
    stop = trainer.run(limit)
    parameters = write_model(torch.load(arguments.work / "best.pt", weights_only=True), output)
    record = training_record(trainer, stop, counts, splits) | {"parameters": parameters}
    card.write_record(output, record | card.measure(output))
    card.write_card(output)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=HERE / "reference")
    parser.add_argument("--work", type=Path, default=HERE / ".training", help="checkpoints of the running training")
    parser.add_argument("--max-minutes", type=float, default=55.0)
    parser.add_argument("--tokens", type=int, default=0, help="token budget; 0 measures the speed first")
    parser.add_argument("--learning-rate", type=float, default=Settings.peak_learning_rate)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--card-only", action="store_true")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    if arguments.card_only:
        card.write_card(arguments.output)
    else:
        train(arguments)


if __name__ == "__main__":
    main()
