"""Pages from templates: the viewer's own, and the report's, which find the viewer's `base.html.j2` in place of theirs."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

if TYPE_CHECKING:
    from promptopt.view.assets import Assets


class Pages:
    """Renders pages. All that is inserted is escaped.

    Args:
        assets: scripts and styles that pages refer to.
    """

    def __init__(self, assets: Assets) -> None:
        self._assets = assets

    def render(self, template: str, **values: Any) -> str:
        """Return the text of a page or of a part of one."""
        text = _environment().get_template(template).render(asset=self._assets.address, **values)
        return text.encode("utf-8", "backslashreplace").decode()  # prompts may hold unpaired surrogates

    def response(self, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
        """Return a page as the answer to a request."""
        return HTMLResponse(self.render(template, **values), status)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("promptopt.view"), PackageLoader("promptopt.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["date"] = date_text
    return environment


def date_text(seconds: float) -> str:
    """Format seconds since 1970 as a date and a time in this machine's zone."""
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M") if seconds else ""
