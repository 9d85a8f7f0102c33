"""Encoding of memo entries: bytes in a store, a line in an export. Knows nothing of where they are stored."""

from __future__ import annotations

import json
import struct
import zlib
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from promptopt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

Row: TypeAlias = tuple[str, float, bytes]
"""Key, time stored (seconds since 1970), and the value as `pack` encodes it."""

_PLAIN, _DEFLATED = b"\x02", b"\x03"  # flag byte; a checksum of key and payload follows, then the payload
_LEGACY_FLAGS = {b"\x00": _PLAIN, b"\x01": _DEFLATED}  # earlier versions wrote no checksum
_CHECKSUM = struct.Struct(">I")
_DEFLATE_FROM = 1024  # bytes; compressing smaller rows saves 0.3 KB each but makes a hit 25 % slower
END_OF_TIME = 2.0**63
"""Upper bound of valid times, in seconds; NaN and infinity fail the comparison."""


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
encode_sorted = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False, sort_keys=True).encode
_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode


def to_json(value: Any, what: str, encode: Callable[[Any], str] = _encode) -> str:
    """Return a value as JSON.

    Raises:
        InputError: it cannot be encoded; the message calls it `what`.
    """
    try:
        return encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{what} cannot be written as JSON ({error}): "
            "use only text, finite numbers, booleans, None, and lists and dicts of these"
        ) from error


def utf8(text: str) -> bytes:
    """Encode text, including unpaired surrogates: models do send them."""
    return text.encode("utf-8", "surrogatepass")


def check_key(key: str) -> str:
    """Return the key unchanged.

    Raises:
        InputError: it is not ASCII text.
    """
    if type(key) is not str or not key.isascii():
        raise InputError(f"a key of the memo must be ASCII text, not {key!r}: make it with memo_key")
    return key


def pack(key: str, value: Any, what: str) -> bytes:
    """Return a flag byte, a checksum and the JSON, deflated if that is shorter."""
    flag, payload = _PLAIN, utf8(to_json(value, what))
    if len(payload) >= _DEFLATE_FROM:
        # Small tables: the default ones take 50 microseconds to set up; compressing a reply takes only 5.
        deflater = zlib.compressobj(level=1, wbits=12, memLevel=4)
        deflated = deflater.compress(payload) + deflater.flush()
        if len(deflated) < len(payload):
            flag, payload = _DEFLATED, deflated
    return flag + _CHECKSUM.pack(_checksum(key, payload)) + payload


def _checksum(key: str, payload: bytes) -> int:
    """Return the CRC-32 of key and payload: it detects every error of up to three bits and almost all others."""
    return zlib.crc32(payload, zlib.crc32(key.encode("ascii")))


def unpack(key: str, data: bytes) -> Any:
    """Return the value that `pack` encoded for this key.

    Raises:
        ValueError: the bytes were not written by `pack`, or are corrupted.
    """
    flag, payload = data[:1], data[1:]
    if not flag:
        raise ValueError("not stored by the memo")
    if flag in _LEGACY_FLAGS:
        flag = _LEGACY_FLAGS[flag]
    elif flag in (_PLAIN, _DEFLATED):
        payload = data[1 + _CHECKSUM.size :]
        if data[1 : 1 + _CHECKSUM.size] != _CHECKSUM.pack(_checksum(key, payload)):
            raise ValueError("checksum mismatch")
    try:
        if flag == _DEFLATED:
            payload = zlib.decompress(payload)
        elif flag != _PLAIN:
            raise ValueError(f"unknown format {flag!r}")
        return _decode(payload.decode("utf-8", "surrogatepass"))
    except (zlib.error, RecursionError) as error:
        raise ValueError(str(error)) from error


def to_line(key: str, value: Any, stored: float) -> bytes:
    """Encode an entry as a line of an export."""
    return utf8(_encode({"key": key, "value": value, "stored": stored}) + "\n")


def from_line(line: bytes, where: str) -> Row:
    """Decode a line of an export.

    Raises:
        InputError: it is not one; the message says `where`.
    """
    try:
        entry = _decode(line.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON ({error}): fix or remove the line") from error
    match entry:
        case {"key": str(key), "value": value, "stored": int() | float() as stored} if (
            key.isascii() and not isinstance(stored, bool) and 0 <= stored < END_OF_TIME
        ):
            return key, float(stored), pack(key, value, f"the value in {where}")
    raise InputError(f'{where} is not a memo entry: it needs "key" (text), "value" and "stored" (seconds)')
