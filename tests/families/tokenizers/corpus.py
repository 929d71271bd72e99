"""2,000 lines of mixed text that tell tokenizers apart, the same ones every time.

Each line is made by one of a dozen makers (code, numbers, emoji, scripts, whitespace, special tokens ...) from a seeded
generator, or joins pieces of two of them. Nothing here is random between runs or Python versions: only `random.Random.random`
is used, whose sequence Python guarantees.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from random import Random

LINES = 2000
_SEED = 20261122


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_ENGLISH = _split(
    "the of and to in is that it was for on are as with they be at one have this from had by hot word but what some we can out "
    "other were all there when up use your how said an each she which do their time if will way about many then them write would "
    "like so these her long make thing see him two has look more day could go come did number sound no most people my over know "
    "water than call first who may down side been now find any new work part take get place made live where after back little only "
    "round man year came show every good me give our under name very through just form sentence great think say help low line"
)
_CONTRACTIONS = _split("don't I'm we're they've she'll he'd it's can't y'all'd've 'tis rock'n'roll IT'S WE'LL THEY'VE o'clock Jo's l'eau "
                 "'em 'S 'Re 've 'LL x'y ''s 't’s it’s don’t")  # fmt: skip
_CODE = (
    "def f(x: int = 3) -> list[str]:",
    "    return [f\"{x!r:>10}\" for _ in range(x)]  # ok",
    "for (int i=0;i<10;++i){a[i]+=b->c&&!d||~e^f%g;}//x",
    "#include <stdio.h>",
    "SELECT * FROM t WHERE a='b' AND c IS NOT NULL ORDER BY d DESC LIMIT 10;",
    '{"key": [1, 2.5, null, true], "s": "a\\nb\\u00e9"}',
    "\\frac{a}{b} $x^2_{i,j}$ \\begin{align} &= 3 \\\\ \\end{align}",
    "<div class=\"a b\"><p>x</p></div><!-- c --><br/>",
    "git commit -m 'fix: a' && make -j8 || exit 1; echo $HOME ${x:-1} $(ls) `pwd`",
    "user.name+tag@example.co.uk https://example.org/a/b?c=d&e=f#g C:\\Users\\x /usr/local/bin",
    "if(!a||b){return c?d:e;}else{throw new Error(`x=${y}`);}",
    "fn main() { let v: Vec<u8> = vec![0u8; 1_000]; println!(\"{:?}\", &v[..]); }",
    "x86_64 utf-8 v1.2.3-rc.1+build 0xDEADBEEF 1e-10 CamelCaseWORDS mixedCASE snake_case_name SCREAMING_SNAKE kebab-case",
    "@decorator\tclass A(B):\t\tpass",
)  # fmt: skip
_SCRIPTS = (
    "Привет, мир! Ещё одна строка: ёлка и Ёж.",
    "Γειά σου Κόσμε, ΜΕΓΆΛΑ γράμματα και τόνοι.",
    "שלום עולם, בְּרֵאשִׁית בָּרָא אֱלֹהִים",
    "مرحبا بالعالم، كيف حالك؟ السَّلامُ عَلَيْكُمْ وَرَحْمَةُ ٱللّٰهِ ١٢٣",
    "你好，世界！今天是2026年11月20日。中文分词测试：《红楼梦》、“引号”。",
    "日本語のテスト、カタカナとひらがな。ﾊﾝｶｸ ｶﾀｶﾅ「括弧」１２３",
    "한국어 문장입니다. 가나다라마바사 ㄱㄴㄷ",
    "नमस्ते दुनिया, यह एक परीक्षण है। क्षत्रिय ज़रा १२३",
    "สวัสดีชาวโลก ภาษาไทยไม่มีช่องว่าง กำลังน้ำ ๑๒๓",
    "বাংলা ভাষা তামিল தமிழ் తెలుగు ಕನ್ನಡ മലയാളം ગુજરાતી ਪੰਜਾਬੀ සිංහල",
    "ქართული ენა, հայերեն լեզու, አማርኛ ቋንቋ, ខ្មែរ, ລາວ, မြန်မာ",
    "naïve café Ångström Straße œuvre Ünïcödé ĀāĒē ŁłŃń ǅ ǈ ĳ İıŞş ẞ",
    "Việt Nam đẹp lắm, tiếng Việt có dấu: ệ ộ ữ ẳ",
    "Zażółć gęślą jaźń. Příliš žluťoučký kůň. Árvíztűrő tükörfúrógép. Ľaľ",
)
_COMPOSABLE = _split("é è ñ ü å ç ö ệ ộ ữ Å Ê Ñ Ž ǘ ḗ ṩ й ё 가 か゚ が ば")
_EMOJI = _split(
    "😀 😃 🤖 🧑 ❤️ ❤ 👍🏽 👍🏿 🙋🏻‍♀️ 👩‍💻 👨‍👩‍👧‍👦 🏳️‍🌈 🏴‍☠️ 🇩🇪 🇫🇷🇮🇹 🏴󠁧󠁢󠁥󠁮󠁧󠁿 1️⃣ #️⃣ ☃ ✓ ✔️ ™ © ® → ∑ ∫ √ ≤ ≠ ∞ ½ ⅓ Ⅻ ② ㎏ № € £ ¥ ₿ ° µ º"
)
_SPACES = (" ", "  ", "   ", "    ", "\t", "\t\t", "\n", "\n\n", "\n\n\n", "\r\n", "\r\n\r\n", " \n", "\n ", "\t \t", "        ",
           "\u00a0", "\u3000", "\u2003", "\u202f", "\u2028", "\r", " \r\n  ", "\u1680", "\u2009\u200a")  # fmt: skip
_INVISIBLE = (
    "\u200b",
    "\u200c",
    "\u200d",
    "\ufeff",
    "\u00ad",
    "\u2060",
    "\u200e",
    "\u200f",
    "\u061c",
    "\u034f",
    "\ufe0f",
    "\ufe0e",
)
_CONTROLS = tuple(
    chr(code) for code in [*range(0x01, 0x09), *range(0x0E, 0x20), 0x7F, 0x80, 0x8F, 0x9F, 0x0B, 0x0C, 0x85]
)
_ODD = ("\ue000", "\uf8ff", "\U0001f9ff", "\U00020000", "\U0002a6d6", "\ufffd", "\ufdd0", "\u0378", "\U000e0041", "ﬁ", "ﬄ", "Ａ", "２",
        "\u0301", "\u0483", "\u20dd", "ª", "ʰ", "ˈ", "ꟷ", "𝕏", "𝟘", "𐍈", "𒀀", "▁", "Ġ", "Ċ", "##a", "<0x0A>", "[UNK]")  # fmt: skip
_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~…—–“”‘’«»¿¡·•、。！？（）【】「」"
FOREIGN_SPECIAL_TOKENS = (
    "<s>", "</s>", "<unk>", "<pad>", "<bos>", "<eos>", "<mask>", "[CLS]", "[SEP]", "[MASK]", "[PAD]", "<|endoftext|>", "<|im_start|>",
    "<|im_end|>", "<|eot_id|>", "<|end|>", "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]", "<|user|>", "<tool_call>",
    "<extra_id_0>", "<|", "|>", "<|im_", "[unused1]",
)  # fmt: skip

Maker = Callable[["_Source"], str]


class _Source:
    """Choices from one seeded sequence; only `Random.random` is used, which never changes between Python versions."""

    def __init__(self, seed: int, special_tokens: Sequence[str]) -> None:
        self._random = Random(seed)
        self.special_tokens = special_tokens

    def below(self, count: int) -> int:
        return int(self._random.random() * count)

    def one(self, items: Sequence[str]) -> str:
        return items[self.below(len(items))]

    def several(self, items: Sequence[str], least: int, most: int) -> list[str]:
        return [self.one(items) for _ in range(least + self.below(most - least + 1))]


def corpus(special_tokens: Sequence[str] = (), count: int = LINES) -> list[str]:
    """The lines, in which `special_tokens` (those of the tokenizer that is tested) appear beside those of other families."""
    source = _Source(_SEED, (*special_tokens, *FOREIGN_SPECIAL_TOKENS))
    lines = []
    for number in range(count):
        maker = _MAKERS[number % len(_MAKERS)]
        line = maker(source)
        if source.below(4) == 0:
            line += source.one(_SPACES) + _MAKERS[source.below(len(_MAKERS))](source)
        lines.append(line)
    return lines


def _cased(source: _Source, word: str) -> str:
    return (word, word, word, word.capitalize(), word.upper(), word.swapcase())[source.below(6)]


def _prose(source: _Source) -> str:
    words = [_cased(source, word) for word in source.several(_ENGLISH, 3, 18)]
    words.insert(source.below(len(words)), source.one(_CONTRACTIONS))
    return " ".join(words) + source.one((".", "!", "?", "...", ",", "", ";", " ", "\n"))


def _code(source: _Source) -> str:
    indent = source.one(("", "  ", "    ", "\t", "\t\t", "            "))
    return indent + source.one(("\n", "\n\n", " ", "\r\n", "\n" + indent)).join(source.several(_CODE, 1, 3))


def _numbers(source: _Source) -> str:
    digits = "0123456789"
    found = ["".join(source.several(digits, 1, 1 + source.below(20))) for _ in range(1 + source.below(8))]
    marks = (" ", ",", ".", "-", "/", ":", "e", "x", "", "%", " + ", "=", "_", "٫", "½")
    return "".join(number + source.one(marks) for number in found) + source.one(
        ("", "kg", "€", "٣٤٥", "１２", "x²", "th")
    )


def _scripts(source: _Source) -> str:
    return " ".join(source.several(_SCRIPTS, 1, 2))


def _mixed_scripts(source: _Source) -> str:
    words = [word for line in source.several(_SCRIPTS, 2, 3) for word in line.split()]
    return source.one((" ", "", "-", ", ", "\u200b")).join(source.several([*words, *_ENGLISH], 3, 12))


def _accents(source: _Source) -> str:
    """Composed and decomposed forms of the same letters, also with marks piled up."""
    letters = source.several(_COMPOSABLE, 2, 10)
    forms = [unicodedata.normalize(source.one(("NFC", "NFD")), letter) for letter in letters]
    return source.one(("", " ", "x")).join(forms) + source.one(
        ("", "e\u0301\u0302\u0323", "a\u0308b", "\u0301x")
    )


def _emoji(source: _Source) -> str:
    return "".join(emoji + source.one(("", " ", "", "!", " a")) for emoji in source.several(_EMOJI, 1, 12))


def _whitespace(source: _Source) -> str:
    pieces = [source.one(_SPACES) + source.one((*_ENGLISH, "")) for _ in range(1 + source.below(8))]
    return "".join(pieces) + source.one(("", " ", "\n", "  ", "\t", "   \n\n"))


def _invisible(source: _Source) -> str:
    strange = (*_INVISIBLE, *_CONTROLS)
    return "".join(
        source.one(_ENGLISH) + source.one(strange) + source.one((" ", "")) for _ in range(2 + source.below(6))
    )


def _odd(source: _Source) -> str:
    return "".join(source.one(_ODD) + source.one((" ", "", "a", ". ")) for _ in range(2 + source.below(8)))


def _special(source: _Source) -> str:
    """Special tokens doubled, glued to words and against whitespace, as chat templates have them."""
    around = ("", "", " ", "  ", "\n", "a", " a", "a ", ".", "\t", "\n\n")
    return "".join(
        source.one(around) + source.one(source.special_tokens) + source.one(around)
        for _ in range(1 + source.below(5))
    )


def _long_words(source: _Source) -> str:
    kinds = (
        "abcdefghijklmnopqrstuvwxyz",
        "ABCabc",
        "=",
        "-",
        "a",
        "ab",
        "0",
        "中文字",
        "é",
        "天",
        "_",
        "🙂",
        "А",
    )
    length = (20, 60, 130, 400, 900)[source.below(5)]
    alphabet = source.one(kinds)
    return (
        source.one(("", " ", "see "))
        + "".join(source.one(alphabet) for _ in range(length))
        + source.one(("", " end", "\n"))
    )


def _punctuation(source: _Source) -> str:
    runs = ["".join(source.several(_PUNCTUATION, 1, 12)) for _ in range(1 + source.below(6))]
    repeated = [source.one(_PUNCTUATION) * (1 + source.below(9)) for _ in range(3)]
    return source.one((" ", "", "\n", "a", " 1 ")).join([*runs, *repeated])


_MAKERS: tuple[Maker, ...] = (
    _prose,
    _code,
    _numbers,
    _scripts,
    _special,
    _mixed_scripts,
    _accents,
    _emoji,
    _whitespace,
    _invisible,
    _odd,
    _prose,
    _long_words,
    _punctuation,
)
