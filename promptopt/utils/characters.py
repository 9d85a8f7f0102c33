"""Handles harmful characters: terminal control characters, unpaired surrogates and NUL. Knows nothing of their source."""

from __future__ import annotations

import re

# C0 except tab and line feed, DEL, C1 (8-bit escape sequences), embeddings and isolates that reorder text, surrogates.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_REFUSED = re.compile(r"[\x00\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return text that is safe to print: control characters become escapes such as `\x1b`, and CRLF becomes LF."""
    return _UNPRINTABLE.sub(_escape, text.replace("\r\n", "\n"))


def replace_surrogates(text: str) -> str:
    """Replace unpaired surrogates, which cannot be encoded in UTF-8, by U+FFFD."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def character_fault(text: str) -> str:
    """Describe the first character that cannot be used, or return ""."""
    match = None if text.isascii() and "\x00" not in text else _REFUSED.search(text)
    if match is None:
        return ""
    if match[0] == "\x00":
        return f"a NUL character (at {match.start()}), which suggests that it is UTF-16: save it as UTF-8"
    return f"an unpaired surrogate ({_escape(match)}, at {match.start()}), which is not a valid character: save it as UTF-8"


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"  # noqa: PLR2004  two digits suffice below
