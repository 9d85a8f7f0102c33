"""References to images as text: the path of the file and a digest of its contents when the reference was made.

Because of the digest, memo keys change with the image, so a stored reply never belongs to another image. Pure functions
over files; knows nothing of models or tasks.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import io
import re
import warnings
from pathlib import Path, PurePosixPath, PureWindowsPath
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
_HEAD = 16  # bytes of a file that show its media type
_SIGNATURES = {
    "image/png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "image/jpeg": re.compile(rb"\xff\xd8\xff"),
    "image/gif": re.compile(rb"GIF8[79]a"),
    "image/webp": re.compile(rb"RIFF....WEBP", re.DOTALL),
}


class Image(NamedTuple):
    """A parsed reference.

    Args:
        path: the file; relative to the folder if there is one.
        digest: first hexadecimal digits of the SHA-256 of its bytes.
        folder: the file must be inside it, also if a link leads to it; None allows any file.
    """

    path: Path
    digest: str
    folder: Path | None = None

    @property
    def placeholder(self) -> str:
        """The text that is shown in place of the image."""
        return placeholder(self.path.as_posix())


def reference(path: Path | str, folder: Path | str | None = None) -> str:
    """Return the text that refers to an image file; it contains no white space.

    Args:
        path: the file. With a folder, it starts from there and must be inside it.
        folder: of the images of a task, `Task.image_folder`.

    Raises:
        InputError: the file cannot be read, or is not inside the folder.
    """
    file = Path(path) if folder is None else _inside(Path(folder), str(path))
    return f"{quote(Path(path).as_posix())}#sha256={_digest(_read_bytes(file))}"


def placeholder(text: str) -> str:
    """Return what is shown in place of an image, such as `[image: receipts/17.png]`, given its reference or path."""
    return f"[image: {unquote(text.partition('#sha256=')[0])}]"


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


def refuse_outside(path: str) -> None:
    """Refuse a path that does not stay in the folder it starts from. Links are followed only when a file is read.

    Raises:
        InputError: it is blank or absolute, or has a part `..`.
    """
    if not path.strip():
        raise InputError("the path of the image is blank: give the file")
    absolute = PurePosixPath(path).is_absolute() or PureWindowsPath(path).drive or path.startswith("\\")
    if absolute or ".." in re.split(r"[/\\]", path):
        raise InputError(
            f"the image {path!r} is outside the folder of the images: give a path inside it, without a leading slash or '..'"
        )


def check_file(image: Image, max_bytes: int) -> None:
    """Check, without reading all of it, that an image file can be sent.

    Args:
        image: the file.
        max_bytes: most bytes of the image in base64.

    Raises:
        InputError: it cannot be read, has an unsupported type, or is too large.
    """
    file = _file(image)
    try:
        with file.open("rb") as opened:
            head, size = opened.read(_HEAD), opened.seek(0, io.SEEK_END)
    except OSError as error:
        raise _unreadable(file, error) from error
    media_type(head, image.path)
    encoded = 4 * ((size + 2) // 3)
    if encoded > max_bytes:
        raise InputError(
            f"the image {image.path} is too large: {encoded / 1e6:,.1f} MB in base64, and the model takes {max_bytes / 1e6:,.1f}; "
            "make it smaller"
        )


def media_type(data: bytes, path: Path) -> str:
    """Return the media type that a file's first bytes show, whatever the file's name.

    Raises:
        InputError: it is none that the providers take.
    """
    kind = next((name for name, signature in _SIGNATURES.items() if signature.match(data)), None)
    if kind is None:
        raise InputError(f"the image {path} is not a PNG, JPEG, GIF or WebP file: convert it to one")
    return kind


def encoded_content(image: Image) -> tuple[str, str]:
    """Return the media type of an image file, and its bytes in base64.

    Raises:
        InputError: as for `content`, or as for `media_type`.
    """
    data = content(image)
    return media_type(data, image.path), base64.b64encode(data).decode("ascii")


def content(image: Image) -> bytes:
    """Return the bytes of an image file.

    Raises:
        InputError: it cannot be read, is not inside its folder, or its contents have changed since the reference was made.
    """
    data = _read_bytes(_file(image))
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


def _file(image: Image) -> Path:
    return image.path if image.folder is None else _inside(image.folder, str(image.path))


def _inside(folder: Path, path: str) -> Path:
    """Return the file of that path in a folder.

    Raises:
        InputError: it is outside the folder, also by a link.
    """
    refuse_outside(path)
    file = folder / path
    if not file.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"the image {path!r} is a link to a file outside the folder {folder}: copy the file into the folder"
        )
    return file


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"cannot read the image {path} ({error.strerror}): check the path")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:_DIGITS]
