"""Text to tokens and back, from tokenizer.json beside the container, and chat templates in a sandbox.

Packages: `tokenizers` (the file's own specification) and jinja2. A template comes with the model and is foreign code: it
runs in jinja2's immutable sandbox and sees only the messages and the special tokens.
Spec: https://huggingface.co/docs/tokenizers, https://huggingface.co/docs/transformers (chat templates).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from edgeport.errors import ArtifactError, UsageError
from edgeport.lazy import missing_extra
from edgeport.manifest import base_format
from edgeport.runtimes.container import Container
from edgeport.runtimes.model_config import read_json, read_stop_ids

Message = Mapping[str, str]
"""{"role": "system" | "user" | "assistant", "content": text}."""


class Tokenizer(Protocol):
    """What generation needs of a vocabulary."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Their text, special tokens left out; bytes that are not (yet) a character become U+FFFD."""
        ...

    def is_stop(self, token: int) -> bool:
        """Whether the token ends a text or a turn."""
        ...

    def chat_prompt(self, messages: Sequence[Message]) -> str:
        """The messages in the model's own template, ready for its answer; encode it without special tokens."""
        ...


def open_tokenizer(container: Container) -> Tokenizer:
    """The container's own: a GGUF file carries its vocabulary, the others lie beside tokenizer.json.

    What generation_config.json names as the end of a text ends it in every container of the artifact.
    """
    if base_format(container.format) == "gguf":
        from edgeport.runtimes.llama_vocabulary import LlamaVocabulary

        settings = container.find("generation_config.json")
        return LlamaVocabulary(container.path, read_stop_ids(settings.parent) if settings else ())
    if base_format(container.format) == "openvino" and not (container.folder / "tokenizer.json").is_file():
        from edgeport.runtimes.openvino_vocabulary import TOKENIZER, OpenVinoVocabulary

        if (container.folder / TOKENIZER).is_file():
            return OpenVinoVocabulary(container.folder)
    return FileTokenizer(container.folder)


class FileTokenizer:
    """tokenizer.json with what tokenizer_config.json, chat_template.jinja and generation_config.json add."""

    def __init__(self, folder: Path) -> None:
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ArtifactError(
                f"no tokenizer.json in {folder}",
                hint="export again, or copy the model's tokenizer files there",
            )
        with missing_extra("reference", purpose="the tokenizer"):
            import tokenizers
        try:
            self._tokenizer: Any = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:
            raise ArtifactError(f"{path} cannot be read: {error}") from error
        config = read_json(folder / "tokenizer_config.json")
        self._template = _read_template(folder, config)
        self._special = {
            name: _content(config[name])
            for name in ("bos_token", "eos_token", "pad_token", "unk_token")
            if config.get(name)
        }
        self.stop_ids = self._find_stop_ids(folder)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def is_stop(self, token: int) -> bool:
        return token in self.stop_ids

    def chat_prompt(self, messages: Sequence[Message]) -> str:
        return render_chat(self._template, messages, self._special)

    def to_json(self) -> str:
        """tokenizer.json as it was read."""
        return str(self._tokenizer.to_str())

    def _find_stop_ids(self, folder: Path) -> frozenset[int]:
        eos = self._tokenizer.token_to_id(self._special.get("eos_token", ""))
        return frozenset(read_stop_ids(folder)) | (frozenset() if eos is None else {eos})


def render_chat(template: str | None, messages: Sequence[Message], special_tokens: Mapping[str, str]) -> str:
    """Raises UsageError when there is no template or when it refuses these messages."""
    if not template:
        raise UsageError("this model has no chat template", hint="give it a plain prompt instead")
    with missing_extra("reference", purpose="a chat template"):
        import jinja2
        from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = refuse
    environment.filters["tojson"] = _to_json  # jinja2's own escapes for HTML
    environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
    values = {
        "messages": [dict(message) for message in messages],
        "add_generation_prompt": True,
        **special_tokens,
    }
    try:
        return str(environment.from_string(template).render(values))
    except Exception as error:
        raise UsageError(f"the chat template refuses these messages: {error}") from error


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _read_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """chat_template.jinja wins; in tokenizer_config.json it is text or a list of named templates."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        return next((str(item["template"]) for item in template if item.get("name") == "default"), None)
    return str(template) if template else None


def _content(token: Any) -> str:
    """A special token is text, or an object with `content`."""
    return str(token["content"]) if isinstance(token, Mapping) else str(token)
