"""Images that travel as text: where the file lies, and the digest of what it held when the text was made.

The digest makes the text say which image is meant: a reply in the memo is never another image's. Pure functions over
files; knows nothing of models or tasks.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from urllib.parse import quote, unquote

import numpy as np

from promptopt.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator

Pixels: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]

_DIGITS = 16  # of the digest
_REFERENCE = re.compile(rf"(\S+)#sha256=([0-9a-f]{{{_DIGITS}}})")
_CHANNELS = 3


class Image(NamedTuple):
    """What a reference says.

    Args:
        path: of the file.
        digest: first hexadecimal digits of the SHA-256 of its bytes.
    """

    path: Path
    digest: str


def reference(path: Path | str) -> str:
    """Return the text that stands for an image file; it holds no white space.

    Raises:
        InputError: the file cannot be read.
    """
    return f"{quote(Path(path).as_posix())}#sha256={_digest(_read_bytes(Path(path)))}"


def parse_reference(text: str) -> Image:
    """Return what a text that is one reference says.

    Raises:
        InputError: it is none.
    """
    found = _REFERENCE.fullmatch(text.strip())
    if found is None:
        raise InputError(f"{text[:80]!r} stands for no image file: make it by promptopt.images.reference(path)")
    return Image(Path(unquote(found[1])), found[2])


def parts(text: str) -> Iterator[str | Image]:
    """Cut a text into what is text and what is a reference to an image, in their order."""
    end = 0
    for found in _REFERENCE.finditer(text):
        if found.start() > end:
            yield text[end : found.start()]
        yield Image(Path(unquote(found[1])), found[2])
        end = found.end()
    if end < len(text):
        yield text[end:]


def content(image: Image) -> bytes:
    """Return the bytes of an image file.

    Raises:
        InputError: it cannot be read, or holds another image than when the reference was made.
    """
    data = _read_bytes(image.path)
    if _digest(data) != image.digest:
        raise InputError(f"the image {image.path} was changed while it was in use: start again, or put it back")
    return data


def pixels(image: Image) -> Pixels:
    """Return red, green and blue of an image, uint8 [height, width, 3], of a `.npy` file or of any that Pillow reads.

    Raises:
        InputError: as `content`, or the file is no image.
        MissingExtraError: Pillow is not installed, and the file is no `.npy`.
    """
    data = io.BytesIO(content(image))
    if image.path.suffix == ".npy":
        try:
            array: Pixels = np.load(data, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise InputError(f"{image.path} holds no array ({error}): write it by numpy.save") from error
        if array.dtype != np.uint8 or array.ndim != _CHANNELS or array.shape[2] != _CHANNELS or not array.size:
            raise InputError(
                f"{image.path} holds {array.dtype} {list(array.shape)}: an image is uint8 [height, width, 3]"
            )
        return array
    try:
        pillow = importlib.import_module("PIL.Image")
    except ImportError as error:
        raise MissingExtraError(f"to read {image.path.suffix or 'such'} images", "local") from error
    try:
        with pillow.open(data) as opened:
            return np.asarray(opened.convert("RGB"))
    except OSError as error:
        raise InputError(f"{image.path} holds no image that Pillow can read: {error}") from error


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the image {path} ({error.strerror}): check the path") from error


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:_DIGITS]
