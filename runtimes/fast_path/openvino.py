"""OpenVINO: the compiled model names the primitive of every node, the type it keeps weights in, and the time a node took.

`primitiveType` is an implementation and a type: brgemm_avx512_bf16, ref_any_f32. A node without an implementation says `undef`
and was `not_executed`; OpenVINO does not always raise an error for it.
Spec: https://docs.openvino.ai (CPU device; CompiledModel.get_runtime_model, PERF_COUNT).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeport.errors import ArtifactError, RuntimeFailure
from edgeport.manifest import to_json
from edgeport.runtimes.engine_settings import EngineSettings, settings_from
from edgeport.runtimes.fast_path.engine_log import stderr_to
from edgeport.runtimes.fast_path.kernel import Kernel
from edgeport.runtimes.fast_path.openvino_kernels import Product, attention_kernel, product_kernel
from edgeport.runtimes.fast_path.openvino_model import (
    Constant,
    StoredWeights,
    constant_of,
    weights_by_product,
)
from edgeport.runtimes.fast_path.report import (
    ATTENTION,
    LOOKUP,
    MATRIX,
    EngineFindings,
    KernelGroup,
    and_more,
    kernel_group,
    largest_first,
)

_PROPERTIES = {"PERFORMANCE_HINT": "LATENCY", "PERF_COUNT": "YES"}
_CHOOSING = {
    "inference_precision": "INFERENCE_PRECISION_HINT",
    "dynamic_quantization_group": "DYNAMIC_QUANTIZATION_GROUP_SIZE",
}
"""Settings that choose another kernel of a product: the properties they are."""
_NO_KERNEL = "primitive descriptor"
_NO_KERNEL_HINT = "it has no kernel for these weights on this processor: quantize to u4, i4, u8 or i8"
_PRODUCTS = ("FullyConnected", "MatMul")
_LOOKUPS = ("Gather", "Embedding")
_FUSED_ATTENTION = ("ScaledDotProductAttention", "PagedAttention", "MHA")


@dataclass(frozen=True, slots=True)
class Executed:
    """A node of the compiled model. constants: what it reads that was there before the run."""

    name: str
    layer: str
    primitive: str
    time_us: str
    constants: tuple[Constant, ...]


def inspect(path: str, settings: Mapping[str, Any], log: str) -> Any:
    """In the child: compile, run one token, read the compiled model. Returns EngineFindings as JSON."""
    import openvino
    from edgeport.runtimes.openvino import MODEL_NAME, first_cause

    file = Path(path) / MODEL_NAME if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise ArtifactError(f"no {file.name} in {file.parent}", hint="name the .xml file itself")
    try:
        with stderr_to(Path(log)):
            model = openvino.Core().read_model(str(file))
            stored = weights_by_product(model)
            compiled = _compile_and_run(openvino, model, settings_from(settings))
            nodes = list(_executed(compiled.get_runtime_model()))
    except RuntimeError as error:
        cause = first_cause(error)
        hint = _NO_KERNEL_HINT if _NO_KERNEL in cause else None
        raise RuntimeFailure(f"OpenVINO cannot run {file}: {cause}", hint=hint) from error
    precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    engine = f"OpenVINO {openvino.__version__.partition('-')[0]}, activations in {precision}"
    return to_json(EngineFindings(engine, largest_first(groups_of(nodes, stored))))


def _compile_and_run(openvino: Any, model: Any, settings: EngineSettings) -> Any:
    from edgeport.runtimes.threads import first_count

    chosen = settings.chosen()
    properties = {
        **_PROPERTIES,
        "INFERENCE_NUM_THREADS": str(first_count(settings.threads)),
        **{key: str(chosen[name]) for name, key in _CHOOSING.items() if name in chosen},
    }
    compiled = openvino.Core().compile_model(model, "CPU", properties)
    request = compiled.create_infer_request()
    # The tensors must live until the run: the request reads their memory.
    tensors = {port.get_any_name(): _made_up(openvino, port) for port in compiled.inputs}
    for name, tensor in tensors.items():
        request.set_tensor(name, tensor)
    request.infer()
    return compiled


def _made_up(openvino: Any, port: Any) -> Any:
    """Every free size is 1, one token of one sequence, or 0 in a cache. Ones for a mask, zeros elsewhere."""
    name = port.get_any_name()
    free = [1, *[0 if "past" in name else 1] * (len(port.partial_shape) - 1)]
    shape = [
        extent if size.is_dynamic else size.get_length()
        for extent, size in zip(free, port.partial_shape, strict=False)
    ]
    tensor = openvino.Tensor(port.element_type, shape)
    tensor.data[:] = 1 if "mask" in name else 0
    return tensor


def _executed(runtime_model: Any) -> Iterator[Executed]:
    for node in runtime_model.get_ordered_ops():
        facts = _facts(node)
        sources = [item.get_source_output() for item in node.inputs()]
        layers = tuple(_facts(source.get_node()).get("layerType", "") for source in sources)
        constants = tuple(
            constant_of(source) for source, layer in zip(sources, layers, strict=True) if layer == "Const"
        )
        yield Executed(
            node.get_friendly_name(),
            facts.get("layerType", ""),
            facts.get("primitiveType", ""),
            facts.get("execTimeMcs", ""),
            constants,
        )


def _facts(node: Any) -> Mapping[str, str]:
    return {key: str(value.astype(str)) for key, value in node.get_rt_info().items()}


def groups_of(nodes: Sequence[Executed], stored: Mapping[str, StoredWeights]) -> list[KernelGroup]:
    found: dict[tuple[str, str, Kernel], list[Executed]] = {}
    for node in nodes:
        kernel = _kernel(node, stored.get(node.name))
        if kernel is not None:
            found.setdefault(kernel, []).append(node)
    return [
        kernel_group(
            role,
            kind,
            len(items),
            sum(_stored_bytes(node, stored.get(node.name)) for node in items),
            kernel,
            _evidence(items),
        )
        for (role, kind, kernel), items in found.items()
    ]


def _kernel(node: Executed, weights: StoredWeights | None) -> tuple[str, str, Kernel] | None:
    """Role, tensor type and kernel of a node that matters. A product the plug-in made itself has no weights in the file."""
    matrix = next((item for item in node.constants if item.is_matrix), None)
    if node.layer in _PRODUCTS and (matrix or weights):
        read = matrix.type if matrix else None
        kind = weights.type if weights else str(read)
        executed = node.time_us != "not_executed"
        return MATRIX, kind, product_kernel(Product(kind, read, node.primitive, executed))
    if node.layer in _LOOKUPS and matrix is not None:
        return LOOKUP, matrix.type, Kernel(f"row lookup ({node.primitive})", True)
    if node.layer in _FUSED_ATTENTION:
        return ATTENTION, "cache", attention_kernel(fused=True)
    if node.layer in ("SoftMax", "Softmax"):
        return ATTENTION, "cache", attention_kernel(fused=False)
    return None


def _stored_bytes(node: Executed, weights: StoredWeights | None) -> int:
    return weights.size_bytes if weights else sum(constant.size_bytes for constant in node.constants)


def _evidence(items: Sequence[Executed]) -> str:
    first = items[0]
    took = "not executed" if first.time_us == "not_executed" else "executed"
    kinds = ", ".join(item.type for item in first.constants if item.type != "dynamic")
    return f"compiled model: {first.layer} {and_more(first.name, len(items))}, {first.primitive}, {took}, constants: {kinds or 'none'}"
