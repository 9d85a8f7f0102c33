"""References to images as text: the path of the file and a digest of its contents when the reference was made.

Because of the digest, memo keys change with the image, so a stored reply never belongs to another image. Pure functions
over files; knows nothing of models or tasks.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from urllib.parse import quote, unquote

import numpy as np

from promptopt.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator

Pixels: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]

_DIGITS = 16  # hexadecimal digits of the digest
_REFERENCE = re.compile(rf"(\S+)#sha256=([0-9a-f]{{{_DIGITS}}})")
_CHANNELS = 3


class Image(NamedTuple):
    """A parsed reference.

    Args:
        path: the file.
        digest: first hexadecimal digits of the SHA-256 of its bytes.
    """

    path: Path
    digest: str


def reference(path: Path | str) -> str:
    """Return the text that refers to an image file; it contains no white space.

    Raises:
        InputError: the file cannot be read.
    """
    return f"{quote(Path(path).as_posix())}#sha256={_digest(_read_bytes(Path(path)))}"


def parse_reference(text: str) -> Image:
    """Parse a text that is a single reference.

    Raises:
        InputError: it is not one.
    """
    match = _REFERENCE.fullmatch(text.strip())
    if match is None:
        raise InputError(
            f"{text[:80]!r} is not a reference to an image file: make one with promptopt.images.reference(path)"
        )
    return Image(Path(unquote(match[1])), match[2])


def referred(text: str) -> Image:
    """Former name of `parse_reference`."""
    warnings.warn("promptopt.images.referred is now promptopt.images.parse_reference", DeprecationWarning, stacklevel=2)
    return parse_reference(text)


def parts(text: str) -> Iterator[str | Image]:
    """Split a text into plain text and image references, in order."""
    end = 0
    for match in _REFERENCE.finditer(text):
        if match.start() > end:
            yield text[end : match.start()]
        yield Image(Path(unquote(match[1])), match[2])
        end = match.end()
    if end < len(text):
        yield text[end:]


def content(image: Image) -> bytes:
    """Return the bytes of an image file.

    Raises:
        InputError: it cannot be read, or its contents have changed since the reference was made.
    """
    data = _read_bytes(image.path)
    if _digest(data) != image.digest:
        raise InputError(f"the image {image.path} has changed since it was read: restore it, or start again")
    return data


def pixels(image: Image) -> Pixels:
    """Return the RGB values, uint8 [height, width, 3], of a `.npy` file or any image that Pillow can read.

    Raises:
        InputError: as for `content`, or the file is not an image.
        MissingExtraError: the file is not a `.npy` file, and Pillow is not installed.
    """
    data = io.BytesIO(content(image))
    if image.path.suffix == ".npy":
        try:
            array: Pixels = np.load(data, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise InputError(f"{image.path} does not contain an array ({error}): write it with numpy.save") from error
        if array.dtype != np.uint8 or array.ndim != _CHANNELS or array.shape[2] != _CHANNELS or not array.size:
            raise InputError(
                f"{image.path} is {array.dtype} {list(array.shape)}: an image must be uint8 [height, width, 3]"
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
        raise InputError(f"{image.path} is not an image that Pillow can read: {error}") from error


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the image {path} ({error.strerror}): check the path") from error


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:_DIGITS]
