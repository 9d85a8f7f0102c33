"""How an entry of the memo is written: as bytes in a store, as a line in an export. Knows nothing of where either lies."""

from __future__ import annotations

import json
import struct
import zlib
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from promptopt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

Row: TypeAlias = tuple[str, float, bytes]
"""Key, seconds since 1970 when it was stored, and the value as `pack` writes it."""

_PLAIN, _DEFLATED = b"\x02", b"\x03"  # then a checksum of key and payload, then the payload
_UNSUMMED = {b"\x00": _PLAIN, b"\x01": _DEFLATED}  # as versions before wrote them: the payload alone
_SUM = struct.Struct(">I")
_DEFLATE_FROM = 1024  # bytes; below, a row shrinks by 0.3 KB and a hit takes a quarter longer
END_OF_TIME = 2.0**63
"""Seconds; what is not below is no time, NaN and infinity included."""


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
encode_sorted = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False, sort_keys=True).encode
_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode


def to_json(value: Any, what: str, encode: Callable[[Any], str] = _encode) -> str:
    """Return a value as JSON.

    Raises:
        InputError: it is none; names it `what`.
    """
    try:
        return encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{what} cannot be written as JSON ({error}): "
            "give text, finite numbers, true, false, None, and lists and dicts of these"
        ) from error


def utf8(text: str) -> bytes:
    """Return the bytes of a text, halves of surrogate pairs included: models do send them."""
    return text.encode("utf-8", "surrogatepass")


def checked(key: str) -> str:
    """Return the key.

    Raises:
        InputError: it is no ASCII text.
    """
    if type(key) is not str or not key.isascii():
        raise InputError(f"a key of the memo must be ASCII text, not {key!r}: take it from memo_key")
    return key


def pack(key: str, value: Any, what: str) -> bytes:
    """Return a flag byte, a checksum, and the JSON, deflated where that is shorter."""
    flag, payload = _PLAIN, utf8(to_json(value, what))
    if len(payload) >= _DEFLATE_FROM:
        # Small tables: the usual ones take 50 microseconds to set up, the compressing of a reply itself takes 5.
        deflater = zlib.compressobj(level=1, wbits=12, memLevel=4)
        deflated = deflater.compress(payload) + deflater.flush()
        if len(deflated) < len(payload):
            flag, payload = _DEFLATED, deflated
    return flag + _SUM.pack(_checksum(key, payload)) + payload


def _checksum(key: str, payload: bytes) -> int:
    """CRC-32, which no flip of up to three bits of an entry escapes, nor one of a million other faults."""
    return zlib.crc32(payload, zlib.crc32(key.encode("ascii")))


def unpack(key: str, data: bytes) -> Any:
    """Return the value that `pack` wrote for this key.

    Raises:
        ValueError: the bytes are not of its kind, or no longer those that it wrote.
    """
    flag, payload = data[:1], data[1:]
    if not flag:
        raise ValueError("it was not stored by the memo")
    if flag in _UNSUMMED:
        flag = _UNSUMMED[flag]
    elif flag in (_PLAIN, _DEFLATED):
        payload = data[1 + _SUM.size :]
        if data[1 : 1 + _SUM.size] != _SUM.pack(_checksum(key, payload)):
            raise ValueError("its checksum is another")
    try:
        if flag == _DEFLATED:
            payload = zlib.decompress(payload)
        elif flag != _PLAIN:
            raise ValueError(f"it starts with {flag!r}")
        return _decode(payload.decode("utf-8", "surrogatepass"))
    except (zlib.error, RecursionError) as error:
        raise ValueError(str(error)) from error


def to_line(key: str, value: Any, stored: float) -> bytes:
    """Return an entry as a line of an export."""
    return utf8(_encode({"key": key, "value": value, "stored": stored}) + "\n")


def from_line(line: bytes, where: str) -> Row:
    """Read a line of an export.

    Raises:
        InputError: it is none; says `where`.
    """
    try:
        entry = _decode(line.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is no JSON ({error}): mend or remove the line") from error
    match entry:
        case {"key": str(key), "value": value, "stored": int() | float() as stored} if (
            key.isascii() and not isinstance(stored, bool) and 0 <= stored < END_OF_TIME
        ):
            return key, float(stored), pack(key, value, f"the value in {where}")
    raise InputError(f'{where} is no entry of a memo: it must have a "key" (text), a "value" and "stored" (seconds)')
