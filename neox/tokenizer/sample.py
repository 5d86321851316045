"""A fixed sample of text on which two tokenizers that differ at all are likely to differ. Knows nothing about tokenizers."""

from __future__ import annotations

import random
from collections.abc import Sequence

_WORDS = [
    "It's we'LL I'M you've 'tis 'S 'ſ they're' ''d o'clock''s",
    "def f(x):\n        return x  # comment\n\n\tif not x:\r\n\t\t pass   \n   ",
    "3.14159 1234567 12,345 ½ ² ٣٤٥ १२३ Ⅷ 1st 2nd x86_64 0x7fff",
    "naïve café Ünïcödé straße İstanbul ĲSSEL ǆ Ωmega Кирилл עברית العربية ไทย हिन्दी 한국어 日本語 中文",
    "e\u0301 n\u0303 A\u030a \u1112\u1161\u11ab \u0958 \u212b \u2126 q\u0307\u0323 \ufb01",  # not composed, or not composable
    "👩\u200d👩\u200d👧 🇪🇺 ☃\ufe0f 🏳\ufe0f\u200d🌈 \U0001f9ff \U0001fae8",
    "!!! ... --- ??!! #$%&*()[]{} <|x|> </s> ===>\n;;\n\n",
    "https://example.org/a/b?c=d&e=%20#f mail@example.org C:\\dir\\file",
    "QUJDRA== deadbeef 5f4dcc3b5aa765d61d8327deb882cf99",
    "\x00\x01\x1f\x7f\x85\xa0\xad\ufeff\u180e\u200b\u2028\u2029\u3000\u1680\ufffd\U000e0001",
    # letters that younger editions of Unicode added: 13, 15, 15.1, 16, 17
    "\u08be\U00030000 \U00031350\U0001e4d0 \U0002ebf0 \u1c89\U00010d40\U00010d4a\U00016d67\U00016d67 \U00010940\ua7ce",
]
_WHITE_SPACE = [
    " ",
    "  ",
    "   ",
    "\n",
    "\r\n",
    "\t",
    "\xa0",
    "\u2003",
    "\x0b",
    "\x85",
    " " * 24,
    " " * 25,
    " " * 50,
    "\n" * 9,
]
_PARTS = ["a", "B", "é", "中", "7", "42", "'s", "'", "!", "--", "_", "\u0301", "🙂", "٣"]


def hard_sample(special_tokens: Sequence[str]) -> list[str]:
    """Some thousand short texts: odd words, every mixture of white space and kinds of letters, special tokens within."""
    draw = random.Random(20)
    texts = [*_WORDS, *(white + word + white for word in _WORDS for white in _WHITE_SPACE)]
    parts = [*_PARTS, *_WHITE_SPACE, *special_tokens[:4]]
    texts += ["".join(draw.choices(parts, k=draw.randint(1, 12))) for _ in range(2_000)]
    letters = [chr(point) for point in [*range(0x20, 0xD800), *range(0xF900, 0x18000), *range(0x1E000, 0x32000, 7)]]
    texts += ["".join(draw.choices(letters, k=8)) for _ in range(500)]
    texts += ["a" * 3_000 + " " * 3_000 + "\n" * 3_000 + "x"]
    return texts
