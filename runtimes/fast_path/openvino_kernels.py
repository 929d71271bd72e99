"""What an OpenVINO CPU primitive says about speed.

Compressed weights are unpacked inside the product's kernel (FullyConnected that reads u4, i4, u8, i8 or nf4). Where the graph
hides them, the plug-in expands them when it compiles, and every token then reads 16 or 32 bits of each weight.
Spec: https://docs.openvino.ai (CPU device; optimizing inference with weight compression).
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeport.runtimes.fast_path.kernel import Kernel

CODES = ("u2", "u3", "u4", "i4", "u6", "u8", "i8", "nf4", "f4e2m1", "f8e4m3", "f8e5m2")
"""Element types that a scale turns into weights."""
_GOOD_CODES = "u4, i4, u8 or i8"
_SLOW_IMPLEMENTATIONS = ("ref", "undef", "unknown")


@dataclass(frozen=True, slots=True)
class Product:
    """stored_type: of the weights in the file. read_type: of the constant the compiled node reads, None when it reads what other
    nodes compute. primitive: as the compiled model calls it. executed: False when the run left it out."""

    stored_type: str
    read_type: str | None
    primitive: str
    executed: bool


def product_kernel(product: Product) -> Kernel:
    kind = product.stored_type
    if not product.executed:
        return Kernel(
            f"none ({product.primitive})",
            False,
            f"the CPU plug-in has no kernel for {kind} weights here and does not compute this product",
            f"quantize to {_GOOD_CODES}; 2-bit weights run in other engines",
        )
    if product.read_type is None:
        return Kernel(
            f"{product.primitive} over weights expanded on every call",
            False,
            f"the product does not take {kind} weights, so that other nodes expand them for each token",
            f"quantize to {_GOOD_CODES}",
        )
    if product.primitive.startswith(_SLOW_IMPLEMENTATIONS):
        return Kernel(
            product.primitive,
            False,
            "a reference implementation: plain loops without vector instructions",
            f"update OpenVINO, or quantize to {_GOOD_CODES}",
        )
    if kind in CODES and product.read_type not in CODES:
        return Kernel(
            f"{product.primitive} over weights expanded at load",
            False,
            f"{kind} in the file became {product.read_type} when the model was compiled: each token reads more bytes",
            "keep weights as Constant, Convert, Subtract, Multiply, Reshape right before MatMul, as NNCF and edgeport write them",
        )
    unpacked = ", unpacked in the kernel" if product.read_type in CODES else ""
    return Kernel(f"{product.primitive} over {product.read_type}{unpacked}", True)


def attention_kernel(*, fused: bool) -> Kernel:
    if fused:
        return Kernel("fused (ScaledDotProductAttention)", True)
    return Kernel(
        "two products and a softmax",
        False,
        "attention is spelt out in the graph, and OpenVINO did not fuse it",
        "export with ScaledDotProductAttention and a stateful cache, which soft-capped scores (Gemma 2) do not allow",
    )
