"""Labels by hand over HTTP: blind, saved at once in files that the commands read, closed before they say anything."""

from __future__ import annotations

import hashlib
import html
import json
import re
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from results import BETTER, a_result
from shell import promptopt

from promptopt import human_claim
from promptopt.data.rows import read_rows
from promptopt.errors import InputError
from promptopt.optimization.human_claim import sheet_items
from promptopt.optimization.recorded_test import read_test
from promptopt.results.outcomes import Answer, Outcome, read_outcomes
from promptopt.statistics.agreement import cohen_kappa, rank_correlation

pytest.importorskip("vl_convert", reason="the extra 'view' is not installed")
pytest.importorskip("starlette", reason="the extra 'view' is not installed")

from test_report import HOSTILE
from test_view import INSIDE, Parts, client, ids, saved

from promptopt.view.agreement import agreements
from promptopt.view.labels import VALUES, Label, LabelFile, comparison_scores, person_key, questions

if TYPE_CHECKING:
    from pathlib import Path

KINDS = tuple(VALUES)
ITEMS = 10  # so that there is an interval


def an_item(number: int, seed: str, chosen: str) -> Outcome:
    def answer(text: str) -> Answer:
        return Answer(text=text, reward=float("right" in text), reason=f"reason of {text}")

    return Outcome(
        id=f"t{number}", inputs={"text": f"item {number}"}, target="5", seed=answer(seed), chosen=answer(chosen)
    )


def outcomes(count: int = ITEMS) -> tuple[Outcome, ...]:
    """Items of which the last two have equal replies."""
    pairs = [("wrong", "right") if n % 3 else ("right", "wrong, too") for n in range(count - 2)]
    items = [an_item(n, f"{seed} {n}", f"{chosen} {n}") for n, (seed, chosen) in enumerate(pairs)]
    return (*items, *(an_item(n, "equal", "equal") for n in (count - 2, count - 1)))


def hostile_items() -> tuple[Outcome, ...]:
    items = (an_item(100 + n, f"{HOSTILE}{n}", f"{HOSTILE}{n}\r\n\"',=1+1\t") for n in range(3))
    return tuple(replace(item, inputs={"text": HOSTILE, f"a{HOSTILE}": "x"}, target=HOSTILE) for item in items)


def a_test(folder: Path, items: tuple[Outcome, ...] | None = None) -> Path:
    return saved(folder, a_result(test=replace(BETTER, outcomes=items or outcomes())))


class Person:
    """Someone at the pages of a run."""

    def __init__(self, folder: Path, name: str = "Ada", run: str = "a") -> None:
        self.browser, self.name, self.run = client(folder), name, ids(folder)[run]

    def page(self, kind: str) -> Any:
        return self.browser.get(f"/runs/{self.run}/labels/{kind}", params={"person": self.name})

    def do(self, kind: str, action: str, at: str | None = None) -> Any:
        """Press a button of the current page, or of one that was current."""
        text = self.page(kind).text
        number = at or (re.findall(r'name="at" value="(\d+)"', text) or [""])[0]
        fields = {"person": self.name, "at": number, "do": action}
        return self.browser.post(f"/runs/{self.run}/labels/{kind}", data=fields, headers={"origin": INSIDE})

    def label(self, kind: str, most: int = 99) -> None:
        """Score replies by what they say, or compare them."""
        for _ in range(most):
            replies = re.findall(r'reply</h2>\s*<pre tabindex="0">(.*?)</pre>', self.page(kind).text, re.DOTALL)
            if not replies:
                return
            good = ["right" in reply for reply in replies]
            self.do(kind, ("1" if good[0] else "0.25") if kind == "scores" else ("left" if good[0] else "right"))


def swapped(items: tuple[Outcome, ...]) -> tuple[Outcome, ...]:
    return tuple(replace(item, seed=item.chosen, chosen=item.seed) for item in items)


# ---------------------------------------------------------------- blind


@pytest.mark.parametrize("kind", KINDS)
def test_pages_and_files_are_the_same_whichever_prompt_wrote_which_reply(tmp_path: Path, kind: str) -> None:
    ada = [
        Person(a_test(tmp_path / side / "a", items).parent)
        for side, items in (("one", outcomes(5)), ("other", swapped(outcomes(5))))
    ]
    for step in range(8):
        one, other = (re.sub(r"\?v=\w+", "", person.page(kind).text) for person in ada)
        assert one == other
        assert not re.search(r"\b(seed|chosen|reward|reason)\b", one)
        for person in ada:
            person.do(kind, (*VALUES[kind], "skip")[step % 4])

    files = [next((tmp_path / side / "a" / "labels").iterdir()).read_bytes() for side in ("one", "other")]
    assert files[0] == files[1]
    assert "All" in ada[0].page(kind).text


def test_sides_and_order_are_drawn_for_each_person() -> None:
    items = [[{"id": f"t{n}", "prompt": code} for code in ("aa", "bb")] for n in range(200)]
    first, second = (questions("comparisons", items, seed=1, person=person) for person in ("ada", "bob"))
    lefts = np.array([question.rows[0]["prompt"] == "aa" for question in first])
    others = np.array([question.rows[0]["prompt"] == "aa" for question in second])

    assert 70 < lefts.sum() < 130
    assert 70 < (lefts == others).sum() < 130
    assert [question.rows[0]["id"] for question in first] == [f"t{n}" for n in range(200)]


def test_a_labelling_page_links_to_no_page_that_tells(tmp_path: Path) -> None:
    ada = Person(a_test(tmp_path / "a").parent)

    links = [each for each in Parts(ada.page("scores").text).addresses if each.startswith("/runs")]
    assert links == [f"/runs/{ada.run}/labels"]


# ---------------------------------------------------------------- saved at once


def test_scores_are_a_sheet_that_the_commands_read(tmp_path: Path) -> None:
    ada = Person(a_test(tmp_path / "a").parent)
    ada.label("scores", 3)
    sheet = tmp_path / "a" / "labels" / "scores-ada.csv"
    assert [row.values["human"] for row in read_rows(sheet)] == [
        "1" if "right" in row.values["reply"] else "0.25" for row in read_rows(sheet)
    ]
    assert len(read_rows(sheet)) == 3
    ada.label("scores")
    assert len(read_rows(sheet)) == 2 * ITEMS - 2
    assert list(read_rows(sheet)[0].values) == ["id", "prompt", "input: text", "target", "reply", "human"]

    claim = human_claim(tmp_path / "a", sheet)
    better = {o.id: 0.75 * ("right" in o.chosen.text) - 0.75 * ("right" in o.seed.text) for o in outcomes()}
    assert claim.difference.items == ITEMS
    assert claim.difference.human.estimate == pytest.approx(np.mean(list(better.values())))
    assert ada.do("scores", "finish").status_code == 303
    page = ada.browser.get(ada.page("scores").headers["location"]).text
    assert claim.headline in page
    assert "promptopt judge-check" in page
    assert claim.headline in claimed(tmp_path, page)


def claimed(folder: Path, page: str) -> str:
    """What the page's command prints."""
    command = re.search(r"promptopt (claim .*?)</pre>", page)
    assert command
    done = promptopt(folder, *shlex.split(html.unescape(command[1])))
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_comparisons_are_lines_of_json(tmp_path: Path) -> None:
    ada = Person(a_test(tmp_path / "a").parent)
    ada.label("comparisons", 5)
    ada.do("comparisons", "same")
    ada.do("comparisons", "skip")
    lines = (tmp_path / "a" / "labels" / "comparisons-ada.jsonl").read_text(encoding="utf-8").splitlines()
    values = [json.loads(line) for line in lines]

    assert [value["better"] for value in values[5:]] == ["same", None]
    assert all(value["better"] == ("left" if "right" in value["left"]["reply"] else "right") for value in values[:5])
    assert list(values[0]) == ["id", "input: text", "target", "left", "right", "better"]


def test_comparisons_claim_by_the_same_function(tmp_path: Path) -> None:
    ada = Person(a_test(tmp_path / "a").parent)
    ada.label("comparisons")
    ada.do("comparisons", "finish")
    page = ada.browser.get(ada.page("comparisons").headers["location"]).text

    by_prompt = [
        {"id": o.id, "prompt": side, "human": 0.5 if o.seed.text == o.chosen.text else float("right" in answer.text)}
        for o in outcomes()
        for side, answer in (("seed", o.seed), ("chosen", o.chosen))
        if side == "seed" or o.seed.text != o.chosen.text
    ]
    expected = [row if row["human"] != 0.5 else row | {"prompt": code(str(row["id"]), "equal")} for row in by_prompt]
    claim = human_claim(tmp_path / "a", expected)
    assert claim.headline in page
    assert claim.headline in claimed(tmp_path, page)


def code(item: str, reply: str) -> str:
    return hashlib.sha256(f"{item}\0{reply}".encode()).hexdigest()[:8]


def test_equal_replies_count_only_as_far_as_comparisons_went() -> None:
    items = [[{"id": str(n), "prompt": c} for c in ("aa", "bb")[: 1 + (n % 2)]] for n in range(6)]  # 0, 2, 4 are equal
    asked = questions("comparisons", items, seed=1, person="ada")
    rows = comparison_scores(items, [Label(asked[0], "same"), Label(asked[1], "left"), Label(asked[2], "")])

    assert sorted({row["id"] for row in rows}) == ["0", "1", "2", "3"]
    assert {row["human"] for row in rows if row["id"] == "1"} == {0.5}
    assert sorted(row["human"] for row in rows if row["id"] == "3") == [0.0, 1.0]


@pytest.mark.parametrize("kind", KINDS)
def test_undo_skip_and_skipped_again(tmp_path: Path, kind: str) -> None:
    ada = Person(a_test(tmp_path / "a").parent)
    value = VALUES[kind][0]
    pages = [ada.page(kind).text]
    for action in (value, "skip"):
        ada.do(kind, action)
        pages.append(ada.page(kind).text)
    assert "1 skipped" in pages[2]
    ada.do(kind, "undo")
    assert ada.page(kind).text == pages[1]
    ada.do(kind, "undo")
    assert ada.page(kind).text == pages[0]
    assert not list((tmp_path / "a" / "labels").iterdir())
    ada.do(kind, "undo")
    ada.do(kind, "skip")
    ada.do(kind, value)
    ada.do(kind, "again")
    first = re.search(r"item \d+", pages[0])
    assert first
    assert first[0] in ada.page(kind).text


def test_a_page_that_is_no_longer_current_labels_nothing(tmp_path: Path) -> None:
    ada = Person(a_test(tmp_path / "a").parent)
    ada.do("scores", "1")
    ada.do("scores", "0", at="0")

    assert [row.values["human"] for row in read_rows(tmp_path / "a" / "labels" / "scores-ada.csv")] == ["1"]


# ---------------------------------------------------------------- finished


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_said_before_the_end_and_nothing_changes_after_it(tmp_path: Path, kind: str) -> None:
    ada = Person(a_test(tmp_path / "a").parent)
    results = f"/runs/{ada.run}/labels/{kind}/results?person=ada"
    assert ada.browser.get(results).status_code == 409
    assert ada.do(kind, "finish").status_code == 409  # nothing is there to finish
    ada.do(kind, VALUES[kind][0])
    assert ada.browser.get(results).status_code == 409
    ada.do(kind, "finish")
    assert ada.browser.get(results).status_code == 200
    for action in (VALUES[kind][0], "undo", "finish"):
        assert ada.do(kind, action).status_code == 409
    assert "Finished" in ada.browser.get(f"/runs/{ada.run}/labels").text


# ---------------------------------------------------------------- agreement


def test_agreement_of_two_people_is_that_of_the_statistics(tmp_path: Path) -> None:
    run = a_test(tmp_path / "a")
    items, tables = sheet_items(*read_test(run), run), []
    for number, name in enumerate(("ada", "bob")):
        asked = questions("scores", items, seed=7, person=name)
        labels = [Label(q, VALUES["scores"][(step + number * (step % 2)) % 5]) for step, q in enumerate(asked[:14])]
        LabelFile(run=run, kind="scores", person=name).write(labels)
        tables.append({label.question.key: float(label.value) for label in labels})
    page = client(tmp_path).get(f"/runs/{ids(tmp_path)['a']}/labels").text
    a, b = (np.array([table[key] for key in sorted(tables[0].keys() & tables[1].keys())]) for table in tables)

    assert 8 <= a.size <= 14
    for interval in (cohen_kappa(a, b), rank_correlation(a, b)):
        assert f"{interval.estimate:.2f}, 95 % interval {interval.low:.2f} to {interval.high:.2f}" in page


def test_two_people_who_prefer_the_same_replies_agree_wherever_they_see_them() -> None:
    items = [[{"id": str(n), "prompt": c} for c in ("aa", "bb")] for n in range(20)]
    liked = ["aa" if n % 3 else "bb" for n in range(20)]

    def labels(person: str) -> list[Label]:
        asked = questions("comparisons", items, seed=1, person=person)
        return [
            Label(q, "left" if q.rows[0]["prompt"] == code else "right") for q, code in zip(asked, liked, strict=True)
        ]

    (each,) = agreements("comparisons", {"ada": labels("ada"), "bob": labels("bob")})
    assert (each.questions, each.kappa.estimate) == (20, 1.0)
    assert each.kappa.low > 0


# ---------------------------------------------------------------- who may, and hostile texts


def test_every_route_needs_the_token_and_labels_come_from_own_pages(tmp_path: Path) -> None:
    ada = Person(a_test(tmp_path / "a").parent)
    stranger = client(tmp_path, entered=False)
    for end in ("", "/scores?person=ada", "/comparisons?person=ada", "/scores/results?person=ada"):
        assert stranger.get(f"/runs/{ada.run}/labels{end}").status_code == 403
        assert (
            "default-src 'none'" in ada.browser.get(f"/runs/{ada.run}/labels{end}").headers["content-security-policy"]
        )
    address, fields = f"/runs/{ada.run}/labels/scores", {"person": "ada", "at": "0", "do": "1"}
    assert stranger.post(address, data=fields, headers={"origin": INSIDE}).status_code == 403
    for origin in ("null", "http://evil.example", "http://127.0.0.1:3000"):
        assert ada.browser.post(address, data=fields, headers={"origin": origin}).status_code == 403
    assert ada.browser.get(f"{address}?person=ada&at=0&do=1").status_code == 200
    assert not (tmp_path / "a" / "labels").exists()


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Ada", "ada"),
        ("  ada ", "ada"),
        ("李雷", "李雷"),
        ("Ada Lovelace", r"ada-lovelace-\w{6}"),
        ("../../etc/passwd", r"etc-passwd-\w{6}"),
        ("..", r"person-\w{6}"),
        ("C:\\x\0y", r"c-x-y-\w{6}"),
        ("a" * 500, r"a{33}-\w{6}"),
        ("<script>alert(1)</script>", r"script-alert-1-script-\w{6}"),
    ],
)
def test_names_become_parts_of_file_names(name: str, key: str) -> None:
    assert re.fullmatch(key, person_key(name))
    assert person_key(person_key(name)) == person_key(name)


def test_a_name_is_needed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="enter yours"):
        person_key(" ")
    ada = Person(a_test(tmp_path / "a").parent, "")
    assert ada.page("scores").status_code == 422


def test_names_that_are_paths_stay_in_the_folder(tmp_path: Path) -> None:
    ada = Person(a_test(tmp_path / "runs" / "a").parent, "../../../up/scores-x")
    before = set(tmp_path.rglob("*"))
    assert ada.do("scores", "1").status_code == 303

    (folder, file) = sorted(set(tmp_path.rglob("*")) - before)
    assert folder == tmp_path / "runs" / "a" / "labels"
    assert file.parent == folder


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_replies_stay_text_and_come_back_from_the_file(tmp_path: Path, kind: str) -> None:
    ada = Person(a_test(tmp_path / "a", hostile_items()).parent, HOSTILE)
    for _ in range(10):
        parts = Parts(ada.page(kind).text)
        assert parts.inline == []
        assert parts.tags.count("script") == 1
        ada.do(kind, VALUES[kind][0])
    ada.do(kind, "finish")
    for address in (f"/runs/{ada.run}/labels", ada.page(kind).headers["location"]):
        answer = ada.browser.get(address)
        assert answer.status_code == 200
        assert Parts(answer.text).inline == []
    assert len(read_outcomes(tmp_path / "a" / "test.jsonl")) == 3


def test_what_is_no_label_no_kind_or_no_run_is_refused(tmp_path: Path) -> None:
    ada = Person(a_test(tmp_path / "a").parent)
    assert ada.do("scores", "left").status_code == 422
    assert ada.do("scores", "7").status_code == 422
    assert ada.page("prices").status_code == 404
    assert ada.browser.get("/runs/none/labels").status_code == 404
    assert ada.do("scores", "1", at="x" * 2_000_000).status_code == 413


def test_runs_without_two_prompts_or_without_a_test_say_so(tmp_path: Path) -> None:
    saved(tmp_path / "a", a_result(prompt=a_result().seed_prompt, test=replace(BETTER, outcomes=outcomes())))
    saved(tmp_path / "b", a_result(test=None))
    for run, reason in (("a", "kept its seed prompt"), ("b", "no recorded test")):
        answer = Person(tmp_path, run=run).page("scores")
        assert answer.status_code == 422
        assert reason in answer.text


def test_labels_of_other_replies_are_not_overwritten(tmp_path: Path) -> None:
    ada = Person(a_test(tmp_path / "a").parent)
    ada.do("scores", "1")
    ada.do("comparisons", "left")
    a_test(tmp_path / "a", tuple(an_item(n, f"new {n}", f"newer {n}") for n in range(ITEMS)))
    for kind in KINDS:
        answer = ada.do(kind, VALUES[kind][0])
        assert answer.status_code == 422
        assert "move it away" in answer.text
    broken = tmp_path / "a" / "labels" / "comparisons-ada.jsonl"
    broken.write_text('{"id": 1}\n', encoding="utf-8")
    assert "line 1" in ada.page("comparisons").text


def test_links_are_not_followed(tmp_path: Path) -> None:
    ada = Person(a_test(tmp_path / "runs" / "a").parent)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "runs" / "a" / "labels").symlink_to(tmp_path / "elsewhere")

    assert ada.do("scores", "1").status_code == 422
    assert ada.browser.get(f"/runs/{ada.run}/labels").status_code == 422
    assert not list((tmp_path / "elsewhere").iterdir())
