"""Labels by hand: who gave which, how far two people agree, and, for those who have finished, what the labels say."""

from __future__ import annotations

import math
import shlex
from typing import TYPE_CHECKING, NamedTuple

from starlette.exceptions import HTTPException
from starlette.routing import Route

from promptopt.errors import InputError
from promptopt.optimization.human_claim import human_claim
from promptopt.statistics.agreement import MIN_ITEMS
from promptopt.view.agreement import agreements
from promptopt.view.labels import SCORES, VALUES, label_files, person_key, questions
from promptopt.view.pages.labelling import (
    kind_of,
    labels_address,
    open_session,
    question_address,
    results_address,
    run_items,
)
from promptopt.view.pages.tabs import Tab, tabs_of

if TYPE_CHECKING:
    from typing import Any

    from starlette.requests import Request
    from starlette.responses import Response

    from promptopt.results.human_claim import HumanClaim
    from promptopt.statistics import Interval
    from promptopt.view.agreement import Agreement
    from promptopt.view.app import Viewer
    from promptopt.view.labels import Label, LabelFile
    from promptopt.view.library import RunEntry
    from promptopt.view.pages.labelling import Session


class Person(NamedTuple):
    """A row of the table of people: how many labels, and the address to go on, or of the results."""

    key: str
    labels: int
    skipped: int
    finished: bool
    address: str


class Kind(NamedTuple):
    """Labels of a kind: how many questions there are, who answered them, and agreement as (people, questions, kappa, ranks)."""

    name: str
    questions: int
    people: list[Person]
    agreements: list[tuple[str, int, str, str]]


def routes(viewer: Viewer) -> list[Route]:
    """Return the routes."""

    def overview(request: Request) -> Response:
        entry = viewer.run(request)
        items = run_items(viewer, entry)
        seed = viewer.library.result(entry).seed
        return viewer.pages.response(
            "labels.html.j2",
            tabs=tabs_of(entry, "Labels"),
            entry=entry,
            address=labels_address(entry),
            kinds=[_kind(entry, kind, items, seed) for kind in VALUES],
            items=len(items),
            equal=sum(len(item) == 1 for item in items),
        )

    def results(request: Request) -> Response:
        entry, kind, person = viewer.run(request), kind_of(request), person_key(request.query_params.get("person", ""))
        session = open_session(viewer, entry, kind, person)
        if not session.file.finished:
            raise HTTPException(
                409, f"{person} has not finished: what the labels say is shown then, so that it changes none of them."
            )
        claim, missing = _claim(session)
        return viewer.pages.response(
            "label_results.html.j2",
            tabs=[Tab("Labels", labels_address(entry), current=True)],
            entry=entry,
            person=person,
            kind=kind,
            claim=claim,
            missing=missing,
            skipped=session.skipped,
            commands=_commands(session),
            file=session.file.path,
        )

    return [
        Route("/runs/{run}/labels", overview),
        Route("/runs/{run}/labels/{kind}/results", results),
    ]


def _kind(entry: RunEntry, kind: str, items: list[list[dict[str, Any]]], seed: int) -> Kind:
    files = label_files(entry.folder, kind)
    labels = {file.person: file.read(questions(kind, items, seed=seed, person=file.person)) for file in files}
    people = [_person(entry, file, labels[file.person]) for file in files]
    asked = sum(len(item) for item in items) if kind == SCORES else sum(len(item) > 1 for item in items)
    return Kind(kind, asked, people, [_agreement_row(each) for each in agreements(kind, labels)])


def _person(entry: RunEntry, file: LabelFile, labels: list[Label]) -> Person:
    skipped = sum(not label.value for label in labels)
    address = results_address(entry, file) if file.finished else question_address(entry, file)
    return Person(file.person, len(labels) - skipped, skipped, file.finished, address)


def _agreement_row(each: Agreement) -> tuple[str, int, str, str]:
    ranks = "" if each.ranks is None else _span(each.ranks)
    return f"{each.first}, {each.second}", each.questions, _span(each.kappa), ranks


def _span(interval: Interval) -> str:
    if math.isnan(interval.estimate):
        return "undefined: one of them gave one label throughout"
    if math.isinf(interval.low):
        return f"too few: {MIN_ITEMS} are needed"
    return f"{interval.estimate:.2f}, 95 % interval {interval.low:.2f} to {interval.high:.2f}"


def _claim(session: Session) -> tuple[HumanClaim | None, str]:
    """Return the claim, or why there is none."""
    try:
        return human_claim(session.entry.folder, session.file.sheet), ""
    except InputError as error:
        return None, str(error)


def _commands(session: Session) -> list[str]:
    """Return the commands that read the labels."""
    run, file = shlex.quote(str(session.entry.folder)), shlex.quote(str(session.file.sheet))
    claim = f"promptopt claim {run} --human-scores {file}"
    if session.file.kind != SCORES:
        return [claim]
    return [
        claim,
        f'promptopt judge-check {file} --judge KIND:NAME --criteria "WHAT MAKES A REPLY GOOD" --budget "1 dollars"',
    ]
