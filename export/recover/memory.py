"""Whether a distillation fits into memory, and what would make it fit."""

from __future__ import annotations

from dataclasses import dataclass

from edgeport.devices.probe import read_host
from edgeport.errors import DoesNotFit
from edgeport.export.families.storage import require_plain
from edgeport.export.recover.settings import DistillSettings
from edgeport.export.recover.students import student_class
from edgeport.export.source import SourceModel
from edgeport.units import format_bytes

_PROCESS_BYTES = 600 << 20
"""torch and transformers loaded."""
_STUDENT_LOGITS, _TEACHER_LOGITS = 5, 3
"""float32 copies of [micro_tokens, vocab_size] alive at once: logits, their logarithms, gradients."""


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """Bytes at the peak of a step, by what needs them."""

    student_bytes: int
    teacher_bytes: int
    activation_bytes: int
    logit_bytes: int

    @property
    def total_bytes(self) -> int:
        parts = (self.student_bytes, self.teacher_bytes, self.activation_bytes, self.logit_bytes)
        return sum(parts) + _PROCESS_BYTES


def training_memory(
    teacher: SourceModel | None, student: SourceModel, settings: DistillSettings, *, precision: str
) -> TrainingMemory:
    """An estimate from shapes; measured peaks are below it by up to a third."""
    spec, tokens = student.spec, settings.micro_tokens
    kind = student_class(settings.kind)
    teacher_bytes = 0
    if teacher is not None:
        # bf16: linears are kept in 16 bits beside the float32 embedding; while loading there is a float32 copy
        teacher_bytes = 4 * teacher.spec.parameters()
    logits = 4 * tokens * spec.vocab_size
    copies = _STUDENT_LOGITS + (_TEACHER_LOGITS if teacher is not None else 0)
    return TrainingMemory(
        kind.state_bytes(student, settings.student()),
        teacher_bytes,
        _activation_bytes(student, tokens, precision, checkpointing=settings.gradient_checkpointing),
        logits * copies,
    )


def _activation_bytes(student: SourceModel, tokens: int, precision: str, *, checkpointing: bool) -> int:
    """What a forward pass keeps for the backward pass: per layer norms, projections, attention, gate, up and product."""
    spec = student.spec
    per_layer = []
    for layer in range(spec.layers):
        shape = spec.layer_shape(layer)
        attention = (
            (2 * shape.heads + 2 * shape.kv_heads) * spec.head_dim * 3
        )  # before, after rotation, repeated
        per_layer.append(10 * spec.hidden_size + attention + 5 * shape.intermediate_size)
    element_bytes = 4 if precision == "f32" else 3  # half of it is kept in 16 bits
    if checkpointing:
        return tokens * (4 * spec.hidden_size * spec.layers + element_bytes * max(per_layer))
    return tokens * element_bytes * sum(per_layer)


def require_training_memory(
    teacher: SourceModel | None, student: SourceModel, settings: DistillSettings, *, precision: str
) -> TrainingMemory:
    """Raises DoesNotFit with the numbers and the knob that saves most, UnsupportedModel for what training cannot write back."""
    for model in (teacher, student):
        if model is not None:
            require_plain(model.spec.storage, model.spec.family, "training")
    memory = training_memory(teacher, student, settings, precision=precision)
    available_bytes = read_host().available_bytes
    if memory.total_bytes > available_bytes:
        raise DoesNotFit(
            f"distillation needs {format_bytes(memory.total_bytes)} of memory: student with gradients and moments "
            f"{format_bytes(memory.student_bytes)}, teacher {format_bytes(memory.teacher_bytes)}, activations "
            f"{format_bytes(memory.activation_bytes)}, logits {format_bytes(memory.logit_bytes)}; "
            f"{format_bytes(available_bytes)} are available",
            hint=_cure(memory, settings),
        )
    return memory


def _cure(memory: TrainingMemory, settings: DistillSettings) -> str:
    batch_bytes = memory.activation_bytes + memory.logit_bytes
    if batch_bytes > memory.student_bytes + memory.teacher_bytes:
        if memory.activation_bytes > memory.logit_bytes and not settings.gradient_checkpointing:
            return "use --gradient-checkpointing, or a smaller --micro-tokens"
        return f"use a smaller --micro-tokens (now {settings.micro_tokens}), with a smaller --n-ctx where it is one window"
    if settings.kind == "full":
        return "use --student-kind lora, which keeps gradients and moments of a few weights only"
    return "use a smaller student, or --teacher none --alpha 0"
