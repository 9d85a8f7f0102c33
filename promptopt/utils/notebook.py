"""HTML for notebooks: `_repr_html_` of values. All text is escaped. Knows nothing of the values."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from promptopt.utils.characters import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table, with the first column to the left."""
    head = "".join(f"<th>{_text(header)}</th>" for header in headers)
    body = "".join(f"<tr>{''.join(map(_cell, row, range(len(row))))}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def paragraph(text: str) -> str:
    """Return a paragraph."""
    return f"<p>{_text(text)}</p>"


def block(text: str) -> str:
    """Return a text whose line breaks and spaces are kept."""
    return f'<pre style="white-space: pre-wrap">{_text(text)}</pre>'


def _cell(text: str, column: int) -> str:
    side = "right" if column else "left"
    return f'<td style="text-align: {side}">{_text(text)}</td>'


def _text(text: str) -> str:
    return html.escape(printable(text))
