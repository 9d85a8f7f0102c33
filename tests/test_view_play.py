"""The playground over HTTP: a prompt is priced, tried beside the chosen one, and kept, on the run's own task."""

from __future__ import annotations

import json
import re
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browser import browsing, chromium
from results import a_result
from shell import promptopt
from sweep_parts import write_task

from promptopt import Memo, Prompt
from promptopt.cli.model_options import TaskModelOptions
from promptopt.cli.recorded import read_recorded, record_options
from promptopt.cli.search_options import SearchOptions
from promptopt.cli.task_options import TaskOptions
from promptopt.evaluation.caller import Caller
from promptopt.evaluation.ledger import Ledger
from promptopt.evaluation.scorer import Scorer
from promptopt.prompt import Prompts
from promptopt.results.result import Result
from promptopt.results.saved_prompt import read_prompt

pytest.importorskip("vl_convert", reason="the extra 'view' is not installed")
pytest.importorskip("starlette", reason="the extra 'view' is not installed")

from starlette.testclient import TestClient
from test_report import HOSTILE
from test_view import INSIDE, Parts, ids, saved
from test_view_browser import FITS, tab_to
from viewing import TOKEN, served

from promptopt.view.app import build_app

FROM_HERE = {"origin": INSIDE}
FAKE = """
import time
from pathlib import Path
from promptopt import FakeModel

def answer(request):
    while Path("hold").exists():
        Path("asked").touch()
        time.sleep(0.01)
    text = str(request.context)
    return ("yes", "no")[sum(map(ord, text)) % 2]

model = FakeModel(answer, "m")
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a task, a model and a run of these from the command line."""
    folder = tmp_path_factory.mktemp("made")
    write_task(folder)
    (folder / "fake.py").write_text(FAKE, encoding="utf-8")
    words = (
        "toy.toml",
        "--model",
        "python:fake:model",
        "--strategy",
        "tapruning",
        "--budget",
        "400 calls",
        "--no-study",
    )
    done = promptopt(folder, "optimize", *words, "--run-dir", "runs/a", "--memo", folder / "other")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def folder(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, as the folder of this process."""
    monkeypatch.chdir(made)
    monkeypatch.syspath_prepend(str(made))
    monkeypatch.delitem(sys.modules, "fake", raising=False)
    return made


def client() -> Any:
    app = build_app(Path("runs"), token=TOKEN, load_run=read_recorded)
    browser = TestClient(app, base_url=INSIDE, follow_redirects=False)
    browser.get(f"/?token={TOKEN}")
    return browser


def loaded(browser: Any) -> str:
    """Load the run's task; return the address of its playground."""
    address = f"/runs/{ids(Path('runs'))['a']}/play"
    assert browser.post(f"{address}/load", headers=FROM_HERE).status_code == 303
    return address


def priced(browser: Any, address: str, **changes: Any) -> str:
    """Send the form; return the address of the trial."""
    form = {"prompt": "Answer yes or no: {text}", "item": ["validation-0", "train-1", "validation-2"], "budget": "20"}
    answer = browser.post(address, data=form | changes, headers=FROM_HERE)
    assert answer.status_code == 303, answer.text
    return str(answer.headers["location"])


def ended(browser: Any, trial: str) -> str:
    while "data-waits" in (page := browser.get(trial)).text:
        time.sleep(0.05)
    return str(page.text)


def test_a_prompt_is_tried_beside_the_chosen_one_and_kept(folder: Path) -> None:
    browser = client()
    address = f"/runs/{ids(Path('runs'))['a']}/play"
    assert "Load the task" in browser.get(address).text
    loaded(browser)
    result, task = Result.load(Path("runs/a")), read_recorded(Path("runs/a")).job.task
    form = browser.get(f"{address}?c=0").text
    assert result.history[0].prompt.text in "".join(Parts(form).texts)
    offered = set(re.findall(r'name="item" value="([\w-]+)"', form))
    assert offered == {f"{split}-{i}" for split in ("train", "validation") for i in range(24)}
    assert "Test examples are not offered" in form

    trial = priced(browser, f"{address}?c=0")
    assert "3 examples: 6 calls to make, 0 answered by the memo, about 0.0000 dollars" in browser.get(trial).text
    assert browser.post(f"{trial}/run", headers=FROM_HERE).status_code == 303
    text = ended(browser, trial)
    examples = (task.validation[0], task.train[1], task.validation[2])
    assert re.findall(r'<article class="item">\s*<h3>(\S+)', text) == [example.id for example in examples]
    job = read_recorded(Path("runs/a")).job
    with Memo() as memo:
        both = [Prompt("Answer yes or no: {text}"), result.prompt]
        rewards = Scorer(task, job.model, Caller(memo, Ledger())).score(both, examples).rewards[:, :, 0]
    assert re.findall(r'<p class="reason"><strong>([\d.]+)<', text) == [f"{value:.3f}" for value in rewards.T.ravel()]
    assert f'<dd id="difference">{(rewards[0] - rewards[1]).mean():+.3f}<small>' in text
    again = priced(browser, address)
    assert "0 calls to make, 6 answered by the memo" in browser.get(again).text

    kept = browser.post(f"{trial}/keep", data={"name": "mine"}, headers=FROM_HERE)
    assert kept.status_code == 303
    assert read_prompt(Path("runs/a/kept/mine.json")) == replace(
        result.history[0].prompt, text="Answer yes or no: {text}"
    )
    score, start = re.findall(r"promptopt (?:score|optimize) [^<]*", browser.get(trial).text)
    assert start == (
        "promptopt optimize toy.toml --model python:fake:model --strategy tapruning --budget &#39;400 calls&#39; --prompt-from "
        "runs/a/kept/mine.json"
    )
    done = promptopt(folder, *shlex.split(score)[1:], "--json")
    assert json.loads(done.stdout)[0]["prompt"] == "Answer yes or no: {text}"
    assert browser.post(f"{trial}/keep", data={"name": "mine"}, headers=FROM_HERE).status_code == 422


def test_nothing_passes_the_budget_and_one_goes_on_at_a_time(folder: Path) -> None:
    browser = client()
    address = loaded(browser)
    dear = priced(browser, address, prompt="another {text}", budget="5")
    assert "The budget does not cover this" in browser.get(dear).text
    refused = browser.post(f"{dear}/run", headers=FROM_HERE)
    assert (refused.status_code, "the budget is 5" in refused.text) == (422, True)
    (folder / "hold").touch()
    first, second = (priced(browser, address, prompt=f"{word} {{text}}") for word in ("one", "two"))
    for _ in range(2):
        assert browser.post(f"{first}/run", headers=FROM_HERE).status_code == 303
    assert "Trying" in browser.get(first).text
    assert "another prompt is being tried" in browser.post(f"{second}/run", headers=FROM_HERE).text
    (folder / "hold").unlink()
    assert "The tried prompt beside" in ended(browser, first)


def test_a_trial_is_stopped_and_goes_on_with_the_calls_that_are_left(folder: Path) -> None:
    browser = client()
    trial = priced(browser, loaded(browser), prompt="stopped {text}")
    (folder / "hold").touch()
    (folder / "asked").unlink(missing_ok=True)
    browser.post(f"{trial}/run", headers=FROM_HERE)
    while not (folder / "asked").exists():
        time.sleep(0.01)
    answer = browser.post(f"{trial}/stop", headers=FROM_HERE)
    stopping = browser.get(trial).text
    (folder / "hold").unlink()
    text = ended(browser, trial)
    assert (answer.status_code, answer.headers["location"]) == (303, trial)
    assert "Stopping after the calls in flight" in stopping
    (left,) = re.findall(r"(\d) calls to make", text)

    assert "<h1>Stopped</h1>" in text
    assert int(left) < 6
    browser.post(f"{trial}/stop", headers=FROM_HERE)  # nothing goes on: it changes nothing
    browser.post(f"{trial}/run", headers=FROM_HERE)
    assert "The tried prompt beside" in ended(browser, trial)


def test_the_prompts_of_a_program_are_not_tried(tmp_path: Path) -> None:
    prompts = Prompts({"query": Prompt("a {text}"), "answer": Prompt("b {text}")})
    history = (replace(a_result().history[0], prompt=prompts),)
    saved(tmp_path / "a", a_result(prompt=prompts, seed_prompt=prompts, history=history, test=None))
    browser = TestClient(build_app(tmp_path, token=TOKEN), base_url=INSIDE)
    browser.get(f"/?token={TOKEN}")
    text = browser.get(f"/runs/{ids(tmp_path)['a']}/play").text

    assert "belong to a program" in text
    assert "Load the task" not in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt": " "}, "the prompt is empty"),
        ({"prompt": "{nothing}"}, "nothing"),
        ({"item": ["test-0", "validation-999"]}, "no example is ticked"),
        ({"budget": "many"}, "give a number of calls"),
        ({"budget": "0"}, "give a number of calls"),
        ({"budget": "99999999999999999999"}, "give a number of calls"),
    ],
)
def test_faults_are_sentences(folder: Path, changes: dict[str, Any], said: str) -> None:
    browser = client()
    form = {"prompt": "x", "item": ["validation-0"], "budget": "20"} | changes
    page = browser.post(loaded(browser), data=form, headers=FROM_HERE)

    assert (page.status_code, said in page.text) == (422, True)


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 61, "kept\x01"])
def test_a_kept_prompt_stays_in_its_folder(folder: Path, name: str) -> None:
    browser = client()
    trial = priced(browser, loaded(browser))
    before = sorted(folder.rglob("*.json"))

    assert browser.post(f"{trial}/keep", data={"name": name}, headers=FROM_HERE).status_code == 422
    assert sorted(folder.rglob("*.json")) == before


def test_a_task_that_cannot_be_loaded_again_is_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    browser, address = client(), f"/runs/{ids(Path('runs'))['a']}/play"

    def said() -> str:
        page = browser.post(f"{address}/load", headers=FROM_HERE)
        assert page.status_code == 422
        return str(page.text)

    assert "not loaded" in browser.post(address, data={"prompt": "x"}, headers=FROM_HERE).text
    options = folder / "runs" / "a" / "options.json"
    text = options.read_text(encoding="utf-8")
    assert str(folder) not in text
    try:
        options.write_text(text.replace("400 calls", "401 calls"), encoding="utf-8")
        assert "have changed since this run" in said()
        options.write_text("[]", encoding="utf-8")
        assert "cannot be read" in said()
        options.unlink()
        assert "does not record how its task is loaded: it was started from Python" in said()
    finally:
        options.write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="start promptopt view there"):
        read_recorded(folder / "runs" / "a")


def test_the_words_of_a_recorded_run_are_those_that_were_typed(folder: Path, tmp_path: Path) -> None:
    (folder / "rows.csv").write_text(
        "text,mood\n" + "".join(f"t{i},{('a', 'b')[i % 2]}\n" for i in range(40)), encoding="utf-8"
    )
    task = TaskOptions(
        data="rows.csv",
        input=["text"],
        label="mood",
        labels=["a,b"],
        no_logprobs=True,
        seed_prompt="Say it.",
        read_as="text",
    )
    model = TaskModelOptions(model="python:fake:model")
    search = SearchOptions(strategy="random", set_=["prompts=4"], seed=3)
    record_options(tmp_path, task, model, search, budget="90 calls", objectives=None, prefer=None)
    recorded = read_recorded(tmp_path)

    assert recorded.task_words == (
        "--data", "rows.csv", "--input", "text", "--label", "mood", "--labels", "a,b", "--no-logprobs", "--read", "text", "--model", "python:fake:model"
    )  # fmt: skip
    assert recorded.search_words == (
        "--strategy",
        "random",
        "--set",
        "prompts=4",
        "--seed",
        "3",
        "--budget",
        "90 calls",
    )
    assert recorded.job.task.seed_prompt.text == "Say it."


@pytest.mark.parametrize(
    ("settings", "recorded"),
    [
        ({"model_option": ["header:X-Key=secret"]}, False),
        ({"base_url": "https://user:secret@host/v1"}, False),
        ({"model_option": ["header:X-Key=env:X_KEY", "seed=1"]}, True),
    ],
)
def test_no_secret_is_recorded(tmp_path: Path, settings: dict[str, Any], *, recorded: bool) -> None:
    record_options(tmp_path, TaskOptions(), TaskModelOptions(**settings), SearchOptions())

    assert [file.name for file in tmp_path.iterdir()] == ["options.json"] * recorded
    assert all("secret" not in file.read_text(encoding="utf-8") for file in tmp_path.iterdir())


def test_texts_stay_text_and_only_own_pages_act(folder: Path) -> None:
    browser = client()
    address = loaded(browser)
    evil = HOSTILE.replace("{", "(").replace("}", ")")
    trial = priced(browser, address, prompt=evil)
    assert browser.post(f"{trial}/run", headers=FROM_HERE).status_code == 303
    for page in (
        ended(browser, trial),
        browser.get(address).text,
        browser.post(f"{trial}/keep", data={"name": evil}, headers=FROM_HERE).text,
    ):
        parts = Parts(page)
        assert not parts.inline
        assert "img" not in parts.tags
        assert all(link.startswith(("/", "#", "data:,")) for link in parts.addresses), parts.addresses
    assert evil in "".join(Parts(browser.get(trial).text).texts)

    for path in (address, f"{address}/load", f"{trial}/run", f"{trial}/stop", f"{trial}/keep"):
        for origin in ({}, {"origin": "http://evil.example"}):
            assert browser.post(path, data={"name": "x"}, headers=origin).status_code == 403
        browser.cookies.clear()
        assert browser.post(path, data={"name": "x"}, headers=FROM_HERE).status_code == 403
        browser.get(f"/?token={TOKEN}")
    assert browser.get(f"{trial}/run").status_code == 405
    assert browser.get(f"{address}/none").status_code == 404


@pytest.mark.wide
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (420, True)])
def test_a_prompt_is_tried_by_keyboard_alone(folder: Path, tmp_path: Path, width: int, *, dark: bool) -> None:
    chromium()
    run = ids(Path("runs"))["a"]
    with served(Path("runs"), load_run=read_recorded) as address, browsing(tmp_path / "profile") as page:
        page.look(width, dark=dark)
        page.open(f"{address}/?token={TOKEN}")
        page.open(f"{address}/runs/{run}/play", ready=False)
        tab_to(page, "main button")
        page.press("Enter")
        page.wait("!!document.querySelector('textarea[name=prompt]')")
        assert page.run(FITS)
        tab_to(page, "textarea[name=prompt]")
        page.type(f"Surely, at {width} pixels: ")
        tab_to(page, "form.fields > button")
        page.press("Enter")
        page.wait("!!document.querySelector('form[action$=run] button') && document.body.dataset.ready === 'yes'")
        assert page.run(FITS)
        tab_to(page, "form[action$=run] button")
        page.press("Enter")
        page.wait("!!document.getElementById('difference')", 120)
        assert page.run(FITS)
        assert page.run("document.querySelectorAll('article.item').length") == 8
        tab_to(page, "input[name=name]")
        page.type(f"kept-{width}")
        page.press("Enter")
        page.wait("document.querySelectorAll('.command').length === 2")
        assert page.complaints == []
    assert (folder / "runs" / "a" / "kept" / f"kept-{width}.json").is_file()
