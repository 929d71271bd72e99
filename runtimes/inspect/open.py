"""Which kind of model lies at a path, and what it holds: the one door to the readers of each kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from edgeport.errors import UsageError
from edgeport.runtimes.inspect.document import Inspection
from edgeport.runtimes.inspect.gguf import inspect_gguf
from edgeport.runtimes.inspect.onnx import inspect_onnx
from edgeport.runtimes.inspect.openvino import MODEL_NAME, inspect_openvino
from edgeport.runtimes.inspect.safetensors_folder import PICKLED, inspect_safetensors

READERS: Mapping[str, Callable[[Path], Inspection]] = {
    "openvino": inspect_openvino,
    "onnx": inspect_onnx,
    "gguf": inspect_gguf,
    "safetensors": inspect_safetensors,
}
_SUFFIXES: Mapping[str, str] = {
    ".gguf": "gguf",
    ".onnx": "onnx",
    ".xml": "openvino",
    ".safetensors": "safetensors",
}
_MARKS: tuple[tuple[str, str], ...] = (
    ("openvino", MODEL_NAME),
    ("onnx", "genai_config.json"),
    ("onnx", "*.onnx"),
    ("gguf", "*.gguf"),
    ("safetensors", "*.safetensors"),
    ("safetensors", "config.json"),
)
"""As edgeport.runtimes.container takes a folder, and beyond it what can be inspected and not run."""


def inspect_path(path: Path) -> Inspection:
    """A model file, or a folder with one model. Raises UsageError for what is none, or cannot be read."""
    if path.is_file():
        return _of_file(path)
    if not path.is_dir():
        raise UsageError(
            f"no such file or folder: {path}", hint="give an artifact, a model folder or a model file"
        )
    kind = kind_of_folder(path)
    if kind is None:
        raise _no_model(path)
    return READERS[kind](gguf_file(path) if kind == "gguf" else path)


def kind_of_folder(folder: Path) -> str | None:
    return next((kind for kind, pattern in _MARKS if any(folder.glob(pattern))), None)


def _of_file(path: Path) -> Inspection:
    kind = _SUFFIXES.get(path.suffix)
    if kind is None and path.name == "config.json":
        return inspect_safetensors(path)
    if kind is None and any(path.match(pattern) for pattern in PICKLED):
        raise UsageError(
            f"{path.name} holds pickled weights, which are never opened: opening them runs whatever code they hold",
            hint="fetch the model.safetensors of the same repository",
        )
    if kind is None:
        raise UsageError(f"{path.name} is no model file", hint=f"model files end in {', '.join(_SUFFIXES)}")
    return READERS[kind](path)


def gguf_file(folder: Path) -> Path:
    """The only one, or the first part of the only split one."""
    files = sorted(
        file for file in folder.glob("*.gguf") if "-of-" not in file.name or "-00001-of-" in file.name
    )
    files = files or sorted(folder.glob("*.gguf"))[:1]
    if len(files) != 1:
        shown = ", ".join(file.name for file in files[:8])
        raise UsageError(f"{folder} holds {len(files)} models: {shown}", hint="name the file itself")
    return files[0]


def _no_model(folder: Path) -> UsageError:
    below = sorted(
        item.name for item in folder.iterdir() if item.is_dir() and kind_of_folder(item) is not None
    )
    message = f"{folder} holds neither manifest.json nor config.json, nor a .gguf, .onnx or {MODEL_NAME}"
    if below:
        return UsageError(
            message, hint=f"there are models in its folders {', '.join(below[:8])}: name one of them"
        )
    return UsageError(
        message,
        hint="give a folder `edgeport export` wrote, a model folder with config.json, or a model file",
    )
