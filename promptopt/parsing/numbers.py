r"""Parses the numbers in replies and targets. Knows nothing of examples or rewards.

A number may have thousands separators (comma, apostrophe, underscore, thin or no-break space, LaTeX's `{,}`), decimals after a
point or an exponent (`1.5e3`, `1.5 x 10^{3}`); it may be a power (`2^{10}`), a fraction (`1/2`, `\frac{1}{2}`, a half sign) or
mixed (`1 1/2`). Currency and percent signs are ignored as units: `50%` is 50, not 0.5. A minus after a digit, a letter or a
closing bracket is a hyphen or a subtraction, so the last number of `10-6` is 6. Commas are never decimal points.
"""

from __future__ import annotations

import math
import re

from promptopt.parsing.plain_text import plain
from promptopt.parsing.thinking import split_thinking

_SUPERSCRIPTS = "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b\u207a"
_RAISED = re.compile(rf"(?<=\d)[{_SUPERSCRIPTS}]+")
_LOWERED = str.maketrans(_SUPERSCRIPTS, "0123456789-+")
_HALVES = re.compile(r"(?<=\d)(?=[\u00bc-\u00be\u2150-\u215e\u2189])")
_BLANK_GROUPS = re.compile(r"(?<=\d)[\u00a0\u2006-\u200a\u202f](?=\d{3}(?!\d))")
_FRAC = re.compile(r"(?<=(\d))?\\[dtc]?frac\s*(?:\{\s*([-\d.,]+)\s*\}|(\d))\s*(?:\{\s*([\d.,]+)\s*\}|(\d))")

_DIGITS = r"(?:(?:\d{1,3}(?:[,'_]\d{3})+(?!\d)|\d++)(?:\.\d++)?|(?<!\d)\.\d++)"
_POWER = r" ?(?:\^|\*\*) ?\{{? ?(?P<{}>[-+]?\d++) ?\}}?"
_TIMES = r" ?(?:\u00d7|x|\*|\u00b7|\u22c5|\\times|\\cdot) ?10"
_NO_GROUPS = str.maketrans("", "", ",'_")
_NUMBER = re.compile(
    r"\d++(?: ?/ ?\d++){2,}"  # a date
    r"|(?P<sign>(?<![\w)\]}%])-[$\u20ac\u00a3\u00a5\u20b9]?)?"
    r"(?:(?<!\w)(?P<whole>\d++) (?=\d++ ?/ ?\d++(?! ?/)))?"
    rf"(?P<top>{_DIGITS})"
    rf"(?:[eE](?P<e>[-+]?\d++)|{_TIMES}{_POWER.format('ten')}|{_POWER.format('power')})?"
    rf"(?: ?/ ?(?P<bottom>{_DIGITS}))?"
)


def numbers(text: str) -> list[float]:
    """Return the numbers in a text, in order; a number that overflows a float or divides by 0 is NaN."""
    return [_value(match) for match in _NUMBER.finditer(_normalize(text))]


def last_number(text: str) -> float | None:
    """Return the last number of a reply, ignoring thoughts; None if there is none or it is not finite."""
    values = numbers(split_thinking(text).answer)
    return values[-1] if values and math.isfinite(values[-1]) else None


def _normalize(text: str) -> str:
    """Return the text with digits, signs, fractions and digit groups in one notation."""
    text = _RAISED.sub(lambda match: f"^{{{match[0].translate(_LOWERED)}}}", text)
    text = _BLANK_GROUPS.sub(",", _HALVES.sub(" ", text).replace("{,}", ","))
    text = _FRAC.sub(lambda f: f"{' ' if f[1] else ''}{f[2] or f[3]}/{f[4] or f[5]}", text)
    return plain(text).replace("\u2044", "/")


def _value(match: re.Match[str]) -> float:
    if match["top"] is None:
        return float(match[0].split("/")[-1])
    try:
        value: float = _decimal(match["top"], match["e"] or match["ten"] or "0") ** float(match["power"] or 1)
        if match["bottom"]:
            value /= _decimal(match["bottom"])
        value += float(match["whole"] or 0)
    except (OverflowError, ZeroDivisionError):
        return math.nan
    if not math.isfinite(value):
        return math.nan
    return -value if match["sign"] else value


def _decimal(digits: str, exponent: str = "0") -> float:
    return float(f"{digits.translate(_NO_GROUPS)}e{exponent}")
