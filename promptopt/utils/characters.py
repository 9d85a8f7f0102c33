"""Characters that do harm: those that steer a terminal, halves of surrogate pairs, NUL. Knows nothing of who wrote them."""

from __future__ import annotations

import re

# C0 except tab and line feed, DEL, C1 (8-bit escape sequences), embeddings and isolates that reorder text, surrogates.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_HALF = re.compile(r"[\ud800-\udfff]")
_REFUSED = re.compile(r"[\x00\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return text that cannot steer a terminal: control characters become escapes such as `\x1b`, line ends `\n`."""
    return _UNPRINTABLE.sub(_escape, text.replace("\r\n", "\n"))


def replace_surrogates(text: str) -> str:
    """Return text in which U+FFFD replaces every half of a surrogate pair, which no file or request can hold."""
    return text if text.isascii() else _HALF.sub("\ufffd", text)


def character_fault(text: str) -> str:
    """Return what is wrong with the first character that cannot be used, or ""."""
    found = None if text.isascii() and "\x00" not in text else _REFUSED.search(text)
    if found is None:
        return ""
    if found[0] == "\x00":
        return f"a NUL character (at {found.start()}), as text in UTF-16 does: save it as UTF-8"
    return f"half of a surrogate pair ({_escape(found)}, at {found.start()}), which is no character: save whole ones, in UTF-8"


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"  # noqa: PLR2004  two digits suffice below
