"""A stream of text that never fails: a lost terminal, a closed pipe or a narrow encoding silence the words, not the program.

Knows nothing of what is written.
"""

from __future__ import annotations

import io
import os
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

_STANDARD = (0, 1, 2)


class FailsafeStream(io.TextIOBase):
    """Writes to another stream for as long as that one can be written to; characters that it lacks become escapes.

    Args:
        stream: where the text goes; None, which Python has where a standard stream is closed, drops all.
    """

    def __init__(self, stream: IO[str] | None) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a property in io too, by its C code
        """The encoding of the stream below."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    @property
    def errors(self) -> str | None:  # type: ignore[override]  # as above
        """What is done about characters that the encoding lacks."""
        return "backslashreplace"

    def write(self, text: str) -> int:
        """Write text, or drop it where nobody can read it any more."""
        if self._stream is not None:
            try:
                self._stream.write(self._encodable(text))
            except (OSError, ValueError):  # EPIPE, EIO; "I/O operation on closed file"
                self._lose()
        return len(text)

    def write_bytes(self, data: bytes) -> None:
        """Write bytes as they are, past the encoding, or drop them where nobody can read them any more."""
        below: Any = self.buffer
        if below is not None:
            try:
                below.write(data)
            except (OSError, ValueError):
                self._lose()

    def writelines(self, lines: Iterable[str]) -> None:  # type: ignore[override]  # of text, not of bytes
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Send what was written on its way."""
        if self._stream is not None:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                self._lose()

    def isatty(self) -> bool:
        """Whether the stream below is a terminal."""
        try:
            return self._stream is not None and self._stream.isatty()
        except ValueError:  # closed
            return False

    def fileno(self) -> int:
        """Return the descriptor below."""
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()

    def writable(self) -> bool:
        """Whether it may be written to: always."""
        return True

    @property
    def buffer(self) -> object:
        """The stream of bytes below, for those who write these."""
        return getattr(self._stream, "buffer", None)

    def _encodable(self, text: str) -> str:
        try:
            text.encode(self.encoding)
        except UnicodeEncodeError:
            return text.encode(self.encoding, "backslashreplace").decode(self.encoding)
        return text

    def _lose(self) -> None:
        """Write nothing any more, and let what is still buffered go nowhere, so that the end of the program is quiet."""
        lost, self._stream = self._stream, None
        with suppress(OSError, ValueError):
            if lost is not None and lost.fileno() in _STANDARD:
                silent = os.open(os.devnull, os.O_WRONLY)
                os.dup2(silent, lost.fileno())
                os.close(silent)


def failsafe(stream: IO[str] | None) -> IO[str]:
    """Return a stream that never fails in front of this one."""
    return stream if isinstance(stream, FailsafeStream) else FailsafeStream(stream)  # type: ignore[return-value]


def open_standard_descriptors() -> None:
    """Open what was closed of standard input, output and error to nowhere, so that no file or socket gets its number."""
    for descriptor in _STANDARD:
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
