"""A text stream that never raises: a lost terminal, a closed pipe or a narrow encoding costs output, not the program.

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
    """Writes to another stream as long as it works; characters that it cannot encode become escapes.

    Args:
        stream: where the text goes; None (Python's value for a closed standard stream) discards it.
    """

    def __init__(self, stream: IO[str] | None) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a property in io too, by its C code
        """The encoding of the underlying stream."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    @property
    def errors(self) -> str | None:  # type: ignore[override]  # as above
        """How characters are handled that cannot be encoded."""
        return "backslashreplace"

    def write(self, text: str) -> int:
        """Write text, or discard it if the stream is lost."""
        if self._stream is not None:
            try:
                self._stream.write(self._encodable(text))
            except (OSError, ValueError):  # EPIPE, EIO; "I/O operation on closed file"
                self._disconnect()
        return len(text)

    def write_bytes(self, data: bytes) -> None:
        """Write raw bytes, or discard them if the stream is lost."""
        buffer: Any = self.buffer
        if buffer is not None:
            try:
                buffer.write(data)
            except (OSError, ValueError):
                self._disconnect()

    def writelines(self, lines: Iterable[str]) -> None:  # type: ignore[override]  # of text, not of bytes
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the underlying stream."""
        if self._stream is not None:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                self._disconnect()

    def isatty(self) -> bool:
        """Whether the underlying stream is a terminal."""
        try:
            return self._stream is not None and self._stream.isatty()
        except ValueError:  # closed
            return False

    def fileno(self) -> int:
        """Return the file descriptor of the underlying stream."""
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()

    def writable(self) -> bool:
        """Whether the stream accepts text: always."""
        return True

    @property
    def buffer(self) -> object:
        """The underlying byte stream, if there is one."""
        return getattr(self._stream, "buffer", None)

    def _encodable(self, text: str) -> str:
        try:
            text.encode(self.encoding)
        except UnicodeEncodeError:
            return text.encode(self.encoding, "backslashreplace").decode(self.encoding)
        return text

    def _disconnect(self) -> None:
        """Stop writing, and redirect what is still buffered to the null device, so that the program exits quietly."""
        lost, self._stream = self._stream, None
        with suppress(OSError, ValueError):
            if lost is not None and lost.fileno() in _STANDARD:
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, lost.fileno())
                os.close(null)


def failsafe(stream: IO[str] | None) -> IO[str]:
    """Wrap a stream so that writing to it never raises."""
    return stream if isinstance(stream, FailsafeStream) else FailsafeStream(stream)  # type: ignore[return-value]


def open_standard_descriptors() -> None:
    """Open closed standard descriptors on the null device, so that no file or socket gets their numbers."""
    for descriptor in _STANDARD:
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
