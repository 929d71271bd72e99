"""Which kernel ONNX Runtime's CPU provider takes for a MatMulNBits node, and what makes it fall back.

4-bit weights have a float32 kernel and an INT8 one (accuracy_level 4), 2- and 8-bit weights only the INT8 one; blocks are 16, 32, 64,
128 or 256. Everything else is expanded to float32 on every call.
Spec: contrib_ops/cpu/quantization/matmul_nbits.cc and core/mlas/lib/qnbitgemm.cpp of onnxruntime.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from edgeport.runtimes.fast_path.kernel import Kernel

INT8_LEVEL = 4
BLOCKS = (16, 32, 64, 128, 256)
_INT8_KERNELS = (
    ("avx512_vnni", "AVX512-VNNI"),
    ("avx_vnni", "AVX2-VNNI"),
    ("avx512bw", "AVX512"),
    ("avx2", "AVX2"),
    ("i8mm", "NEON i8mm"),
    ("dotprod", "NEON dotprod"),
)
"""MLAS takes the first the processor has."""


@dataclass(frozen=True, slots=True)
class Product:
    """A MatMulNBits node. accuracy_level None: the node was made by a fusion and the file does not say. packed: the profile
    shows its weights released, which happens when a kernel has packed them."""

    bits: int
    block: int
    accuracy_level: int | None
    packed: bool
    reordered: bool = False
    float_zero_points: bool = False


def product_kernel(product: Product, isa: Collection[str]) -> Kernel:
    if not product.packed:
        return Kernel("expanded to float32 on every call, then SGEMM", False, *_why_unpacked(product, isa))
    if product.accuracy_level not in (INT8_LEVEL, None):
        return Kernel(
            "float32 products of packed blocks",
            False,
            f"accuracy_level {product.accuracy_level}: activations stay float32, so that INT8 instructions lie idle",
            "set accuracy_level to 4 (it rounds activations to INT8 per block: measure the quality again)",
        )
    unit = int8_unit(isa)
    if unit is None:
        return Kernel(
            "float32 products of packed blocks",
            False,
            "this processor has no INT8 instructions MLAS uses",
            "take another processor",
        )
    return Kernel(f"packed blocks with INT8 activations, {unit}", True)


def int8_unit(isa: Collection[str]) -> str | None:
    return next((name for flag, name in _INT8_KERNELS if flag in isa), None)


def _why_unpacked(product: Product, isa: Collection[str]) -> tuple[str, str]:
    if product.reordered:
        return (
            "g_idx: blocks of reordered inputs have no kernel",
            "quantize without act-order (desc_act), or sort the columns in the file",
        )
    if product.float_zero_points:
        return ("zero points in float have no kernel", "quantize with integer zero points, or symmetrically")
    if product.block not in BLOCKS:
        return (f"blocks of {product.block} have no kernel", f"quantize with blocks of {_listed(BLOCKS)}")
    if product.bits != 4 and product.accuracy_level not in (INT8_LEVEL, None):
        return (
            f"accuracy_level {product.accuracy_level}: {product.bits}-bit weights have an INT8 kernel only",
            "set accuracy_level to 4 (it rounds activations to INT8 per block: measure the quality again)",
        )
    if int8_unit(isa) is None:
        return ("this processor has no INT8 instructions MLAS uses", "take another processor")
    return ("ONNX Runtime did not pack the weights", "do not set session.disable_prepacking")


def _listed(values: Collection[int]) -> str:
    return ", ".join(map(str, values))
