"""Measures the trained reference model and writes its card: training.json in, README.md and loss.png out.

No number in the card is typed by hand. Perplexity follows llama.cpp's convention: chunks of 512 tokens that do not
overlap, no BOS, and only the second half of each chunk is scored.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

TEMPLATE = Path(__file__).resolve().parent / "card_template.md"
CONTEXT_TOKENS = 512
QUICK_CHUNKS = 16  # what a unit test repeats
SAMPLE_TOKENS = 96
SAMPLE_SEED = 7
SAMPLING = {"temperature": 0.8, "top_k": 40, "top_p": 0.95}
# Each prompt ends where a token ends: in a byte-level BPE a space belongs to the word behind it.
PROMPTS = (
    "import os\n",
    "def",
    "for i in range(",
    'class Stack:\n    """A stack."""\n\n    def __init__(self):',
    "def read_file(path):\n    with open(path",
)
CHAT_PROMPT = 'def read_lines(path):\n    """Return the lines of a text file."""'
COLOURS = {"training": "#8a94a6", "validation": "#1f5fbf"}

NOTICE = """\
calibration.txt and heldout.txt in this folder are excerpts of the Python {version} standard library: whole modules, each
behind a comment `# --- path/module.py`, with line ends normalised and trailing blank lines removed, otherwise unchanged.

Copyright (c) 2001 Python Software Foundation; All Rights Reserved, with the earlier copyrights listed in the licence
below. They are distributed under the PSF License Agreement, which follows.

"""


def licence_notice(stdlib: Path, version: str) -> str:
    """The attribution and, where the Python installation has it, the licence's text."""
    licence = stdlib / "LICENSE.txt"
    text = (
        licence.read_text(encoding="utf-8")
        if licence.exists()
        else "See https://docs.python.org/3/license.html\n"
    )
    return NOTICE.format(version=version) + text


def perplexity(model: LlamaForCausalLM, ids: list[int], context_tokens: int = CONTEXT_TOKENS) -> float:
    """exp of the mean loss over the second half of each whole chunk; the last, incomplete chunk is left out."""
    chunks = torch.tensor(ids[: len(ids) // context_tokens * context_tokens]).view(-1, context_tokens)
    half = context_tokens // 2
    total = 0.0
    for batch in chunks.split(8):
        with torch.no_grad():
            logits = model(input_ids=batch, use_cache=False).logits[:, half:-1].float()
        total += F.cross_entropy(logits.flatten(0, 1), batch[:, half + 1 :].flatten(), reduction="sum").item()
    return math.exp(total / (len(chunks) * (half - 1)))


def perplexities(folder: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Perplexity, token count and characters per token of the two shipped texts."""
    result: dict[str, Any] = {"context_tokens": CONTEXT_TOKENS, "compute": "float32 from bf16 weights"}
    for name in ("heldout", "calibration"):
        text = (folder / "text" / f"{name}.txt").read_text(encoding="utf-8")
        ids = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        result[name] = {
            "perplexity": round(perplexity(model, ids), 4),
            "tokens": len(ids),
            "perplexity_of_first_chunks": round(perplexity(model, ids[: QUICK_CHUNKS * CONTEXT_TOKENS]), 4),
            "first_chunks": QUICK_CHUNKS,
            "characters_per_token": round(len(text) / len(ids), 3),
        }
    return result


def complete(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, prompt: str, *, sampled: bool, tokens: int
) -> str:
    """The prompt's continuation, without the prompt."""
    inputs = tokenizer(prompt, add_special_tokens=False, return_tensors="pt", return_token_type_ids=False)
    torch.manual_seed(SAMPLE_SEED)
    choice = {"do_sample": True, **SAMPLING} if sampled else {"do_sample": False}
    output = model.generate(**inputs, max_new_tokens=tokens, **choice)
    return str(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def samples(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, str]]:
    """Greedy and sampled completions of the fixed prompts, never picked by hand: one seed for all."""
    found = []
    for prompt in PROMPTS:
        for mode in ("greedy", "sampled"):
            text = complete(model, tokenizer, prompt, sampled=mode == "sampled", tokens=SAMPLE_TOKENS)
            found.append({"mode": mode, "prompt": prompt, "completion": text})
    turns = [{"role": "user", "content": CHAT_PROMPT}]
    prompt = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    text = complete(model, tokenizer, prompt, sampled=False, tokens=SAMPLE_TOKENS)
    return [*found, {"mode": "chat, greedy", "prompt": CHAT_PROMPT, "completion": text}]


def measure(folder: Path) -> dict[str, Any]:
    """Loads the shipped weights as a user would, in float32 arithmetic, and measures them."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    size = (folder / "model.safetensors").stat().st_size
    return {
        "quality": perplexities(folder, model, tokenizer),
        "samples": samples(model, tokenizer),
        "weights_bytes": size,
    }


def read_record(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    return record


def write_record(folder: Path, record: dict[str, Any]) -> None:
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def draw_losses(record: dict[str, Any], target: Path) -> None:
    """Training and validation loss over tokens, labelled at the lines' ends."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    history = record["history"]
    millions = [point["tokens"] / 1e6 for point in history]
    figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=120, layout="constrained")
    for name, colour in COLOURS.items():
        axes.plot(
            millions, [point[f"{name}_loss"] for point in history], color=colour, linewidth=2, label=name
        )
    best = min(history, key=lambda point: point["validation_loss"])
    axes.plot(best["tokens"] / 1e6, best["validation_loss"], "o", color=COLOURS["validation"], markersize=7)
    axes.annotate(
        f"best validation {best['validation_loss']:.3f}",
        (best["tokens"] / 1e6, best["validation_loss"]),
        xytext=(-8, 26),
        textcoords="offset points",
        ha="right",
        color=COLOURS["validation"],
        arrowprops={"arrowstyle": "-", "color": COLOURS["validation"]},
    )
    axes.set(
        xlabel="tokens trained (millions)",
        ylabel="loss (nats per token)",
        title="Reference model: loss during training",
        xlim=(0, None),
    )
    axes.grid(color="#e3e6eb")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(target, metadata={"Software": None})
    pyplot.close(figure)


def _fenced(sample: dict[str, str]) -> str:
    last_line = sample["prompt"].splitlines()[-1].strip()
    code = f"{sample['prompt']}{sample['completion'].rstrip()}"
    return f"*{sample['mode']}*, after `{last_line}`\n\n```python\n{code}\n```\n"


def _chat_fenced(sample: dict[str, str]) -> str:
    return (
        f"User:\n\n```python\n{sample['prompt']}\n```\n\nModel ({sample['mode']}):\n\n"
        f"```python\n{sample['completion'].rstrip()}\n```\n"
    )


def _data_rows(record: dict[str, Any]) -> str:
    uses = {
        "training": "the weights and the tokenizer",
        "validation": "choosing the checkpoint; not shipped",
        "calibration": "`text/calibration.txt`, for quantizers",
        "heldout": "`text/heldout.txt`, for perplexity",
    }
    sizes = record["data"]
    return "\n".join(
        f"| {name} | {sizes[name]['modules']:,} | {sizes[name]['bytes'] / 1024:,.0f} | {use} |"
        for name, use in uses.items()
    )


def render_card(record: dict[str, Any]) -> str:
    """The card's text: the template filled from the record, and from nothing else."""
    completions = [_fenced(sample) for sample in record["samples"] if not sample["mode"].startswith("chat")]
    chats = [_chat_fenced(sample) for sample in record["samples"] if sample["mode"].startswith("chat")]
    ends = {"schedule": "its schedule", "patience": "early stopping, the validation loss no longer fell"}
    derived = {
        "weights_mb": record["weights_bytes"] / 1e6,
        "trained_millions": record["trained_tokens"] / 1e6,
        "epochs": record["trained_tokens"] / record["stream"]["epoch_tokens"],
        "chat_millions": record["stream"]["chat_tokens"] / 1e6,
        "data_rows": _data_rows(record),
        "stopped_by": ends[record["stopped_by"]],
        "sample_tokens": SAMPLE_TOKENS,
        "sample_seed": SAMPLE_SEED,
        "sampling": SAMPLING,
        "completions": "\n".join(completions),
        "chats": "\n".join(chats),
    }
    return TEMPLATE.read_text(encoding="utf-8").format(**{**record, **derived})


def write_card(folder: Path) -> None:
    """README.md and loss.png from training.json alone."""
    record = read_record(folder)
    draw_losses(record, folder / "loss.png")
    (folder / "README.md").write_text(render_card(record), encoding="utf-8")
