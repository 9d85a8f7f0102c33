"""The viewer over HTTP: who is answered, what pages hold, and that other people's text stays text."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from results import BETTER, OUTCOMES, SEED, a_result
from shell import promptopt
from viewing import TOKEN, a_run

from promptopt import Prompt
from promptopt.evaluation.calls import Stop
from promptopt.evaluation.ledger import Budget
from promptopt.optimization.run_folder import save
from promptopt.report.curves import command
from promptopt.tracking.event_file import STOP_REQUEST, EventFile
from promptopt.tracking.events import RunStarted

pytest.importorskip("vl_convert", reason="the extra 'view' is not installed")
pytest.importorskip("starlette", reason="the extra 'view' is not installed")

from starlette.testclient import TestClient
from test_report import HOSTILE, hostile

from promptopt.view.app import build_app
from promptopt.view.library import Library

if TYPE_CHECKING:
    from pathlib import Path

    from promptopt.results.result import Result

STARTED = RunStarted(
    name="x", task="sums", strategy={"name": "S"}, models={"task": {"model": "m"}}, seed=1, budget="9 calls"
)
INSIDE = "http://127.0.0.1:8000"


def client(folder: Path, *, entered: bool = True, host: str = "127.0.0.1") -> Any:
    """A browser that has opened the printed address, or has not."""
    browser = TestClient(build_app(folder, token=TOKEN, host=host), base_url=INSIDE, follow_redirects=False)
    if entered:
        browser.get(f"/?token={TOKEN}")
    return browser


def saved(folder: Path, result: Result | None = None) -> Path:
    """The folder of a run of an earlier version, which has no events and no replies but those of its test."""
    result = result or a_result(test=replace(BETTER, outcomes=OUTCOMES))
    save(replace(result, run_dir=str(folder)), folder)
    return folder


def ids(folder: Path) -> dict[str, str]:
    return {entry.name: entry.id for entry in Library(folder).runs()}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one run of this version."""
    folder = tmp_path_factory.mktemp("recorded")
    a_run(folder / "a")
    return folder


class Parts(HTMLParser):
    """What a page may not hold, and its texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.inline: list[str] = []
        self.addresses: list[str] = []
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.inline += [name for name in values if name.startswith("on") or name == "style"]
        self.inline += [tag] if tag == "style" or (tag == "script" and "src" not in values) else []
        self.addresses += [str(values[name]) for name in ("src", "href", "action") if name in values]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


# ---------------------------------------------------------------- who is answered


def addresses(folder: Path) -> list[str]:
    run = next(iter(ids(folder).values()))
    ends = ("", "/data.json", "/candidates", "/items", "/events")
    return ["/", "/static/style.css", *(f"/runs/{run}{end}" for end in ends)]


def test_nothing_is_answered_without_the_token(tmp_path: Path) -> None:
    saved(tmp_path / "a")
    stranger, friend = client(tmp_path, entered=False), client(tmp_path)

    for address in addresses(tmp_path):
        assert friend.get(address).status_code == 200
        assert stranger.get(address).status_code == 403
        assert stranger.get(f"{address}?token=wrong").status_code == 403
        assert "sums" not in stranger.get(address).text
    stranger.cookies.set("promptopt", "wrong")
    assert stranger.get("/").status_code == 403


def test_the_token_leaves_the_address_and_becomes_a_cookie_that_no_script_reads(tmp_path: Path) -> None:
    answer = client(tmp_path, entered=False).get(f"/?token={TOKEN}")

    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert (
        client(tmp_path, entered=False).get(f"{INSIDE}//evil.example/?token={TOKEN}").headers["location"]
        == "/evil.example/"
    )


@pytest.mark.parametrize(
    ("listening", "host", "status"),
    [
        ("127.0.0.1", "localhost:9999", 200),  # a forwarded port
        ("127.0.0.1", "[::1]:8000", 200),
        ("127.0.0.1", "evil.example:8000", 421),
        ("127.0.0.1", "127.0.0.1.evil.example", 421),
        ("127.0.0.1", "192.168.0.5:8000", 421),
        ("127.0.0.1", "[broken", 421),
        ("127.0.0.1", "", 421),
        ("0.0.0.0", "192.168.0.5:8000", 200),  # noqa: S104  what the option allows
        ("0.0.0.0", "evil.example", 421),  # noqa: S104  as above
    ],
)
def test_only_own_names_are_answered(tmp_path: Path, listening: str, host: str, status: int) -> None:
    assert client(tmp_path, host=listening).get("/", headers={"host": host}).status_code == status


def test_other_sites_and_other_ports_can_neither_ask_nor_act(tmp_path: Path) -> None:
    browser, run = client(tmp_path), ids(saved(tmp_path / "a").parent)["a"]

    for origin in (None, "null", "http://127.0.0.1:3000", "http://evil.example", "https://127.0.0.1:8000.evil.example"):
        headers = {"origin": origin} if origin else {}
        assert browser.post(f"/runs/{run}/stop", headers=headers).status_code == 403
    assert browser.post(f"/runs/{run}/stop", headers={"origin": INSIDE}).status_code == 409  # not in progress
    assert browser.get(f"/runs/{run}/stop").status_code == 405
    for site in ("same-site", "cross-site"):
        assert browser.get("/", headers={"sec-fetch-site": site, "sec-fetch-mode": "no-cors"}).status_code == 403
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert browser.get("/", headers=link).status_code == 200


def test_every_answer_has_the_policy(tmp_path: Path) -> None:
    saved(tmp_path / "a")
    browser = client(tmp_path)
    answers = [browser.get(address) for address in (*addresses(tmp_path), "/nothing", "/runs/none")]
    answers.append(client(tmp_path, entered=False).get("/"))

    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] in {"no-store", "private, max-age=86400, immutable"}


def test_no_path_leads_out_of_the_folder(tmp_path: Path) -> None:
    secret = saved(tmp_path / "elsewhere" / "secret")
    folder = tmp_path / "runs"
    saved(folder / "a")
    (folder / "link").symlink_to(secret)
    (folder / "half").mkdir()
    (folder / "half" / "result.json").symlink_to(secret / "result.json")
    browser = client(folder)

    assert set(ids(folder)) == {"a"}
    for path in ("../elsewhere/secret", "..%2felsewhere%2fsecret", "link", "%2fetc", "a", "."):
        assert browser.get(f"/runs/{path}").status_code == 404
    for name in ("../view.css", "..%2f..%2fapp.py", "base.html.j2"):
        assert browser.get(f"/static/{name}").status_code == 404


def test_a_link_in_the_folder_of_a_run_is_not_followed(tmp_path: Path) -> None:
    other = saved(tmp_path / "elsewhere")
    run = saved(tmp_path / "runs" / "a")
    for name in ("test.jsonl", "events.jsonl", "cells.db"):
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(other / "test.jsonl")
    browser, run_id = client(tmp_path / "runs"), ids(tmp_path / "runs")["a"]

    assert "no saved test replies" in browser.get(f"/runs/{run_id}").text
    assert "No example matches" in browser.get(f"/runs/{run_id}/items").text


# ---------------------------------------------------------------- what the pages hold


def test_the_list_has_every_run_with_its_outcome(tmp_path: Path, recorded: Path) -> None:
    saved(tmp_path / "sweep" / "old")
    (tmp_path / "sweep" / "sweep.json").write_text(
        '{"rows": [{"task": "sums", "test": [0.5, 0.4, 0.6], "calls": 7}], "name": "s"}', encoding="utf-8"
    )
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "result.json").write_text("{", encoding="utf-8")
    text = client(tmp_path).get("/").text

    assert "Better than the seed prompt: 0.500 -&gt; 0.750" in text
    for part in ("+0.250", "+0.125 to +0.375", "RandomSearch", "seed 7", "price unknown", "123 calls", "unreadable"):
        assert part in text
    (sweep,) = re.findall(r"/sweeps/\w+", text)
    assert "0.500 0.400 0.600" in client(tmp_path).get(sweep).text
    assert "sweep/old" in client(tmp_path).get(sweep).text
    assert client(tmp_path).get("/sweeps/none").status_code == 404
    assert "finished" in client(recorded).get("/").text


def test_a_folder_without_runs_says_what_to_do(tmp_path: Path) -> None:
    assert "promptopt optimize" in client(tmp_path).get("/").text


def test_the_list_shows_what_changed_since(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a")
    browser = client(tmp_path)
    assert "No improvement found" not in browser.get("/").text
    saved(folder, a_result(prompt=SEED, test=None))

    assert "No improvement found" in browser.get("/").text


def test_the_page_of_a_run_is_its_report(tmp_path: Path) -> None:
    saved(tmp_path / "a")
    run = ids(tmp_path)["a"]
    text, data = client(tmp_path).get(f"/runs/{run}").text, client(tmp_path).get(f"/runs/{run}/data.json").json()

    assert command(a_result()) in "".join(Parts(text).texts)
    assert [candidate["number"] for candidate in data["candidates"]] == [0, 1, 2]
    assert data["outcomes"][0]["seed"]["text"] == "seven"


def test_other_peoples_text_is_text_on_every_page(tmp_path: Path) -> None:
    result = hostile()
    saved(tmp_path / "a", result)
    run = ids(tmp_path)["a"]
    ends = ("", "/candidates", "/items", f"/items?q={HOSTILE[:9]}", "/candidates?q=<script>alert(1)</script>")
    browser = client(tmp_path)
    pages = [browser.get(address) for address in ("/", *(f"/runs/{run}{end}" for end in ends))]

    for page in pages:
        parts = Parts(page.text)
        assert page.status_code == 200
        assert not parts.inline
        assert "img" not in parts.tags
        assert all(address.startswith(("/", "#", "data:,")) for address in parts.addresses), parts.addresses
    assert any(HOSTILE in text for text in Parts(pages[1].text).texts)
    assert any(HOSTILE in text for text in Parts(pages[3].text).texts)


def test_candidates_are_sorted_searched_and_paged(tmp_path: Path) -> None:
    first = a_result().history[0]
    history = tuple(
        replace(first, number=n, prompt=Prompt(f"prompt {n:03} of many"), reward=n / 250, length=300 - n)
        for n in range(250)
    )
    saved(tmp_path / "a", a_result(history=history, prompt=history[7].prompt, seed_prompt=history[0].prompt, test=None))
    browser, address = client(tmp_path), f"/runs/{ids(tmp_path)['a']}/candidates"

    def numbers(query: str) -> list[int]:
        return [int(n) for n in re.findall(r'name="c" value="(\d+)"', browser.get(f"{address}?{query}").text)]

    assert numbers("") == list(range(249, 149, -1))
    assert numbers("first=200") == list(range(49, -1, -1))
    assert numbers("first=99999999&sort=nothing") == list(range(49, -1, -1))
    assert numbers("sort=number")[:2] == [0, 1]
    assert numbers("sort=length")[0] == 249
    assert numbers("q=PROMPT+017") == [17]
    assert "101 to 200 of 250 candidates" in browser.get(f"{address}?first=100").text


# ---------------------------------------------------------------- side by side


def items_of(page: Any) -> list[str]:
    return re.findall(r'<article class="item">\s*<h2>(\S+)', page.text)


def test_recorded_candidates_are_compared_on_all_data(recorded: Path) -> None:
    browser, address = client(recorded), f"/runs/{ids(recorded)['a']}/items"
    result = Library(recorded).result(Library(recorded).runs()[0])
    best = max(result.history, key=lambda record: record.reward or 0)
    assert best.number

    def items(query: str) -> list[str]:
        return items_of(browser.get(f"{address}?c=0,{best.number}&{query}"))

    everything = items("")
    assert len(everything) == 20
    assert set(items("part=training")) == {f"train{i}" for i in range(12)}
    won, lost, tied = (set(items(f"part=training&outcome={outcome}")) for outcome in ("won", "lost", "tied"))
    assert won | lost | tied == set(items("part=training"))
    assert won
    assert not won & tied
    assert len(won) / 12 - len(lost) / 12 == pytest.approx((best.reward or 0) - (result.history[0].reward or 0))
    assert set(items("part=training&label=yes")) == {f"train{i}" for i in range(0, 12, 2)}
    assert set(items("part=training&q=ITEM11")) == {"train11"}
    assert set(items("part=training&kind=correct")) >= won
    assert items("q=nothing+holds+this") == []
    page = browser.get(f"{address}?c=0&c={best.number}&c=1&part=training")
    assert page.text.count("<h3>Candidate 1<") == 12


def test_an_earlier_run_is_compared_on_its_test(tmp_path: Path) -> None:
    saved(tmp_path / "a")
    browser, address = client(tmp_path), f"/runs/{ids(tmp_path)['a']}/items"

    assert items_of(browser.get(address)) == ["t0", "t1", "t2", "t3"]
    assert items_of(browser.get(f"{address}?outcome=won")) == ["t0"]
    assert items_of(browser.get(f"{address}?outcome=lost")) == ["t1"]
    assert items_of(browser.get(f"{address}?kind=no+reply")) == ["t3"]
    assert items_of(browser.get(f"{address}?first=9999999999999999999")) == ["t0", "t1", "t2", "t3"]
    assert "earlier version" in browser.get(address).text


def test_a_broken_table_is_named(tmp_path: Path) -> None:
    (saved(tmp_path / "a") / "cells.db").write_bytes(b"no database, but long enough to be read as one" * 100)
    page = client(tmp_path).get(f"/runs/{ids(tmp_path)['a']}/items")

    assert page.status_code == 422
    assert "cells.db" in page.text


# ---------------------------------------------------------------- in progress


def test_a_run_in_progress_is_shown_and_ended(tmp_path: Path) -> None:
    stop = Stop()
    with EventFile(tmp_path, Budget(calls=9), stop) as events:
        events(STARTED)
        browser, (run,) = client(tmp_path), ids(tmp_path).values()
        assert "in progress" in browser.get("/").text
        assert "End this run" in browser.get(f"/runs/{run}").text
        answer = browser.post(f"/runs/{run}/stop", headers={"origin": INSIDE})
        assert (answer.status_code, answer.headers["location"]) == (303, f"/runs/{run}")
        events._watchers[0].join(timeout=30)
        assert stop.requested
        assert "stopping" in browser.get(f"/runs/{run}").text

    assert not (tmp_path / STOP_REQUEST).exists()
    assert "interrupted" in browser.get("/").text
    assert "its process ended before" in browser.get(f"/runs/{run}").text


def test_the_events_of_a_run_that_ended_are_its_last_state_and_the_end(recorded: Path) -> None:
    text = client(recorded).get(f"/runs/{ids(recorded)['a']}/events").text

    assert text.startswith("event: panel\ndata: ")
    assert text.endswith("event: end\ndata: \n\n")
    assert "polyline" in text


def test_a_run_that_failed_says_why(tmp_path: Path) -> None:
    def fail() -> None:
        with EventFile(tmp_path, Budget(), Stop()) as events:
            events(STARTED)
            raise ValueError("sk-secret")

    with pytest.raises(ValueError, match="sk-secret"):
        fail()
    page = client(tmp_path).get(f"/runs/{next(iter(ids(tmp_path).values()))}").text

    assert "ValueError" in page
    assert "sk-secret" not in page


# ---------------------------------------------------------------- the command


def test_the_command_names_a_missing_folder(tmp_path: Path) -> None:
    done = promptopt(tmp_path, "view", "none", "--no-open")

    assert done.returncode == 2
    assert "there is no folder none" in done.stderr
