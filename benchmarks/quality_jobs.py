"""What the table is made of: one job per quantized model, each a call in a child process that leaves containers in a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quality_llama import FILE_TYPES
from quality_nncf import METHODS
from quality_rows import BITSANDBYTES, BUILDER, LLAMA_CPP, NNCF, OURS

from edgeport.export.quantize.solvers import SOLVERS

OUR_ENGINES = ("gguf", "onnx", "openvino")
WITH_IMATRIX = ("Q4_0", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_XS")
BUILDER_OPTIONS = {
    "rtn": ("algo_config=rtn",),
    "k_quant": ("algo_config=k_quant",),
    "k_quant, head INT8": ("algo_config=k_quant", "matmul_mixed_precision=last_matmul:int8"),
    "k_quant, mixed INT8": (
        "algo_config=k_quant",
        "matmul_mixed_precision=last_matmul:int8,mixed_layers:int8",
    ),
}
_FOUR_BIT_TYPES = ("Q4_0", "Q4_K_S", "Q4_K_M", "IQ4_XS", "IQ4_NL")


@dataclass(frozen=True, slots=True)
class Material:
    """What jobs start from. windows: .npy [windows, n_ctx]; the other paths are made before the first job that names them."""

    model: Path
    windows: Path
    calibration: Path
    calibration_tokens: int
    heldout: Path
    imatrix: Path
    float_gguf: Path
    float_graph: Path
    threads: int


@dataclass(frozen=True, slots=True)
class Job:
    """`target(**arguments, out=folder)` returns a container's path, or for ours the folder that holds one per engine.

    package: what must be installed. needs: fields of Material that must exist first. exact: measured in the engine's most
    exact arithmetic instead of as it ships.
    """

    name: str
    group: str
    engines: tuple[str, ...]
    target: str
    arguments: Mapping[str, Any]
    package: str
    needs: tuple[str, ...] = ()
    four_bit: bool = True
    float_weights: bool = False
    exact: bool = False


def peer_jobs(material: Material) -> list[Job]:
    return [*_llama_jobs(material), *_nncf_jobs(material), *_builder_jobs(material), *_nf4_jobs(material)]


def our_jobs(
    material: Material, budgets: Mapping[str, float], solvers: Sequence[str], mixed: Sequence[str]
) -> list[Job]:
    """Every solver with int4, int8 rounded and with the first calibrated solver, and per budget a mix with each of `mixed`.

    budgets: bits per weight by the name of what spends them, e.g. {"Q4_0": 4.9}.
    """
    jobs = [_our_job(material, f"int4 {solver}", "int4", solver) for solver in solvers if solver in SOLVERS]
    jobs += [
        _our_job(material, f"int8 {solver}", "int8", solver)
        for solver in ("rtn", "gptq")
        if solver in solvers
    ]
    for name, bits in budgets.items():
        jobs += [
            _our_job(material, f"mix {solver}, {name}'s bytes", "int4", solver, bits) for solver in mixed
        ]
    return [*jobs, _our_job(material, "bf16", "bf16", "rtn")]


def _our_job(material: Material, name: str, recipe: str, solver: str, bits: float | None = None) -> Job:
    options = {
        "recipe": recipe,
        "solver": solver,
        "format": ",".join(OUR_ENGINES),
        "calibration": str(material.calibration),
        "calibration-tokens": str(material.calibration_tokens),
        "heldout": str(material.heldout),
        "threads": str(material.threads),
    }
    if bits is not None:
        options["target-bits"] = f"{bits:.6f}"
    arguments = {"model": str(material.model), "options": options}
    return Job(
        name=name,
        group=OURS,
        engines=OUR_ENGINES,
        target="quality_ours:export",
        arguments=arguments,
        package="edgeport",
        four_bit=recipe == "int4",
        float_weights=recipe == "bf16",
    )


def _llama_jobs(material: Material) -> list[Job]:
    jobs = []
    for file_type in FILE_TYPES:
        for weighted in (False, True):
            if weighted and file_type not in WITH_IMATRIX:
                continue
            arguments = {
                "source": str(material.float_gguf),
                "imatrix": str(material.imatrix) if weighted else None,
                "file_type": file_type,
                "threads": material.threads,
            }
            jobs.append(
                Job(
                    name=f"{file_type} + imatrix" if weighted else file_type,
                    group=LLAMA_CPP,
                    engines=("gguf",),
                    target="quality_llama:quantize",
                    arguments=arguments,
                    package="llama_cpp",
                    needs=("float_gguf", "imatrix") if weighted else ("float_gguf",),
                    four_bit=file_type in _FOUR_BIT_TYPES,
                )
            )
    return jobs


def _nncf_jobs(material: Material) -> list[Job]:
    jobs = []
    for mode in ("INT4_SYM", "INT4_ASYM"):
        for method in METHODS:
            arguments = {
                "source": str(material.float_graph),
                "windows": str(material.windows),
                "mode": mode,
                "method": method,
                "threads": material.threads,
            }
            jobs.append(
                Job(
                    f"{mode} {method}",
                    NNCF,
                    ("openvino",),
                    "quality_nncf:compress",
                    arguments,
                    "nncf",
                    ("float_graph",),
                )
            )
    return jobs


def _builder_jobs(material: Material) -> list[Job]:
    jobs = []
    for name, options in BUILDER_OPTIONS.items():
        arguments = {"model": str(material.model), "options": ["block_size=32", "accuracy_level=4", *options]}
        target = "quality_torch_peers:build_onnx"
        jobs.append(Job(name, BUILDER, ("onnx-builder",), target, arguments, "onnxruntime_genai"))
    return jobs


def _nf4_jobs(material: Material) -> list[Job]:
    jobs = []
    for name, double in (("NF4", False), ("NF4, double quantization", True)):
        arguments = {"model": str(material.model), "double_quantization": double}
        target = "quality_torch_peers:quantize_nf4"
        # exact: in float32; transformers would multiply in bfloat16, whose rounding is no fault of NF4
        jobs.append(Job(name, BITSANDBYTES, ("bitsandbytes",), target, arguments, "bitsandbytes", exact=True))
    return jobs
