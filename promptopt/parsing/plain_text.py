r"""Normalizes text for comparison: one spelling for what Unicode, Markdown and LaTeX can write in several ways.

>>> plain("**Caf\u0065\u0301**"), plain(r"\boxed{\text{tech\_support}}"), plain("don\u2019t\u00a0know")
('"Café"', '""tech_support""', "don't know")
"""

from __future__ import annotations

import re
import unicodedata

_APOSTROPHES = "\u2018\u2019\u201a\u201b\u2032\u02b9\u02bb\u02bc\u02c8\u00b4\u275b\u275c\ua78c\uff07"
_QUOTES = (
    "\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb\u2039\u203a\u300a\u300b\u3008\u3009\u300c\u300d\u300e\u300f\u3010\u3011"
    "\u301d\u301e\u301f\u275d\u275e\uff02"
)
_HYPHENS = "\u2010\u2011\u2012\u2013\u2043\u2212\u02d7\ufe63\uff0d"
_DASHES = "\u2014\u2015\u2e3a\u2e3b\ufe58"
# Joiners, direction marks, soft hyphens, variation selectors.
_INVISIBLE = [
    0xAD,
    0x34F,
    0x61C,
    0x180E,
    0xFEFF,
    *range(0x200B, 0x2010),
    *range(0x202A, 0x202F),
    *range(0x2060, 0x2070),
    *range(0xFE00, 0xFE10),
]
_SPELLINGS: dict[int, str] = {
    **dict.fromkeys(map(ord, _APOSTROPHES), "'"),
    **dict.fromkeys(map(ord, _QUOTES), '"'),
    **dict.fromkeys(map(ord, _HYPHENS), "-"),
    **dict.fromkeys(map(ord, _DASHES), "\u2014"),
    **dict.fromkeys(_INVISIBLE, ""),
}

_LATEX = re.compile(r"\\(?:boxed|fbox|mbox|emph|operatorname|text\w*|math\w+)\s*\{([^{}\n]*)\}")
_LATEX_DEPTH = 3
_MATH = re.compile(r"\\[()\[\]]|\$\$?(?=\S)([^$\n]+)(?<=\S)\$\$?(?!\d)")
_ESCAPE = re.compile(r"\\([^\w\s\\]|_)")
_LINE = re.compile(r"^[ \t]*(?:```.*$|~~~.*$|(?:#{1,6}|>|[-*+\u2022])[ \t]+(?=\S))", re.MULTILINE)
_EMPHASIS = [
    re.compile(rf"(?<![^\W_])(?<!{sign})({mark})([^\s{sign}](?:[^{sign}\n]*[^\s{sign}])?)\1(?![^\W_]|{sign})")
    for mark, sign in ((r"\*{1,3}", r"\*"), ("_{1,3}", "_"), ("`{1,3}", "`"), ("~~", "~"))
]
_TAG = re.compile(r"<(\w{1,20})>([^<>\n]*)</\1>")


def plain(text: str) -> str:
    r"""Normalize a text; letter case and line breaks are kept, and marked-up parts become quoted.

    Applies NFKC, unifies quotes, hyphens and white space, and removes invisible characters. `**x**`, `_x_`, backticks,
    `<b>x</b>`, `$x$`, `\boxed{x}` and the like become `"x"`. Headings, list markers, code fences and escapes before
    punctuation are removed. Takes time linear in the length.
    """
    text = unicodedata.normalize("NFKC", text.translate(_SPELLINGS)).translate(_SPELLINGS)
    text = re.sub(r"(?<=\w)\u2014(?=\w)", " - ", text).replace("\u2014", "-")
    text = "\n".join(text.splitlines())
    if "\\" in text:
        for _ in range(_LATEX_DEPTH):
            text = _LATEX.sub(r'"\1"', text)
    text = _MATH.sub(lambda match: f'"{match[1]}"' if match[1] else '"', text)
    text = _TAG.sub(r'"\2"', _ESCAPE.sub(r"\1", text))
    for emphasis in _EMPHASIS:
        text = emphasis.sub(r'"\2"', text)
    text = _LINE.sub("", text).replace("`", "'")
    return "\n".join(line for line in (" ".join(part.split()) for part in text.split("\n")) if line)
