"""The text behind the embedded reference model: Python's standard library, split by module, and its tokenizer.

Every file belongs to exactly one split. Held-out, validation and calibration text comes from library modules only;
test modules are used for training alone, because they are repetitive and would flatter a perplexity.
"""

from __future__ import annotations

import ast
import hashlib
import random
import sysconfig
import textwrap
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

HELDOUT_BYTES = 256 * 1024
CALIBRATION_BYTES = 256 * 1024
VALIDATION_BYTES = 128 * 1024
LARGEST_SLICE_FILE_BYTES = 48 * 1024  # one giant module must not fill a whole slice
SMALLEST_SLICE_FILE_BYTES = 512

VOCAB_SIZE = 4096
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

# Generated tables, data in odd encodings, build settings of one machine: not code that a model should learn from.
EXCLUDED_FOLDERS = frozenset(
    {
        "site-packages",
        "dist-packages",
        "__pycache__",
        "encodings",
        "pydoc_data",
        "data",
        "encoded_modules",
        "cjkencodings",
        "lib-dynload",
    }
)
EXCLUDED_PREFIXES = ("_sysconfigdata", "config-", "__phello__", "lib2to3/tests/data", "test/bad")
EXCLUDED_FILES = frozenset(
    {
        "stringprep.py",
        "test/test_unicode_identifiers.py",
        "html/entities.py",
        "test/mime.types",
        "idlelib/help.py",
    }
)
TEST_FOLDERS = frozenset({"test", "tests", "idle_test"})

# The generation prompt ends before the line break: GPT-2's pre-tokenizer joins a line break with the indentation behind
# it, so an answer that begins with indented code has to bring the line break itself.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}"
)


@dataclass(frozen=True)
class Module:
    """One source file: its path relative to the standard library (with '/') and its text."""

    path: str
    text: str

    @property
    def size_bytes(self) -> int:
        return len(self.text.encode("utf-8"))

    @property
    def is_test(self) -> bool:
        parts = self.path.split("/")
        return bool(TEST_FOLDERS & set(parts[:-1])) or parts[-1].startswith("test_")

    @property
    def rank(self) -> str:
        """A fixed pseudo-random order over modules that depends on the path alone."""
        return hashlib.sha256(self.path.encode("utf-8")).hexdigest()

    @property
    def document(self) -> str:
        return f"# --- {self.path}\n{self.text.rstrip()}\n"


@dataclass(frozen=True)
class Splits:
    """Disjoint lists of modules."""

    training: tuple[Module, ...]
    calibration: tuple[Module, ...]
    heldout: tuple[Module, ...]
    validation: tuple[Module, ...]


def standard_library() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def is_excluded(path: str) -> bool:
    parts = path.split("/")
    if EXCLUDED_FOLDERS & set(parts[:-1]) or path in EXCLUDED_FILES:
        return True
    return any(path.startswith(prefix) for prefix in EXCLUDED_PREFIXES)


def read_module(root: Path, file: Path) -> Module | None:
    """The module, or None when it is not UTF-8 or does not parse."""
    try:
        text = file.read_text(encoding="utf-8").replace("\r\n", "\n")
        ast.parse(text)
    except (UnicodeDecodeError, SyntaxError, ValueError):
        return None
    return Module(file.relative_to(root).as_posix(), text) if text.strip() else None


def collect_modules(root: Path) -> list[Module]:
    """All usable modules, in the order of their paths."""
    found = []
    for file in sorted(root.rglob("*.py")):
        if is_excluded(file.relative_to(root).as_posix()):
            continue
        module = read_module(root, file)
        if module is not None:
            found.append(module)
    return found


def split_modules(modules: list[Module]) -> Splits:
    """Fills held-out, calibration and validation from library modules in hash order; the rest is for training."""
    budgets = {"heldout": HELDOUT_BYTES, "calibration": CALIBRATION_BYTES, "validation": VALIDATION_BYTES}
    taken: dict[str, list[Module]] = {name: [] for name in budgets}
    training: list[Module] = []
    for module in sorted(modules, key=lambda item: item.rank):
        size = module.size_bytes
        eligible = not module.is_test and SMALLEST_SLICE_FILE_BYTES <= size <= LARGEST_SLICE_FILE_BYTES
        # The first slice that still has room takes the module; 2 % over is fine, a whole file over is not.
        home = next((name for name, room in budgets.items() if eligible and size <= room * 1.02), None)
        if home is None or budgets[home] < SMALLEST_SLICE_FILE_BYTES:
            training.append(module)
        else:
            budgets[home] -= size
            taken[home].append(module)
    return Splits(
        tuple(training), tuple(taken["calibration"]), tuple(taken["heldout"]), tuple(taken["validation"])
    )


def join_documents(modules: tuple[Module, ...]) -> str:
    """The text of a shipped slice: documents behind separator comments."""
    return "\n".join(module.document for module in modules)


def completion_pairs(module: Module) -> list[tuple[str, str]]:
    """(signature and docstring, body) of each small function, dedented: material for the chat form."""
    pairs = []
    lines = module.text.splitlines()
    for node in ast.walk(ast.parse(module.text)):
        if not isinstance(node, ast.FunctionDef) or node.end_lineno is None:
            continue
        first = node.body[0]
        has_docstring = (
            isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and len(node.body) > 1
        )
        start = node.body[1].lineno if has_docstring else first.lineno
        if not (node.lineno < start and 2 <= node.end_lineno - start <= 40):
            continue
        source = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno])).splitlines()
        cut = start - node.lineno
        pairs.append(("\n".join(source[:cut]).rstrip(), "\n".join(source[cut:])))
    return pairs


def as_chat(prompt: str, answer: str) -> str:
    return f"{TURN_START}user\n{prompt}{TURN_END}\n{TURN_START}assistant\n{answer}{TURN_END}\n"


def chat_documents(modules: tuple[Module, ...], share: float, seed: int) -> list[str]:
    """Chat-form documents of up to `share` of the modules' text, so that the chat template is not untrained."""
    pairs = [pair for module in modules if not module.is_test for pair in completion_pairs(module)]
    random.Random(seed).shuffle(pairs)
    budget = int(share * sum(module.size_bytes for module in modules))
    documents: list[str] = []
    for prompt, answer in pairs:
        budget -= len(prompt) + len(answer)
        if budget < 0:
            break
        documents.append(as_chat(prompt, answer))
    return documents


def train_tokenizer(modules: tuple[Module, ...]) -> PreTrainedTokenizerFast:
    """Byte-level BPE of VOCAB_SIZE tokens with GPT-2's own pre-tokenizer, so llama.cpp's `gpt-2` type fits exactly."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    special = [END_OF_TEXT, TURN_START, TURN_END]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((module.text for module in modules), trainer)
    if tokenizer.get_vocab_size() != VOCAB_SIZE:
        raise RuntimeError(f"tokenizer has {tokenizer.get_vocab_size()} tokens, wanted {VOCAB_SIZE}")
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        extra_special_tokens=[TURN_START, TURN_END],
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped
