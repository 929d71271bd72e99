"""An OpenVINO IR as its .xml tells it: layers, edges and notes of the tools that wrote it. The .bin is not opened.

The file goes through expat piece by piece; a document type is refused, because entities may grow without end.
Spec: OpenVINO IR format, versions 10 and 11 (docs.openvino.ai, `Operation sets`, `IR format`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from edgeport.errors import UsageError

LARGEST_XML_BYTES = 1 << 30
MOST_LAYERS, MOST_ELEMENTS = 500_000, 1 << 60
DEEPEST = 64
PIECE_BYTES = 1 << 20
LONGEST_NOTE = 1 << 20

TYPE_BITS: Mapping[str, int] = {
    "f64": 64, "i64": 64, "u64": 64, "f32": 32, "i32": 32, "u32": 32, "f16": 16, "bf16": 16, "i16": 16, "u16": 16,
    "i8": 8, "u8": 8, "boolean": 8, "f8e4m3": 8, "f8e5m2": 8, "f8e8m0": 8, "u6": 6, "i4": 4, "u4": 4, "nf4": 4,
    "f4e2m1": 4, "u3": 3, "u2": 2, "u1": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layer:
    """attributes: those of its `data`. names: of its outputs. shapes: of its outputs, -1 for an open size."""

    number: str
    name: str
    type: str
    attributes: Mapping[str, str]
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    def size(self, key: str) -> int:
        """A number of `data`, -1 where it is none."""
        text = self.attributes.get(key, "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a constant."""
        return sizes(self.attributes.get("shape", ""))

    @property
    def elements(self) -> int:
        count = 1
        for extent in self.shape:
            count *= max(0, extent)
        return count


@dataclass(frozen=True, slots=True)
class OpenVinoHeader:
    """layers: by number. sources: the layers that feed one, in the order of its ports. targets: those it feeds.

    notes: the model's rt_info, `nncf/version` -> value.
    """

    version: int
    layers: Mapping[str, Layer]
    sources: Mapping[str, tuple[str, ...]]
    targets: Mapping[str, tuple[str, ...]]
    notes: Mapping[str, str]


def read_openvino_header(path: Path) -> OpenVinoHeader:
    """Raises UsageError for what is no IR, is damaged or larger than any model's graph."""
    reader = _Reader()
    try:
        if path.stat().st_size > LARGEST_XML_BYTES:
            raise UsageError(f"{path} has more than {LARGEST_XML_BYTES} bytes: this is no model's graph")
        with path.open("rb") as stream:
            while piece := stream.read(PIECE_BYTES):
                reader.feed(piece)
            reader.feed(b"", final=True)
    except OSError as failure:
        raise UsageError(f"{path} cannot be read: {failure.strerror}") from failure
    except (expat.ExpatError, ValueError) as failure:
        raise UsageError(
            f"{path.name} is no OpenVINO model, or is damaged: {failure}",
            hint="fetch it again, or export it again",
        ) from failure
    return reader.header()


def sizes(text: str) -> tuple[int, ...]:
    """`256, 8, 32` -> (256, 8, 32); what is no number is -1."""
    words = [word.strip() for word in text.split(",")[:32] if word.strip()]
    return tuple(int(word) if word.isascii() and word.isdigit() and len(word) < 20 else -1 for word in words)


@dataclass(slots=True)
class _Open:
    """A layer whose end has not been seen."""

    number: str
    name: str
    type: str
    attributes: dict[str, str] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    shapes: list[list[int]] = field(default_factory=list)


class _Reader:
    """Takes expat's events; keeps layers, edges and the model's notes and forgets the rest."""

    def __init__(self) -> None:
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._parser.StartDoctypeDeclHandler = _no_document_type
        self._path: list[str] = []
        self._version = -1
        self._layers: dict[str, Layer] = {}
        self._sources: dict[str, dict[int, str]] = {}
        self._targets: dict[str, list[str]] = {}
        self._notes: dict[str, str] = {}
        self._layer: _Open | None = None
        self._content: list[str] = []  # one text may come in several pieces

    def feed(self, piece: bytes, *, final: bool = False) -> None:
        self._parser.Parse(piece, final)

    def header(self) -> OpenVinoHeader:
        if self._version < 0 or not self._layers:
            raise UsageError("this is no OpenVINO model: it has no <net> with layers")
        return OpenVinoHeader(
            version=self._version,
            layers=self._layers,
            sources={
                layer: tuple(feeds[port] for port in sorted(feeds)) for layer, feeds in self._sources.items()
            },
            targets={layer: tuple(found) for layer, found in self._targets.items()},
            notes=self._notes,
        )

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._path.append(tag)
        self._content.clear()
        if len(self._path) > DEEPEST:
            raise ValueError(f"elements within elements, {DEEPEST} deep")
        depth = len(self._path)
        if depth == 1:
            if tag != "net":
                raise ValueError(f"it begins with <{tag:.40}>, not <net>")
            self._version = next(iter(sizes(attributes.get("version", ""))), -1)
        elif self._path[1] == "layers":
            self._in_layers(tag, attributes, depth)
        elif self._path[1] == "edges" and tag == "edge":
            self._edge(attributes)
        elif self._path[1] == "rt_info" and "value" in attributes and len(self._notes) < MOST_LAYERS:
            self._notes["/".join(self._path[2:])] = attributes["value"][:LONGEST_NOTE]

    def _in_layers(self, tag: str, attributes: dict[str, str], depth: int) -> None:
        if depth == 3 and tag == "layer":
            if len(self._layers) >= MOST_LAYERS:
                raise ValueError(f"it has more than {MOST_LAYERS} layers")
            get = attributes.get
            self._layer = _Open(get("id", ""), get("name", ""), get("type", ""))
        elif self._layer is None:
            return
        elif depth == 4 and tag == "data":
            self._layer.attributes = attributes
        elif tag == "port" and self._path[3] == "output":
            self._layer.names.append(attributes.get("names", ""))
            self._layer.shapes.append([])

    def _text(self, content: str) -> None:
        if self._path[-1] == "dim":
            self._content.append(content)

    def _end(self, tag: str) -> None:
        if tag == "dim" and self._layer is not None and self._layer.shapes and self._path[3] == "output":
            self._layer.shapes[-1].append(next(iter(sizes("".join(self._content))), -1))
        if len(self._path) == 3 and tag == "layer" and self._layer is not None:
            found = self._layer
            layer = Layer(
                number=found.number,
                name=found.name,
                type=found.type,
                attributes=found.attributes,
                names=tuple(found.names),
                shapes=tuple(tuple(shape) for shape in found.shapes),
            )
            if layer.type == "Const" and layer.elements > MOST_ELEMENTS:
                raise ValueError(f"constant {layer.name!r:.60} has the shape {layer.shape!r:.60}")
            self._layers[layer.number] = layer
            self._layer = None
        self._path.pop()

    def _edge(self, attributes: dict[str, str]) -> None:
        source, target = attributes.get("from-layer", ""), attributes.get("to-layer", "")
        port = next(iter(sizes(attributes.get("to-port", ""))), -1)
        self._sources.setdefault(target, {})[port] = source
        self._targets.setdefault(source, []).append(target)


def _no_document_type(*_: object) -> None:
    raise ValueError("it has a document type, which no OpenVINO model needs")
