"""Scripts and styles as files of the server, so that pages hold none: the report's, the viewer's, and Vega-Lite."""

from __future__ import annotations

import secrets
import threading
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

import vl_convert
from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import Callable

_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
_CACHING = "private, max-age=86400, immutable"  # addresses hold the version


class Assets:
    """Files by name."""

    def __init__(self) -> None:
        self._version = secrets.token_hex(4)  # of this start: browsers ask again after an update

    def address(self, name: str) -> str:
        """Return the address of a file, for pages."""
        if name not in _FILES:
            raise KeyError(f"there is no asset {name!r}")
        return f"/static/{name}?v={self._version}"

    def response(self, name: str) -> Response | None:
        """Return a file as the answer to a request; None if there is none of this name."""
        make = _FILES.get(name)
        if make is None:
            return None
        return Response(make(), media_type=_TYPES[name.rpartition(".")[2]], headers={"cache-control": _CACHING})


_bundling = threading.Lock()


def vega() -> str:
    """Return Vega-Lite's JavaScript. Bundling it takes one to two seconds: who asks meanwhile waits for the same bundle."""
    with _bundling:
        return _vega()


@cache
def _vega() -> str:
    return f"(() => {{ 'use strict'; {vl_convert.javascript_bundle('window.vegaEmbed = vegaEmbed;')} }})();"


def _joined(*files: tuple[str, str]) -> Callable[[], str]:
    """Return a function that reads files, given as (package, path), as one."""

    @cache
    def read() -> str:
        return "\n".join(resources.files(package).joinpath(path).read_text(encoding="utf-8") for package, path in files)

    return read


_REPORT, _VIEW = "promptopt.report", "promptopt.view"
_FILES: dict[str, Callable[[], str]] = {
    "style.css": _joined((_REPORT, "templates/style.css"), (_VIEW, "static/view.css")),
    # One module, as in the static report, where they share the names of `common.js`.
    "report.js": _joined(
        (_REPORT, "templates/common.js"), (_VIEW, "static/fetched.js"), (_REPORT, "templates/report.js")
    ),
    "runs.js": _joined((_VIEW, "static/runs.js")),
    "start.js": _joined((_VIEW, "static/start.js")),
    "labelling.js": _joined((_VIEW, "static/labelling.js")),
    "live.js": _joined((_VIEW, "static/live.js")),
    "vega.js": vega,
}
