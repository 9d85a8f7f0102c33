"""Record a command in a terminal as an animated SVG: `python tests/recording.py docs/images/demo.svg COMMAND ...`.

Needs pyte. Each change of the screen is a frame; waiting is shortened so that the whole lasts 40 seconds at most, and the title says
how long the command really took. No script and no font is in the picture, so it plays wherever an SVG does.
"""

from __future__ import annotations

import argparse
import os
import pty
import select
import subprocess
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import pyte

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

COLUMNS, ROWS = 112, 30
LONGEST, LAST = 40.0, 8.0  # seconds: of the whole, and of the last frame
STEP = 0.25  # seconds between looks at the screen
WIDTH, HEIGHT = 7.8, 17.0  # of a character, in pixels
COLOURS = {
    "default": "#d4d4d4", "black": "#808080", "red": "#f48771", "green": "#89d185", "brown": "#e2c08d",
    "blue": "#75beff", "magenta": "#c586c0", "cyan": "#4ec9b0", "white": "#ffffff",
}  # fmt: skip


def main() -> None:
    """Record, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    frames = list(screens(options.command))
    options.picture.write_text(svg(frames, " ".join(options.command)), encoding="utf-8")


def screens(command: Sequence[str]) -> Iterator[tuple[float, list[str]]]:
    """Yield the seconds since the start and the screen's lines, as SVG, at each change."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    master, slave = pty.openpty()
    environment = os.environ | {"COLUMNS": str(COLUMNS), "LINES": str(ROWS), "TERM": "xterm-256color"}
    process = subprocess.Popen(command, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    stream.feed(f"$ {' '.join(command)}\r\n".encode())
    start, last = time.monotonic(), None
    while True:
        ended = not fed(master, stream) and process.poll() is not None
        lines = [line_of(screen.buffer[row]) for row in range(ROWS)]
        if lines != last:
            yield time.monotonic() - start, lines
            last = lines
        if ended:
            return


def fed(master: int, stream: pyte.ByteStream) -> bool:
    """Give the terminal what came within a step; return whether anything did."""
    until, any_came = time.monotonic() + STEP, False
    while (left := until - time.monotonic()) > 0 and select.select([master], [], [], left)[0]:
        try:
            stream.feed(os.read(master, 65536))
        except OSError:  # the command has ended
            return any_came
        any_came = True
    return any_came


def line_of(cells: Any) -> str:
    """Return a line's text as SVG, with a `tspan` for each run of one colour."""
    out, run, style = [], "", ("", False)
    for column in range(COLUMNS):
        cell = cells[column]
        if (cell.fg, cell.bold) != style:
            out.append(span(run, style))
            run, style = "", (cell.fg, cell.bold)
        run += cell.data
    return "".join([*out, span(run, style)]).rstrip()


def span(text: str, style: tuple[str, bool]) -> str:
    """Return a run of one colour, bold or not."""
    if not text.strip():
        return text
    colour, bold = style
    weight = ' font-weight="bold"' if bold else ""
    return f'<tspan fill="{COLOURS.get(colour, COLOURS["default"])}"{weight}>{escape(text)}</tspan>'


def svg(frames: Sequence[tuple[float, list[str]]], title: str) -> str:
    """Return the animation: each frame is visible in its share of the time."""
    moments = [moment for moment, _ in frames]
    waits = [min(b - a, 1.0) for a, b in pairwise(moments)]
    scale = min(1.0, (LONGEST - LAST) / max(sum(waits), 1e-9))
    lengths = [*(wait * scale for wait in waits), LAST]
    whole, start, rules, groups = sum(lengths), 0.0, [], []
    for number, (length, (_, lines)) in enumerate(zip(lengths, frames, strict=True)):
        begin, end = 100 * start / whole, 100 * (start + length) / whole
        before = "" if begin == 0 else f"0%{{opacity:0}}{begin:.3f}%{{opacity:1}}"
        after = "" if number == len(frames) - 1 else f"{end:.3f}%{{opacity:0}}100%{{opacity:0}}"
        rules.append(f"@keyframes f{number}{{{before or '0%{opacity:1}'}{after or '100%{opacity:1}'}}}")
        rules.append(f"#f{number}{{opacity:0;animation:f{number} {whole:.2f}s step-end infinite}}")
        texts = (
            f'<text x="12" y="{(row + 2) * HEIGHT:.0f}">{line}</text>' for row, line in enumerate(lines) if line.strip()
        )
        groups.append(f'<g id="f{number}">{"".join(texts)}</g>')
        start += length
    width, height = COLUMNS * WIDTH + 24, (ROWS + 2) * HEIGHT
    words = f"{title}: {moments[-1]:.0f} seconds, waiting shortened"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(words)}">'
        f"<title>{escape(words)}</title>"
        f"<style>text{{font:13px ui-monospace,Menlo,Consolas,monospace;fill:{COLOURS['default']};white-space:pre}}{''.join(rules)}</style>"
        f'<rect width="100%" height="100%" rx="8" fill="#1e1e1e"/>{"".join(groups)}</svg>\n'
    )


if __name__ == "__main__":
    main()
