"""The kinds of student by name; adding one is a file and a line here."""

from __future__ import annotations

from edgeport.errors import UsageError
from edgeport.export.recover.student import Student
from edgeport.lazy import load

STUDENTS: dict[str, str] = {
    "full": "edgeport.export.recover.full:FullStudent",
    "sparse": "edgeport.export.recover.sparse:SparseStudent",
    "lora": "edgeport.export.recover.lora:LoraStudent",
    "qlora": "edgeport.export.recover.qlora:QloraStudent",
    "qat": "edgeport.export.recover.qat:QatStudent",
}


def student_class(kind: str) -> type[Student]:
    """Raises UsageError naming the known kinds."""
    if kind not in STUDENTS:
        raise UsageError(f"unknown kind of student {kind!r}", hint=f"kinds are {', '.join(STUDENTS)}")
    found: type[Student] = load(STUDENTS[kind], extra="eval")
    return found
