"""A run started from a form: choose a data file, fill in the form, read what a run would need, start it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse
from starlette.routing import Route

from promptopt.models.local.catalog import KNOWN
from promptopt.optimization.estimate import HEADS
from promptopt.strategies.auto import AUTO
from promptopt.strategies.registry import known_strategies
from promptopt.view.data_files import MOST_FILES, columns, data_files, data_path, likely_input, likely_label
from promptopt.view.pages.tabs import Tab
from promptopt.view.posted import read_fields
from promptopt.view.run_form import MODEL_KINDS, RunForm
from promptopt.view.starts import Starts

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from promptopt.view.app import Viewer
    from promptopt.view.data_files import Column
    from promptopt.view.library import RunEntry
    from promptopt.view.starts import Start

_NOT_RUN = 2  # exit code of a command that cannot be carried out
_TABS = [Tab("Start a run", "/start", current=True)]


def routes(viewer: Viewer) -> list[Route]:
    """Return the routes."""
    pages = _StartPages(viewer, Path.cwd(), Starts(viewer.library.folder))
    return [
        Route("/start", pages.fill_in),
        Route("/start", pages.check, methods=["POST"]),
        Route("/starts/{start}", pages.show),
        Route("/starts/{start}/run", pages.run, methods=["POST"]),
    ]


@dataclass(frozen=True)
class _StartPages:
    """The pages, in their order.

    Args:
        viewer: renders them.
        root: the folder whose data files are offered, and in which runs are started.
        starts: what was checked and started.
    """

    viewer: Viewer
    root: Path
    starts: Starts

    def fill_in(self, request: Request) -> Response:
        """Show the data files, or the form for one."""
        earlier = self.starts.get(request.query_params.get("from", ""))
        if earlier is not None:
            return _form_page(self.viewer, earlier.form, columns(data_path(self.root, earlier.form.data)))
        name = request.query_params.get("data", "")
        if not name:
            return _files_page(self.viewer, self.root)
        found = columns(data_path(self.root, name))
        return _form_page(self.viewer, _offered(self.root, name, found), found)

    async def check(self, request: Request) -> Response:
        """Check what was filled in; its page is the start's."""
        form = RunForm.of(self.root, await read_fields(request))
        await run_in_threadpool(lambda: form.checkup)
        return RedirectResponse(f"/starts/{self.starts.add(form).id}", 303)

    def show(self, request: Request) -> Response:
        """Show the check; once the run was started, go to its page."""
        start = self._start(request)
        entry = _entry(self.viewer, start)
        if start.process is None:
            return _check_page(self.viewer, start, entry)
        code = start.exit_code
        if entry is not None and (entry.live or code not in {None, _NOT_RUN}):
            return RedirectResponse(f"/runs/{entry.id}", 303)
        scripts = ["start.js"] if code is None else []
        return self.viewer.pages.response("starting.html.j2", tabs=_TABS, scripts=scripts, start=start)

    def run(self, request: Request) -> Response:
        """Start the run, unless it is in progress."""
        start = self._start(request)
        if not start.form.checkup.ready:
            raise HTTPException(409, "This run cannot start: change what the check names, and check it again.")
        entry = _entry(self.viewer, start)
        if entry is not None and entry.live:
            return RedirectResponse(f"/runs/{entry.id}", 303)
        self.starts.start(start)
        return RedirectResponse(f"/starts/{start.id}", 303)

    def _start(self, request: Request) -> Start:
        """Return the start whose id is in the address.

        Raises:
            HTTPException: there is none; answered with 404.
        """
        start = self.starts.get(request.path_params["start"])
        if start is None:
            raise HTTPException(404, "This form is no longer known: fill it in again. Runs that were started continue.")
        return start


def _entry(viewer: Viewer, start: Start) -> RunEntry | None:
    """Return the run of a start, None if it cannot start or has written nothing yet."""
    if not start.form.checkup.ready:
        return None
    return next((entry for entry in viewer.library.runs() if entry.folder == start.run_folder), None)


def _offered(root: Path, name: str, found: list[Column]) -> RunForm:
    """Return the form as it is first shown for a data file."""
    label, field = likely_label(found), likely_input(found)
    return RunForm(
        folder=root,
        data=name,
        inputs=() if field is None else (field.name,),
        label="" if label is None else label.name,
        labels=() if label is None else label.labels,
    )


def _files_page(viewer: Viewer, root: Path) -> Response:
    return viewer.pages.response(
        "start_files.html.j2", tabs=_TABS, folder=str(root), files=data_files(root), most=MOST_FILES
    )


def _form_page(viewer: Viewer, form: RunForm, found: list[Column]) -> Response:
    return viewer.pages.response(
        "start_form.html.j2",
        tabs=_TABS,
        scripts=["start.js"],
        form=form,
        columns=found,
        kinds=MODEL_KINDS,
        local_names=sorted(KNOWN),
        strategies=[AUTO, *sorted(known_strategies())],
    )


def _check_page(viewer: Viewer, start: Start, entry: RunEntry | None) -> Response:
    checkup = start.form.checkup
    return viewer.pages.response(
        "start_check.html.j2",
        tabs=_TABS,
        scripts=["start.js"],
        start=start,
        checkup=checkup,
        heads=HEADS,
        entry=entry,
        power=None if checkup.estimate is None else checkup.estimate.power,
    )
