"""Texts that tell tokenizers apart: where words end, how digits group, what whitespace and other scripts become."""

from __future__ import annotations

from collections.abc import Sequence

TEXTS: tuple[str, ...] = (
    "Hello, world! It's a test: we'll see, they'VE said I'D don't can't 'S 's 'Re 'tis.",
    "def f(x: int = 3) -> list[str]:\n    return [f\"{x!r:>10}\" for _ in range(x)]  # ok\n\n\nclass A:\n\tpass\n",
    "for (int i=0;i<10;++i){a[i]+=b->c&&!d||~e^f%g;}//x\r\n#include <stdio.h>\r\n\r\n/* */",
    "0 1 12 123 1234 12345 123456 1234567 3.14159 1e-10 0xFF 2026-11-20 10:30 1,000,000 v1.2.3 x86_64 ½ Ⅻ ٣٤٥",
    " leading", "  two leading", "\tleading tab", "\n", "\n\n\n", " \n \n", "a\n\n  b\t\t c   \n    d     ", "trailing   ",
    "   ", "\t\t \t", "a  b   c    d     e      f", "a\u00a0b\u3000c\u2003d", "x\r\ny\rz\n",
    "CamelCaseWORDS mixedCASE snake_case_name SCREAMING_SNAKE kebab-case-name iPhone15Pro HTTPServer2",
    "naïve café Ångström Straße œuvre Ünïcödé ĀāĒē ŁłŃń İıŞş",
    "Привет, мир! Ещё одна строка. Γειά σου Κόσμε. שלום עולם",
    "مرحبا بالعالم، كيف حالك؟ السَّلامُ عَلَيْكُمْ",
    "你好，世界！今天是2026年11月20日。日本語のテスト、カタカナとひらがな。한국어 문장입니다.",
    "नमस्ते दुनिया, यह एक परीक्षण है। สวัสดีชาวโลก বাংলা ভাষা தமிழ்",
    "😀 😃😄 👩‍💻 👨‍👩‍👧‍👦 🇩🇪🇫🇷 ❤️ 👍🏽 ✓ ™ © → ∑∫√ ≤≥≠ … — – “quotes” ‘single’ «guillemets»",
    "!@#$%^&*()_+-=[]{}|;':\",./<>?`~ ... --- === ### *** ``` ''' \"\"\" :-) <3 </s> <b>x</b> $1.00 100% #tag @me",
    "https://example.org/a/b?c=d&e=f#g user.name+tag@example.co.uk C:\\Users\\x /usr/local/bin",
    "{\"key\": [1, 2.5, null, true], \"s\": \"a\\nb\\u00e9\"}",
    "\\frac{a}{b} $x^2_{i,j}$ \\begin{align} &= 3 \\\\ \\end{align}",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa ================================ ababababababababab",
    "\x00\x01\x7f \u200b\u200d\ufeff \ue000 \U0001f9ff \U00020000",
    "The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs!?",
    "SELECT * FROM t WHERE a='b' AND c IS NOT NULL ORDER BY d DESC LIMIT 10;",
    "It's 5 o'clock; we're at l'école, y'all'd've known.  I'm Sure IT'S fine.THEY'LL see",
)  # fmt: skip

_MOST_SPECIAL_TOKENS = 300


def special_token_texts(contents: Sequence[str]) -> list[str]:
    """Each added token between words, doubled and against whitespace, as chat templates use them."""
    tokens = list(contents[:_MOST_SPECIAL_TOKENS])
    singles = [f"a{token}b {token} c{token}\n{token}{token}  d" for token in tokens]
    return [*singles, "".join(tokens), " ".join(tokens)]
