"""Trains the embedded reference model on Python's standard library and writes models/reference/.

    python models/train_reference.py --max-minutes 55                          # fits its schedule into that time
    python models/train_reference.py --repeat models/reference/training.json   # the same steps again
    python models/train_reference.py --resume                                  # continues after a kill
    python models/train_reference.py --measure                                 # shipped weights measured again, card
    python models/train_reference.py --card-only                               # card and picture, from training.json

The learning rate follows a cosine over the run. How much of the run one step is follows the clock and is recorded.
The best checkpoint is chosen on validation modules which are neither trained on nor shipped, so the shipped held-out
text stays untouched until the model card is written.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import (
    GenerationConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

sys.path.insert(0, str(Path(__file__).resolve().parent))  # models/ is a folder of scripts, not a package

import reference_card as card
import reference_data as data
from reference_model import (
    Settings,
    language_loss,
    learning_rate_factor,
    make_optimizers,
    model_config,
    new_model,
)
from reference_schedule import STEPS_PER_SCHEDULE_UPDATE, ClockPacer, Pacer, Progress, RecordedPacer
from reference_stream import Stream, training_documents

HERE = Path(__file__).resolve().parent


def save_state(folder: Path, name: str, state: dict[str, object]) -> None:
    """Writes beside, then renames: a kill never leaves half a checkpoint."""
    temporary = folder / f"{name}.tmp"
    torch.save(state, temporary)
    os.replace(temporary, folder / name)


class Trainer:
    """One training run: a model, one replica per worker that shares its weights, optimizers and checkpoints.

    Workers are threads with one processor each. They meet once per step, not once per operator, which keeps the
    speed when other programs take turns on the processors.
    """

    def __init__(
        self, settings: Settings, stream: Stream, validation_ids: torch.Tensor, folder: Path
    ) -> None:
        torch.manual_seed(settings.seed)
        torch.set_num_threads(1)
        self.settings, self.stream, self.validation_ids, self.folder = (
            settings,
            stream,
            validation_ids,
            folder,
        )
        self.model = new_model()
        self.replicas = [self.model, *(new_model() for _ in range(settings.workers - 1))]
        self.optimizers = make_optimizers(self.model, settings)
        self.pool = ThreadPoolExecutor(settings.workers, initializer=torch.set_num_threads, initargs=(1,))
        self.progress = Progress()
        self._share_weights()
        folder.mkdir(parents=True, exist_ok=True)

    def _share_weights(self) -> None:
        for replica in self.replicas[1:]:
            for mine, shared in zip(replica.parameters(), self.model.parameters(), strict=True):
                mine.data = shared.data

    def resume(self) -> None:
        state = torch.load(self.folder / "state.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.progress = Progress(**state["progress"])
        self._share_weights()

    def _gradients(self, inputs: torch.Tensor, targets: torch.Tensor) -> float:
        """Leaves the mean gradient of inputs and targets [b, s] in the model; returns the mean loss."""

        def work(replica: LlamaForCausalLM, x: torch.Tensor, y: torch.Tensor) -> float:
            loss = language_loss(replica, x, y)
            (loss / self.settings.workers).backward()
            return float(loss.item())

        parts = (inputs.chunk(self.settings.workers), targets.chunk(self.settings.workers))
        losses = list(self.pool.map(work, self.replicas, *parts))
        for replica in self.replicas[1:]:
            for mine, shared in zip(replica.parameters(), self.model.parameters(), strict=True):
                shared.grad.add_(mine.grad)
                mine.grad = None
        return sum(losses) / len(losses)

    def _step(self) -> float:
        share = self.progress.share
        long_form = share >= 1 - self.settings.long_sequence_share
        length = self.settings.block_tokens if long_form else self.settings.short_sequence_tokens
        factor = learning_rate_factor(self.settings, share)
        loss = self._gradients(*self.stream.batch(self.progress.step, length))
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.gradient_clip)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * factor
        list(self.pool.map(lambda optimizer: optimizer.step(), self.optimizers))
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        return loss

    def validation_loss(self) -> float:
        """Mean loss over non-overlapping windows of the validation text."""
        length = self.settings.short_sequence_tokens
        count = (len(self.validation_ids) - 1) // length
        inputs = self.validation_ids[: count * length].view(count, length).split(4)
        targets = self.validation_ids[1 : count * length + 1].view(count, length).split(4)

        def work(x: torch.Tensor, y: torch.Tensor) -> float:
            with torch.no_grad():
                return float(language_loss(self.model, x, y).item()) * len(x)

        return sum(self.pool.map(work, inputs, targets)) / count

    def _evaluate(self, training_loss: float) -> None:
        progress = self.progress
        loss = self.validation_loss()
        if loss < progress.best_validation_loss:
            progress.best_validation_loss, progress.best_step = loss, progress.step
            save_state(self.folder, "best.pt", dict(self.model.state_dict()))
        tokens = progress.step * self.settings.tokens_per_step
        progress.history.append(
            {
                "tokens": tokens,
                "seconds": round(progress.seconds, 1),
                "share": round(progress.share, 4),
                "training_loss": round(training_loss, 4),
                "validation_loss": round(loss, 4),
            }
        )
        save_state(
            self.folder,
            "state.pt",
            {
                "model": self.model.state_dict(),
                "progress": dataclasses.asdict(progress),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            },
        )
        left = progress.seconds * (1 / max(progress.share, 1e-6) - 1) / 60
        print(
            f"{tokens / 1e6:6.2f}M tokens  train {training_loss:.3f}  validation {loss:.3f}  "
            f"{tokens / progress.seconds:5.0f} tokens/s  {progress.share:4.0%}, {left:5.1f} min left",
            flush=True,
        )

    def _set_pace(self, pacer: Pacer) -> None:
        pace = pacer.pace(self.progress)
        if pace != self.progress.pace:
            self.progress.pace = pace
            self.progress.schedule.append([self.progress.step, pace])

    def run(self, pacer: Pacer) -> str:
        """Trains until the schedule is used up or the validation loss stops falling; returns which it was."""
        progress, settings = self.progress, self.settings
        losses: list[float] = []
        while not progress.finished:
            start = time.perf_counter()
            if progress.step % STEPS_PER_SCHEDULE_UPDATE == 0:
                self._set_pace(pacer)
            losses.append(self._step())
            progress.step += 1
            progress.share += progress.pace
            progress.seconds += time.perf_counter() - start
            if progress.step % settings.steps_per_evaluation and not progress.finished:
                continue
            start = time.perf_counter()
            self._evaluate(sum(losses) / len(losses))
            progress.seconds += time.perf_counter() - start
            losses = []
            if (
                progress.step - progress.best_step
                >= settings.patience_evaluations * settings.steps_per_evaluation
            ):
                return "patience"
        return "schedule"


def write_texts(splits: data.Splits, output: Path) -> None:
    folder = output / "text"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "calibration.txt").write_text(data.join_documents(splits.calibration), encoding="utf-8")
    (folder / "heldout.txt").write_text(data.join_documents(splits.heldout), encoding="utf-8")
    (folder / "LICENSE-PSF.txt").write_text(
        card.licence_notice(data.standard_library(), platform.python_version()), encoding="utf-8"
    )
    names = {
        name: [module.path for module in getattr(splits, name)]
        for name in ("calibration", "heldout", "validation", "training")
    }
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


def training_record(
    trainer: Trainer, stop: str, counts: dict[str, int], splits: data.Splits
) -> dict[str, object]:
    progress = trainer.progress
    sizes = {
        name: {
            "modules": len(getattr(splits, name)),
            "bytes": sum(module.size_bytes for module in getattr(splits, name)),
        }
        for name in ("training", "calibration", "heldout", "validation")
    }
    return {
        "repeat_command": "python models/train_reference.py --repeat models/reference/training.json -o build/reference",
        "settings": dataclasses.asdict(trainer.settings),
        "stopped_by": stop,
        "tokens_per_step": trainer.settings.tokens_per_step,
        "trained_tokens": progress.step * trainer.settings.tokens_per_step,
        "schedule": progress.schedule,
        "trained_minutes": round(progress.seconds / 60, 1),
        "best_step": progress.best_step,
        "best_validation_loss": round(progress.best_validation_loss, 4),
        "data": sizes,
        "stream": counts,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "numpy": np.__version__,
        },
        "history": progress.history,
    }


def make_pacer(arguments: argparse.Namespace) -> Pacer:
    if arguments.repeat is None:
        return ClockPacer(arguments.max_minutes)
    return RecordedPacer(json.loads(arguments.repeat.read_text(encoding="utf-8"))["schedule"])


def train(arguments: argparse.Namespace) -> None:
    settings, pacer = Settings(seed=arguments.seed), make_pacer(arguments)
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
    print(counts, flush=True)
    stop = trainer.run(pacer)
    parameters = write_model(torch.load(arguments.work / "best.pt", weights_only=True), output)
    record = training_record(trainer, stop, counts, splits) | {"parameters": parameters}
    card.write_record(output, record | card.measure(output))
    card.write_card(output)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, default=HERE / "reference")
    parser.add_argument(
        "--work", type=Path, default=HERE / ".training", help="checkpoints of the running training"
    )
    parser.add_argument(
        "--max-minutes", type=float, default=55.0, help="the schedule is fitted into this time"
    )
    parser.add_argument(
        "--repeat", type=Path, metavar="training.json", help="follow an earlier run's schedule"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--card-only", action="store_true")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    if arguments.measure:
        card.write_record(
            arguments.output, card.read_record(arguments.output) | card.measure(arguments.output)
        )
    if arguments.measure or arguments.card_only:
        card.write_card(arguments.output)
    else:
        train(arguments)


if __name__ == "__main__":
    main()
