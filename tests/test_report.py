"""The report as one HTML page: what stands in it, that other people's text stays text, and that a browser shows it."""

from __future__ import annotations

import base64
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import toys
from conftest import ROOT
from results import BETTER, CHOSEN, HISTORY, OUTCOMES, SEED, UNSURE, a_result, an_outcome, data_of
from shell import promptopt

from promptopt import FakeModel, Prompt, PromptQuine, RandomSearch, optimize
from promptopt.report.compare import read_run
from promptopt.report.curves import best_at, best_so_far, command, kinds
from promptopt.report.text import markdown
from promptopt.results.front import FrontPoint, FrontTest
from promptopt.results.outcomes import Answer, write_outcomes
from promptopt.statistics import Interval
from promptopt.strategies.registry import settings_of

pytest.importorskip("vl_convert", reason="the extra 'report' is not installed")

from promptopt.report.page import page, write_page

if TYPE_CHECKING:
    from pathlib import Path

    from promptopt import Result

HOSTILE = (
    "</script><script>window.hit=1;document.title='hit'</script><img src=x onerror=\"document.title='hit'\">"
    "'\"`${1}{{ 7*7 }}<!-- &amp; \u2028\u2029 </style></textarea></pre> \N{THINKING FACE}"
)
RESULT = a_result(test=replace(BETTER, outcomes=OUTCOMES))


class Elements(HTMLParser):
    """Counts elements, and gathers what stands in `pre`."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        self.pre: list[str] = []
        self.handlers: list[str] = []
        self.addresses: list[str] = []
        self._within = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.addresses += [str(value) for name, value in attrs if name in {"src", "href", "action", "data"}]
        if tag == "pre":
            self._within = True
            self.pre.append("")

    def handle_endtag(self, tag: str) -> None:
        self._within = self._within and tag != "pre"

    def handle_data(self, data: str) -> None:
        if self._within:
            self.pre[-1] += data


def hostile() -> Result:
    """A result in which every text that a model or a user wrote is an attack."""
    prompt, seed = Prompt(HOSTILE), Prompt(HOSTILE + "!")
    answer = Answer(text=HOSTILE, reward=0.5, reason=HOSTILE, finish="stop", events=(HOSTILE,))
    outcome = an_outcome(0, 1.0, 0.0, id=HOSTILE, inputs={HOSTILE: HOSTILE}, target=HOSTILE, seed=answer, chosen=answer)
    return a_result(
        task=HOSTILE,
        prompt=prompt,
        seed_prompt=seed,
        history=(replace(HISTORY[0], prompt=seed), replace(HISTORY[1], prompt=prompt), HISTORY[2]),
        notes=(HOSTILE,),
        strategy={"name": HOSTILE, "settings": {HOSTILE: HOSTILE}},
        models={"task": {"provider": HOSTILE, "model": HOSTILE}},
        unfinished=HOSTILE,
        test=replace(BETTER, outcomes=(outcome,)),
    )


def a_page(result: Result = RESULT) -> str:
    return page(result, result.test.outcomes if result.test else ())


# ---------------------------------------------------------------- what stands in it


def test_the_page_has_the_claim_the_prompts_the_account_and_the_way_back() -> None:
    text = a_page()

    assert f"<h1>{RESULT.headline.replace('>', '&gt;').replace('+', '+')}</h1>" in text
    for part in (
        "0.650 to 0.850",
        "Think.",
        "unknown",
        "500 calls",
        "a note",
        "overfitting",
        "$ per 1,000 replies",
    ):
        assert part in text
    assert Elements(text).pre[-1] == command(RESULT)
    assert Elements(text).pre[:2] == [str(CHOSEN), "promptopt export runs/x --as python"]


def test_the_page_holds_every_candidate_and_every_reply() -> None:
    data = data_of(a_page())

    assert [one["text"] for one in data["candidates"]] == [str(record.prompt) for record in HISTORY]
    assert (data["seed"], data["chosen"]) == (0, 1)
    assert [one["difference"] for one in data["outcomes"]] == [1.0, -1.0, 0.0, None]
    assert data["outcomes"][0]["seed"]["text"] == "seven"


def test_a_page_asks_for_nothing_from_elsewhere() -> None:
    found = Elements(a_page())

    assert all(address.startswith("#") for address in found.addresses)
    assert "connect-src" not in a_page()
    assert "default-src 'none'" in a_page()
    assert not found.handlers


@pytest.mark.parametrize(
    "changes",
    [
        {"test": None},
        {"history": (), "steps": (), "used": {}, "paid": {}, "test": None},
        {"test": UNSURE},
        {"test": replace(BETTER, difference=Interval(0.25, -np.inf, np.inf))},
        {"history": tuple(replace(record, calls=None, dollars=None) for record in HISTORY)},
        {"prompt": SEED},
    ],
)
def test_a_run_that_came_less_far_has_a_page_too(changes: dict[str, Any]) -> None:
    text = a_page(a_result(**changes))

    assert a_result(**changes).headline.split(":")[0] in text
    assert data_of(text)["outcomes"] == []


def test_the_first_screen_has_date_model_strategy_and_each_number_once() -> None:
    header = page(replace(RESULT, date="2026-11-30T21:05:00+00:00"), ()).split("<main")[0]
    shown = re.sub(r"<svg.*?</svg>|<style.*?</style>", "", header, flags=re.DOTALL)

    for part in ("30 November 2026, 21:05 UTC", "fake:f", "RandomSearch", "0.400 to 0.600", "0.650 to 0.850"):
        assert shown.count(part) == 1
    assert [shown.count(number) for number in ("0.500", "0.750", "+0.250", "+0.125")] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("changes", "said", "unsaid"),
    [
        ({}, "Both prompts were run once", "This run has no test"),
        ({"test": None}, "This run has no test", "run once"),
        ({"prompt": SEED}, "Your prompt was run once", "Both prompts"),
    ],
)
def test_the_page_states_only_the_test_that_there_was(changes: dict[str, Any], said: str, unsaid: str) -> None:
    text = page(a_result(**changes), ()).split('<script type="application', maxsplit=1)[0]

    assert said in text
    assert unsaid not in text
    assert ("is paired" in text) == (said == "Both prompts were run once")


def test_other_peoples_text_is_text() -> None:
    plain, attacked = Elements(a_page()), Elements(a_page(hostile()))

    assert attacked.counts["script"] == plain.counts["script"] == 3
    assert "img" not in attacked.counts
    assert not attacked.handlers
    assert attacked.pre[0] == HOSTILE
    assert data_of(a_page(hostile()))["outcomes"][0]["seed"]["text"] == HOSTILE


def test_a_text_that_is_very_long_is_cut_and_says_so() -> None:
    long = an_outcome(0, 1.0, 1.0, inputs={"text": "x" * 50_000})

    shown = data_of(page(RESULT, (long,)))["outcomes"][0]["inputs"][0][1]
    assert len(shown) < 21_000
    assert shown.endswith("[30,000 more characters]")


def big_result(candidates: int = 2_000, items: int = 200) -> Result:
    """A long run of rewritten prompts of about 250 words of a vocabulary of 3,000, each with half of its parent's words."""
    rng = np.random.default_rng(0)
    vocabulary = np.array(["".join(map(chr, rng.integers(97, 123, rng.integers(2, 11)))) for _ in range(3_000)])
    texts = [rng.choice(vocabulary, 250)]
    parents: list[int | None] = [None]
    for number in range(1, candidates):
        parents.append(int(rng.integers(max(0, number - 100), number)))
        mixed = np.where(rng.random(250) < 0.5, texts[parents[-1] or 0], rng.choice(vocabulary, 250))
        texts.append(mixed)
    history = tuple(
        replace(
            HISTORY[0],
            number=number,
            prompt=Prompt(" ".join(words)),
            parent=parents[number],
            length=250,
            reward=float(rng.integers(0, 101)) / 100,
            cells=100,
            calls=100 * (number + 1),
            dollars=0.01 * (number + 1),
        )
        for number, words in enumerate(texts)
    )
    outcomes = tuple(
        an_outcome(
            i,
            float(i % 3 > 0),
            float(i % 4 > 0),
            inputs={"text": " ".join(rng.choice(vocabulary, 80))},
            seed=Answer(text=" ".join(rng.choice(vocabulary, 100)), reward=float(i % 3 > 0)),
            chosen=Answer(text=" ".join(rng.choice(vocabulary, 100)), reward=float(i % 4 > 0)),
        )
        for i in range(items)
    )
    best = max(history, key=lambda record: record.reward or 0.0)
    return a_result(
        history=history, prompt=best.prompt, seed_prompt=history[0].prompt, test=replace(BETTER, outcomes=outcomes)
    )


def test_two_thousand_candidates_and_two_hundred_items_are_less_than_three_megabytes() -> None:
    size = len(a_page(big_result()).encode())

    assert size < 3_000_000


# ---------------------------------------------------------------- the numbers in it


def test_the_best_so_far_rises_and_leaves_out_what_was_measured_on_few_items() -> None:
    rewards, cells = [0.5, 0.4, 0.9, 0.6, 0.6, 0.7], [10, 10, 4, 10, 10, 5]
    history = [
        replace(HISTORY[0], number=i, reward=reward, cells=cells[i], calls=10 * (i // 2 + 1), dollars=float(i))
        for i, reward in enumerate(rewards)
    ]
    points = best_so_far(history)

    assert [(point.number, point.calls, point.reward) for point in points] == [(0, 10, 0.5), (3, 20, 0.6), (5, 30, 0.7)]
    assert [best_at(points, calls) for calls in (5, 10, 25, 99)] == [None, 0.5, 0.6, 0.7]
    assert best_so_far([replace(record, calls=None) for record in history]) == []


def test_kinds_of_errors_are_counted_for_both_prompts() -> None:
    cut_off = Answer(text="", reward=0.0, reason="said 7, wanted 5", finish="length")
    moved = Answer(text="", reward=0.5, events=("FELL", "FELL"))
    found = kinds([*OUTCOMES, an_outcome(4, 0.0, 0.0, seed=cut_off, chosen=moved)])

    assert found[0] == ("correct", 2, 3)
    assert set(found[1:]) == {
        ("said 7, wanted 5", 1, 1),
        ("no reply", 1, 0),
        ("truncated", 1, 0),
        ("partial reward", 0, 1),
        ("event FELL", 0, 1),
    }


def test_rare_kinds_of_errors_are_one_kind_together() -> None:
    many = [an_outcome(i, 0.0, 0.0, seed=Answer(text="", reward=0.0, reason=f"reason {i}")) for i in range(30)]
    found = kinds(many)

    assert len(found) == 13
    assert found[-1] == ("19 other kinds", 19, 0)


def test_the_command_names_the_nearest_strategy_and_what_differs_from_it() -> None:
    strategy = {"name": "RandomSearch", "settings": {"prompts": 32, "batch": 8}}
    models = {"task": {"provider": "openai", "model": "m", "endpoint": "https://x/v1"}, "writer": {"provider": "fake"}}
    words = command(a_result(strategy=strategy, models=models, budget="5,000 calls, 2 dollars"))

    assert words == (
        "promptopt optimize TASK.toml --model openai:m --base-url https://x/v1 --writer python:MODULE:NAME "
        "--strategy random --set prompts=32 --budget '5000 calls, 2 dollars' --seed 7"
    )
    scores_chats = {"provider": "completions", "model": "q", "endpoint": "http://localhost:8000/v1", "template": "0af"}
    models = {"task": scores_chats, "writer": {key: scores_chats[key] for key in ("provider", "model", "endpoint")}}
    assert (
        "--model completions:q --base-url http://localhost:8000/v1 --tokenizer TOKENIZER "
        "--writer completions:q --writer-base-url http://localhost:8000/v1 --strategy"
    ) in command(a_result(models=models))
    assert "--strategy STRATEGY" in command(a_result(strategy={"name": "Mine", "settings": {}}))


def test_the_command_tells_classes_of_one_name_apart_by_their_settings() -> None:
    """The default of PromptQuine and the published algorithm share a name, and were one class once."""
    ours = settings_of(PromptQuine()) | {"population": 30, "offspring": 50, "max_prompts": 100_000}
    off = dict.fromkeys(("elite", "restore", "swap", "guide", "items", "block", "patience", "largest_share"), 0)
    former = settings_of(PromptQuine()) | settings_of(PromptQuine.paper()) | off | {"starts": 1}
    words = [
        command(a_result(strategy={"name": "PromptQuine", "settings": settings}))
        for settings in (ours, former, settings_of(PromptQuine.paper("ssga")))
    ]

    assert "--strategy promptquine --set population=30 --set offspring=50" in words[0]
    assert "--strategy promptquine.paper --" in words[1]
    assert "--strategy promptquine.ssga --" in words[2]


# ---------------------------------------------------------------- the command


def test_the_command_writes_the_page_into_the_runs_folder(tmp_path: Path) -> None:
    RESULT.save(tmp_path / "result.json")
    write_outcomes(OUTCOMES, tmp_path / "test.jsonl")
    done = promptopt(ROOT, "report", tmp_path)

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "report.html")
    assert len(data_of((tmp_path / "report.html").read_text(encoding="utf-8"))["outcomes"]) == len(OUTCOMES)
    assert {file.name for file in tmp_path.iterdir()} == {"result.json", "test.jsonl", "report.html", "memo"} - (
        set() if (tmp_path / "memo").exists() else {"memo"}
    )


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    done = promptopt(ROOT, "report", tmp_path / "nothing")

    assert done.returncode == 2
    assert re.search(
        r"error: cannot read .*result\.json .*: give the folder of a finished run, or its result\.json", done.stderr
    )


def test_a_run_leaves_all_that_its_report_needs(tmp_path: Path) -> None:
    result = optimize(
        toys.TASK, FakeModel(toys.answer), RandomSearch(prompts=8), writer=FakeModel(toys.writer, "w"), run_dir=tmp_path
    )
    run = read_run(tmp_path)
    calls = [record.calls or 0 for record in run.result.history]

    assert result.test is not None
    assert run.outcomes == result.test.outcomes
    assert [one.id for one in run.outcomes] == [example.id for example in toys.TASK.test]
    assert {one.seed.text for one in run.outcomes} <= set(toys.LABELS)
    gains = [one.difference or 0.0 for one in run.outcomes]
    assert sum(gains) / len(gains) == pytest.approx(result.test.difference.estimate)
    assert np.std(gains, ddof=1) == pytest.approx(result.test.spread)
    assert result.test.costs == (0.0, 0.0)
    assert calls == sorted(calls)
    assert len(toys.TASK.train) <= calls[0] < calls[-1] <= sum(spent.calls for spent in result.used.values())
    assert run.result.seed_record == run.result.history[0]


# ---------------------------------------------------------------- in a browser

# Waits until the page is built, does what a reader would do, and writes down what is then to be seen.
DRIVER = """
<script type="module">
while (document.body.dataset.drawn !== "yes") await new Promise((go) => setTimeout(go, 20));
const said = {}, tree = document.getElementById("tree"), detail = document.getElementById("detail");
const press = (key) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
tree.querySelector("[tabindex='0']").focus();
said.first = document.activeElement.dataset.number;
press("Home"); said.home = document.activeElement.dataset.number; said.homeDetail = detail.querySelector("pre").textContent;
press("ArrowLeft"); said.folded = tree.children.length;
press("ArrowRight"); said.unfolded = tree.children.length;
press("ArrowRight"); said.child = document.activeElement.dataset.number;
said.change = detail.querySelector("pre").innerHTML;
const item = document.querySelector("#examples details");
if (item) item.open = true;
await new Promise((go) => setTimeout(go, 50));
said.item = item?.textContent; said.kinds = [...document.querySelectorAll("#examples details")].map((one) => one.dataset.kind);
document.querySelector("input[name=kind][value=won]")?.click();
said.left = [...document.querySelectorAll("#examples details")].filter((one) => !one.hidden).length;
said.charts = document.querySelectorAll("svg.marks").length;
said.wide = document.documentElement.scrollWidth <= innerWidth;
said.changed = document.getElementById("changed").textContent;
said.parts = [...document.querySelectorAll(".part p")].map((one) => one.textContent);
said.rows = [...tree.children].map((one) => one.getAttribute("aria-label"));
document.querySelector("[data-copy]").focus(); document.activeElement.click();
for (let i = 0; i < 100 && !document.getElementById("copied").textContent; i++) await new Promise((go) => setTimeout(go, 20));
said.copied = document.getElementById("copied").textContent;
said.unlabelled = [...document.querySelectorAll("table")].filter((one) => !one.caption).length
  + [...document.querySelectorAll("svg.marks")].filter((one) => !one.closest("[aria-label]") && !one.getAttribute("aria-label")).length;
said.ticks = [...document.querySelectorAll(".role-axis-label")].filter((one) => one.querySelectorAll("text").length < 3).length;
said.images = document.images.length; said.title = document.title; said.hit = window.hit ?? null;
document.body.append(Object.assign(document.createElement("output"), { textContent: btoa(unescape(encodeURIComponent(JSON.stringify(said)))) }));
</script>
"""


@pytest.fixture(scope="session")
def chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found:
            return found
    pytest.skip("no chromium here: apt-get install chromium")


def browsed(chromium: str, tmp_path: Path, text: str) -> tuple[dict[str, Any], list[str]]:
    """Return what the driver saw, and what the console said."""
    write_page(f"{DRIVER}</body>".join(text.rsplit("</body>", 1)), tmp_path / "page.html")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--enable-logging=stderr"]
    done = subprocess.run(
        [chromium, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", (tmp_path / "page.html").as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    said = re.findall(r"<output>([A-Za-z0-9+/=]+)</output>", done.stdout)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert len(said) == 1, console
    return json.loads(base64.b64decode(said[0])), console


def test_a_browser_shows_the_page_and_the_keyboard_reaches_the_candidates(chromium: str, tmp_path: Path) -> None:
    said, console = browsed(chromium, tmp_path, a_page())

    assert console == []
    assert (said["first"], said["home"], said["child"]) == ("1", "0", "1")
    assert (said["folded"], said["unfolded"]) == (1, 3)
    assert said["homeDetail"] == str(SEED)
    assert "<ins>" in said["change"]
    assert said["kinds"] == ["lost", "won", "unscored", "tied"]
    assert said["left"] == 1
    assert "seven" in said["item"]
    assert said["charts"] == 2
    assert said["wide"]


def test_a_browser_marks_candidates_scored_on_few_replies_and_ranks_them_last(chromium: str, tmp_path: Path) -> None:
    few, full = replace(HISTORY[1], parent=None, reward=1.0, cells=3, failed=0), replace(HISTORY[0], reward=0.579)
    alike = replace(full, number=2, prompt=Prompt("Again."))
    said, console = browsed(chromium, tmp_path, a_page(replace(RESULT, history=(full, few, alike))))

    assert console == []
    assert [label.split(",")[0] for label in said["rows"]] == ["candidate 0", "candidate 2", "candidate 1"]
    assert said["rows"][2] == "candidate 1, training reward 1.000 on 3 of 12 replies, chosen"
    assert said["parts"][0] == "text changed"
    assert said["copied"]
    assert said["unlabelled"] == 0
    assert said["ticks"] == 0


def test_a_browser_takes_hostile_text_for_text(chromium: str, tmp_path: Path) -> None:
    said, console = browsed(chromium, tmp_path, a_page(hostile()))

    assert console == []
    assert said["images"] == 0
    assert said["hit"] is None
    assert said["title"] != "hit"
    assert HOSTILE in said["item"]
    assert HOSTILE in said["changed"]


def test_a_browser_shows_a_long_run(chromium: str, tmp_path: Path) -> None:
    said, console = browsed(chromium, tmp_path, a_page(big_result()))

    assert console == []
    assert said["charts"] == 2
    assert len(said["kinds"]) == 200


def a_front() -> Result:
    """A result with two further objectives; the seed prompt is not on the front."""
    span = Interval(0.25, 0.1, 0.4)
    points = (
        FrontPoint(number=1, means={"reward": 0.8, "tokens": 40.0, "care": 0.2}),
        FrontPoint(number=2, means={"reward": 0.4, "tokens": 10.0, "care": 0.9}),
    )
    tests = (
        FrontTest(
            means={"reward": 0.75, "tokens": 41.0, "care": 0.3},
            over_seed={
                "reward": span,
                "tokens": Interval(11.0, 11.0, 11.0),
                "care": Interval(0.1, -math.inf, math.inf),
            },
        ),
        FrontTest(
            means={"reward": 0.5, "tokens": 9.0, "care": None},
            over_seed={"reward": Interval(0.0, -0.2, 0.2), "tokens": Interval(-21.0, -22.0, -20.0), "care": span},
        ),
    )
    return a_result(
        test=replace(BETTER, front=tests), objectives=("reward", "tokens", "care"), prefer="reward", points=points
    )


def test_the_page_draws_a_chart_for_each_objective_with_the_intervals() -> None:
    text = page(a_front(), ())
    charts = {chart["name"]: chart["points"] for chart in data_of(text)["objectives"]}

    assert set(charts) == {"tokens", "care"}
    first = charts["tokens"][0]
    assert (first["x"], first["y"], first["x_low"]) == (41.0, 0.75, 41.0)
    assert (first["y_low"], first["y_high"]) == (pytest.approx(0.6), pytest.approx(0.9))  # about the point, not about 0
    assert "x_low" not in charts["care"][0]  # a bound that is not finite
    assert charts["tokens"][-1] == {"number": 0, "x": 30.0, "y": 0.5}  # the seed prompt
    assert 'id="front-chart-1"' in text
    assert "length-chart" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)


def test_the_page_of_a_run_without_objectives_has_no_front() -> None:
    text = page(RESULT, ())

    assert data_of(text)["objectives"] == []
    assert 'id="front"' not in text


def test_the_report_as_text_has_the_front_and_its_prompts() -> None:
    text = markdown(a_front())

    assert "| 1 (recommended) | reward | 0.800 | 0.750 | +0.250 | +0.100 to +0.400 |" in text
    assert "|  | tokens | 40.000 | 41.000 | +11.000 | +11.000 to +11.000 |" in text
    assert "## Prompts of the front" in text
    assert "## Reward and length" not in text
    assert "## Front" not in markdown(RESULT)


def test_the_command_repeats_the_objectives() -> None:
    assert "--objectives reward,tokens,care --prefer reward" in command(a_front())


def test_a_browser_draws_the_front(chromium: str, tmp_path: Path) -> None:
    said, console = browsed(chromium, tmp_path, a_page(a_front()))

    assert console == []
    assert said["charts"] == 3  # the search, and two objectives
    assert said["wide"]
