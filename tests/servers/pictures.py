"""A loopback server that draws: OpenAI's images endpoint, a judge that looks at the picture, and a prompt writer.

A picture is a PNG of 6 x 6 pixels, one coloured pixel a thing. The image model counts badly, adds clutter and takes its
own colours, each unless the prompt has certain words (`CARE`); the judge sees pixels only, the writer the judge's words.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import struct
import zlib
from collections import Counter
from typing import TYPE_CHECKING, Any

from servers.loopback import Answer, Loopback

if TYPE_CHECKING:
    from servers.loopback import Seen

SIDE = 6
NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5}
COLOURS = {"red": (200, 0, 0), "green": (0, 160, 0), "blue": (0, 0, 220)}
WHITE, GREY = (255, 255, 255), (128, 128, 128)
CARE = {"number": "exactly as many", "clutter": "plain background", "colour": "true colours"}
FAULTS = {"number": "the wrong number of things", "clutter": "clutter around them", "colour": "the wrong colour"}


class Pictures(Loopback):
    """The server; `refuses` is a word that the image model draws nothing for, `old` whether it knows response_format."""

    def __init__(self, *, refuses: str = "", old: bool = True, **settings: Any) -> None:
        super().__init__(answer, **settings)
        self.refuses, self.old = refuses, old

    def _answer(self, seen: Seen, method: str, raw: bytes) -> Answer:
        if seen.path != "/v1/images/generations":
            return super()._answer(seen, method, raw)
        prompt = seen.body["prompt"]
        if self.refuses and self.refuses in prompt:
            return _refused("moderation_blocked", "Your request was rejected by the safety system.", None)
        if not self.old and "response_format" in seen.body:
            return _refused("unknown_parameter", "Unknown parameter: 'response_format'.", "response_format")
        if seen.spoiled == "html":
            return Answer(200, "<html><body>Bad gateway</body></html>", "text/html")
        picture = {"b64_json": base64.b64encode(png(drawn(prompt))).decode()}
        return Answer(200, json.dumps({"created": 0, "data": [{} if seen.spoiled == "empty" else picture]}))


def drawn(prompt: str) -> list[tuple[int, int, int]]:
    """Return the pixels of what an image model that is careless in three ways draws."""
    words = re.findall(r"\w+", prompt.lower())
    count = next((NUMBERS[word] for word in words if word in NUMBERS), 1)
    colour = next((word for word in words if word in COLOURS), "red")
    chance = hashlib.sha256(prompt.encode()).digest()
    count += 0 if CARE["number"] in prompt else 1 + chance[0] % 2
    if CARE["colour"] not in prompt and chance[1] % 3:
        colour = {"red": "green", "green": "blue", "blue": "red"}[colour]
    pixels: list[tuple[int, int, int]] = [WHITE] * SIDE**2
    pixels[:count] = [COLOURS[colour]] * count
    if CARE["clutter"] not in prompt:
        pixels[-3:] = [GREY] * 3
    return pixels


def answer(text: str) -> str:
    """Answer as the judge, where there is a picture, as the writer, or to a greeting."""
    if "Reply to grade" in text:
        found = re.search(r"data:image/png;base64,([\w+/=]+)", text)
        wish = re.search(r"wish: (\w+) (\w+)", text)
        if found is None or wish is None:
            return "There is no picture.\nScore: 0"
        return _judged(wish[1], wish[2], pixels(base64.b64decode(found[1])))
    shown = re.findall(r"<prompt>(.*?)</prompt>", text)
    if not shown:
        return "ready"
    lacking = [CARE[fault] for fault, words in FAULTS.items() if words in text and CARE[fault] not in shown[0]]
    return (
        "\n".join(f"<prompt>{shown[0]}, {care}</prompt>" for care in lacking) or f"<prompt>{shown[0]}, please</prompt>"
    )


def _judged(number: str, colour: str, seen: list[tuple[int, ...]]) -> str:
    counts = Counter(seen)
    things = {shade: count for shade, count in counts.items() if shade not in (WHITE, GREY)}
    faults = [
        *([FAULTS["number"]] if sum(things.values()) != NUMBERS[number] else []),
        *([FAULTS["clutter"]] if counts[GREY] else []),
        *([FAULTS["colour"]] if set(things) != {COLOURS[colour]} else []),
    ]
    return f"I see {' and '.join(faults) or 'what was asked'}.\nScore: {10 - 3 * len(faults)}"


def png(pixels: list[tuple[int, int, int]]) -> bytes:
    """Return a picture in the PNG format."""
    rows = b"".join(b"\0" + bytes(v for pixel in pixels[i : i + SIDE] for v in pixel) for i in range(0, SIDE**2, SIDE))
    head = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", binascii.crc32(kind + data))
        for kind, data in chunks
    )


def pixels(data: bytes) -> list[tuple[int, ...]]:
    """Return the pixels of a picture that `png` made."""
    start = data.index(b"IDAT")
    (length,) = struct.unpack(">I", data[start - 4 : start])
    rows = zlib.decompress(data[start + 4 : start + 4 + length])
    values = b"".join(rows[i + 1 : i + 1 + 3 * SIDE] for i in range(0, len(rows), 3 * SIDE + 1))
    return [tuple(values[i : i + 3]) for i in range(0, len(values), 3)]


def _refused(code: str, message: str, param: str | None) -> Answer:
    return Answer(400, json.dumps({"error": {"code": code, "message": message, "param": param}}))
