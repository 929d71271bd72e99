"""The command that starts a planned model: one line to paste, with the options the plan counted with.

Options: `vllm serve` (docs.vllm.ai, Engine Arguments; Parallelism and Scaling), `llama-server` (llama.cpp, tools/server/README.md,
docs/multi-gpu.md), `edgeport run`. DIR stands for the folder that `edgeport export` writes.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeport.devices.profile import ENGINE_FORMATS
from edgeport.devices.split import Split

KV_TYPES_LLAMA = {8: "q8_0", 4: "q4_0"}


@dataclass(frozen=True, slots=True)
class Launch:
    """What a line needs to know; kv_bits None is the engine's own choice. utilization: share of a GPU's memory."""

    engine: str
    context_length: int
    batch: int = 1
    kv_bits: int | None = None
    on_gpu: bool = False
    utilization: float = 0.9
    split: Split | None = None


def launch_line(launch: Launch, *, folder: str = "DIR") -> str:
    """The command line: a server for GPUs, batches and small caches, `edgeport run` for the rest."""
    if launch.engine == "vllm":
        return _vllm(launch, folder)
    if launch.engine == "llama.cpp" and (launch.on_gpu or launch.batch > 1 or launch.kv_bits is not None):
        return _llama_server(launch, folder)
    runtime = ENGINE_FORMATS[launch.engine]
    return f"edgeport run {folder} PROMPT --runtime {runtime} --context-length {launch.context_length}"


def _vllm(launch: Launch, folder: str) -> str:
    split = launch.split
    words = [f"vllm serve {folder}/safetensors"]
    if split is not None and split.tensor_parallel > 1:
        words.append(f"--tensor-parallel-size {split.tensor_parallel}")
    if split is not None and split.pipeline_parallel > 1:
        words.append(f"--pipeline-parallel-size {split.pipeline_parallel}")
    words.append(f"--max-model-len {launch.context_length}")
    words.append(f"--gpu-memory-utilization {launch.utilization:.2f}")
    words.append(f"--max-num-seqs {launch.batch}")
    if launch.kv_bits == 8:
        words.append("--kv-cache-dtype fp8")
    return _partition(split) + " ".join(words)


def _partition(split: Split | None) -> str:
    """vLLM spreads layers evenly; another division is told by an environment variable."""
    if split is None or split.pipeline_parallel == 1:
        return ""
    layers = [stage.layers for stage in split.stages]
    return "" if len(set(layers)) == 1 else f"VLLM_PP_LAYER_PARTITION={','.join(map(str, layers))} "


def _llama_server(launch: Launch, folder: str) -> str:
    words = [f"llama-server --model {folder}/gguf/NAME.gguf"]
    if launch.on_gpu:
        words.append("--n-gpu-layers 999")
    words.append(f"--ctx-size {launch.context_length * launch.batch}")  # of all slots together
    if launch.batch > 1:
        words.append(f"--parallel {launch.batch}")
    if launch.kv_bits in KV_TYPES_LLAMA:
        name = KV_TYPES_LLAMA[launch.kv_bits]
        words.append(f"--flash-attn on --cache-type-k {name} --cache-type-v {name}")
    if launch.split is not None and launch.split.pipeline_parallel > 1:
        layers = ",".join(str(stage.layers) for stage in launch.split.stages)
        words.append(f"--split-mode layer --tensor-split {layers}")
    return " ".join(words)
