"""Which matrix kernel llama.cpp's processor backend has for a tensor type, and why a tensor would miss the better one.

Three families multiply faster than one dot product of a row at a time. `repack`: rows interleaved at load, for prompts and
single tokens. `tiled`: blocks of K- and IQ-types, for prompts, on x86. `tinyBLAS` (llamafile): blocks of the simple types, for
prompts. A single token always reads each weight once, so that a dot product is no loss there.
Spec: ggml/src/ggml-cpu/{repack,tiled/tiled,llamafile/sgemm}.cpp and amx/amx.cpp of the llama.cpp in llama-cpp-python 0.3.36.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from edgeport.runtimes.fast_path.kernel import Kernel

Features = Collection[str]
"""Names llama_print_system_info shows with 1, for example AVX2, DOTPROD, LLAMAFILE."""


@dataclass(frozen=True, slots=True)
class Repack:
    """features: any one of them is enough. rows_multiple: of the tensor's output features."""

    features: tuple[str, ...]
    rows_multiple: int


_ARM = ("MATMUL_INT8", "DOTPROD")
_X86_REPACK: Mapping[str, Repack] = {
    "Q4_0": Repack(("AVX2",), 8),
    "Q4_K": Repack(("AVX2",), 8),
    "IQ4_NL": Repack(("AVX2",), 8),
    "MXFP4": Repack(("AVX2",), 8),
    "Q2_K": Repack(("AVX512",), 8),
}
_ARM_REPACK: Mapping[str, Repack] = {
    "Q4_0": Repack(_ARM, 4),
    "Q4_K": Repack(_ARM, 8),
    "Q5_K": Repack(_ARM, 8),
    "Q6_K": Repack(_ARM, 8),
    "Q8_0": Repack(_ARM, 4),
    "Q1_0": Repack(_ARM, 4),
    "IQ4_NL": Repack(("DOTPROD",), 4),
    "MXFP4": Repack(("DOTPROD",), 4),
}
_TILED = frozenset(
    ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_S", "IQ1_M")
)  # fmt: skip
_X86_TINYBLAS: Mapping[str, str] = {
    "F32": "AVX",
    "F16": "F16C",
    "BF16": "AVX2",
    "Q8_0": "AVX",
    "Q4_0": "AVX",
    "Q5_0": "AVX",
    "IQ4_NL": "AVX",
}
_ARM_TINYBLAS: Mapping[str, str] = {"F32": "NEON", "F16": "NEON", "Q8_0": "DOTPROD", "Q4_0": "DOTPROD"}
"""Type: the feature its kernel was compiled for."""
_BETTER_X86: Mapping[str, str] = {"Q4_1": "Q4_K or Q4_0", "Q5_1": "Q5_K or Q8_0", "BF16": "F16 or Q8_0"}
_BETTER_ARM: Mapping[str, str] = {
    **_BETTER_X86,
    "Q5_0": "Q5_K or Q8_0",
    "Q3_K": "Q4_K",
    "Q2_K": "Q4_K",
    "IQ4_XS": "IQ4_NL or Q4_K",
}
_BETTER = "Q4_K, Q4_0 or Q8_0"


def unpacked_kernel(kind: str, rows: int, features: Features) -> Kernel:
    """The kernel of a matrix of type `kind` that the log does not show as repacked."""
    blocked = _blocked_kernel(kind, features)
    missed = (_ARM_REPACK if _is_arm(features) else _X86_REPACK).get(kind)
    if missed is not None:
        cause, cure = _why_not_repacked(kind, rows, missed, features)
        return Kernel(blocked or "dot products, row by row", False, cause, cure, could_repack=True)
    if blocked is not None:
        return Kernel(blocked, True)
    better = (_BETTER_ARM if _is_arm(features) else _BETTER_X86).get(kind, _BETTER)
    return Kernel(
        "dot products, row by row",
        False,
        f"llama.cpp has no kernel for {kind} on this processor that multiplies several rows of a prompt at once",
        f"quantize to {better}",
    )


def _blocked_kernel(kind: str, features: Features) -> str | None:
    if kind in _TILED and "AVX" in features:
        return "tiled for prompts, dot products for single tokens"
    needed = (_ARM_TINYBLAS if _is_arm(features) else _X86_TINYBLAS).get(kind)
    if needed in features and "LLAMAFILE" in features:
        return "tinyBLAS for prompts, dot products for single tokens"
    return None


def _why_not_repacked(kind: str, rows: int, repack: Repack, features: Features) -> tuple[str, str]:
    if not any(feature in features for feature in repack.features):
        needed = " or ".join(repack.features)
        return (
            f"repacked {kind} needs {needed}, which this processor or this build of llama.cpp has not",
            "on a processor that has it, build llama-cpp-python from source there",
        )
    if "REPACK" not in features:
        return (
            "this llama.cpp was built without GGML_CPU_REPACK",
            "install llama-cpp-python without CMAKE_ARGS that turn it off",
        )
    if rows % repack.rows_multiple:
        return (
            f"{rows} rows: repacked {kind} needs a multiple of {repack.rows_multiple}",
            f"prune to widths that are multiples of {repack.rows_multiple}, or pad the matrix",
        )
    return (
        "llama.cpp did not repack it at load",
        "open it with repacking on (`EngineSettings.repack`), and without another buffer type for its tensors",
    )


def _is_arm(features: Features) -> bool:
    return "NEON" in features
