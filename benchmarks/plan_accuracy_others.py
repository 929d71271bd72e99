"""What other estimators say: accelerate's command, and the two rules of thumb for decoding that tools print.

accelerate estimate-memory asks the hub for a configuration; here its own calculation runs on the twin's: the size of the
model's parts on the meta device in float32, over 4 for int8 and 8 for int4 (accelerate/commands/estimate.py).
llmfit's formula for devices whose bandwidth it knows is bandwidth / (parameters x bytes per parameter) x 0.55, with half a byte
for 4-bit and one for 8-bit weights (github.com/AlexsJones/llmfit); processors get a constant there, so this is its better half.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from edgeport.runtimes.isolation import run_isolated

ACCELERATE_DIVISORS = {"int8": 4, "int4": 8}
LLMFIT_BYTES_PER_PARAMETER = {"int8": 1.0, "int4": 0.5}
LLMFIT_EFFICIENCY = 0.55


def accelerate_bytes(model: Path, precision: str) -> int | None:
    """None where accelerate is not installed. In a process of its own: torch is not needed for anything else here."""
    if importlib.util.find_spec("accelerate") is None or importlib.util.find_spec("transformers") is None:
        return None
    found = run_isolated(
        "plan_accuracy_others:float32_bytes", {"model": str(model)}, environment={"HF_HUB_OFFLINE": "1"}
    )
    return round(int(found) / ACCELERATE_DIVISORS[precision])


def float32_bytes(model: str) -> int:
    """In the child: accelerate's total size of the model."""
    from accelerate import init_empty_weights
    from accelerate.utils import calculate_maximum_sizes
    from transformers import AutoConfig, AutoModel

    with init_empty_weights():
        empty = AutoModel.from_config(AutoConfig.from_pretrained(model), dtype="float32")
    total, _largest = calculate_maximum_sizes(empty)
    return int(total)


def bandwidth_only_tokens_per_s(bandwidth_bytes_per_s: float, file_bytes: int) -> float:
    return bandwidth_bytes_per_s / file_bytes


def llmfit_tokens_per_s(bandwidth_bytes_per_s: float, parameters: int, precision: str) -> float:
    size = parameters * LLMFIT_BYTES_PER_PARAMETER[precision]
    return bandwidth_bytes_per_s / size * LLMFIT_EFFICIENCY
