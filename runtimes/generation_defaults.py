"""The model's own settings for writing text: what its authors put into generation_config.json, or into the GGUF file.

Settings of a call come from three places, field by field: what the caller set, then the model's, then edgeport's (greedy, up to
256 tokens). As transformers has it, a model samples only where its file says `do_sample`; sampling without a `top_k` keeps 50.
Sources: transformers' GenerationConfig; keys `general.sampling.*` of llama.h.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from edgeport.devices.gguf_header import read_gguf_header
from edgeport.errors import ArtifactError, UsageError
from edgeport.manifest import base_format
from edgeport.runtimes.container import Container
from edgeport.runtimes.model_config import read_json
from edgeport.runtimes.sampling import GREEDY, Sampling

MAX_TOKENS = 256
FILE_NAME = "generation_config.json"
_SAMPLING_TEMPERATURE, _SAMPLING_TOP_K = 1.0, 50
"""What transformers takes when a file says `do_sample` and no more."""
_NAMES = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
_GGUF_NAMES: Mapping[str, str] = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_k": "top_k",
    "general.sampling.top_p": "top_p",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repetition_penalty",
}
_NO_EFFECT: Mapping[str, Any] = {
    "num_beams": 1,
    "typical_p": 1.0,
    "no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": 0,
    "penalty_alpha": 0.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "length_penalty": 1.0,
    "diversity_penalty": 0.0,
}
"""What transformers knows and this runtime does not, with the values that ask for nothing."""


@dataclass(frozen=True, slots=True)
class SamplingChanges:
    """Some fields of a Sampling; None leaves the model's own value."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Mapping[int, float] | None = None

    def applied_to(self, sampling: Sampling) -> Sampling:
        given = {item.name: getattr(self, item.name) for item in fields(self)}
        return replace(sampling, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """What a call that sets nothing gets.

    max_tokens: at most this many, fewer where the context ends earlier. origin: where it comes from, for people.
    ignored: settings of the file that have no effect here, as `name=value`.
    """

    sampling: Sampling = GREEDY
    max_tokens: int = MAX_TOKENS
    origin: str = "edgeport"
    ignored: tuple[str, ...] = ()

    def sampling_for(self, asked: Sampling | SamplingChanges | None) -> Sampling:
        """A Sampling is taken as it is, changes are laid over the model's own, None is the model's own."""
        if asked is None:
            return self.sampling
        return asked if isinstance(asked, Sampling) else asked.applied_to(self.sampling)


PLAIN = GenerationDefaults()


def read_defaults(container: Container) -> GenerationDefaults:
    """The container's own. A GGUF file without sampling keys takes the file beside another container of its artifact.

    Raises ArtifactError for values that are none.
    """
    if base_format(container.format) == "gguf" and (found := _from_gguf(container)) is not None:
        return found
    file = container.find(FILE_NAME)
    return PLAIN if file is None else _defaults(read_json(file), str(file.name))


def _from_gguf(container: Container) -> GenerationDefaults | None:
    path = container.path
    file = next(iter(sorted(path.glob("*.gguf"))), path) if path.is_dir() else path
    metadata = read_gguf_header(file).metadata
    # the file holds 0.7 as a float32; six digits make it the 0.7 it was
    document = {
        name: float(f"{metadata[key]:.6g}") if isinstance(metadata[key], float) else metadata[key]
        for key, name in _GGUF_NAMES.items()
        if key in metadata
    }
    if not document:
        return None
    found = _defaults({"top_k": 0, **document, "do_sample": document.get("temperature", 1) > 0}, file.name)
    beside = container.find(FILE_NAME)
    return found if beside is None else replace(found, max_tokens=_max_tokens(read_json(beside), beside.name))


def _defaults(document: Mapping[str, Any], origin: str) -> GenerationDefaults:
    values = {name: document[name] for name in _NAMES if document.get(name) is not None}
    if document.get("do_sample"):
        values = {"temperature": _SAMPLING_TEMPERATURE, "top_k": _SAMPLING_TOP_K, **values}
    else:
        values["temperature"] = 0.0
    if int(values.get("top_k", 0)) < 0:
        values["top_k"] = 0  # -1 is another way to say all
    wrong = next((name for name, value in values.items() if not isinstance(value, (int, float))), None)
    if wrong is not None:
        raise ArtifactError(f"{origin}: {wrong} is {values[wrong]!r}, it must be a number")
    try:
        sampling = Sampling(**values)
    except UsageError as error:
        raise ArtifactError(f"{origin}: {error.message}", hint=f"mend {origin}") from error
    return GenerationDefaults(sampling, _max_tokens(document, origin), origin, _ignored(document))


def _max_tokens(document: Mapping[str, Any], origin: str) -> int:
    value = document.get("max_new_tokens")
    if value is None:
        return MAX_TOKENS
    if not isinstance(value, int) or value < 1:
        raise ArtifactError(f"{origin}: max_new_tokens is {value!r}, it must be a number above 0")
    return value


def _ignored(document: Mapping[str, Any]) -> tuple[str, ...]:
    present = ((name, document.get(name)) for name in _NO_EFFECT)
    return tuple(
        f"{name}={value}" for name, value in present if value is not None and value != _NO_EFFECT[name]
    )
