"""A run started from a form over HTTP: what is offered, what the check says, and that one process starts, with these words."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from browser import browsing, chromium
from servers.loopback import Loopback
from shell import promptopt

from promptopt.evaluation.calls import Stop
from promptopt.evaluation.ledger import Budget
from promptopt.results.result import Result
from promptopt.tracking.event_file import EventFile

pytest.importorskip("vl_convert", reason="the extra 'view' is not installed")
pytest.importorskip("starlette", reason="the extra 'view' is not installed")

from test_report import HOSTILE
from test_view import INSIDE, STARTED, Parts, client
from test_view_browser import FITS, tab_to
from viewing import TOKEN, served

from promptopt.view.data_files import columns, data_files, likely_input, likely_label
from promptopt.view.run_form import RunForm, _leads_out

FROM_HERE = {"origin": INSIDE}
KEY = "sk-a-secret-key"
ROWS = "".join(f"{i},this is item{i} of a list,{'yes' if i % 2 else 'no'}\n" for i in range(30))
FORM = {
    "data": "items.csv",
    "input": ["text"],
    "label": "mood",
    "labels": "no\r\nyes",
    "model": "openai:m",
    "strategy": "tapruning",
    "budget": "150 calls",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a data file, in which the viewer is started."""
    (tmp_path / "items.csv").write_text(f"id,text,mood\n{ROWS}", encoding="utf-8")
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    return tmp_path


def right(text: str) -> str:
    """Answer as the data does."""
    return "yes" if int(re.findall(r"item(\d+)", text)[-1]) % 2 else "no"


def checked(browser: Any, **changes: Any) -> str:
    """Send the form; return the address of the check."""
    answer = browser.post("/start", data=FORM | changes, headers=FROM_HERE)
    assert answer.status_code == 303
    return str(answer.headers["location"])


def stub(folder: Path, monkeypatch: pytest.MonkeyPatch, *, waits: bool = False) -> None:
    """Start a script in place of Python: it notes its arguments, prints a text, may wait, and ends with exit code 2."""
    lines = [
        "#!/bin/sh",
        f'for word in "$@"; do printf "%s\\n\\0" "$word" >> {folder}/words; done; echo started >> {folder}/log',
        f"cat <<'END'\nerror: {HOSTILE}\nEND",
        *([f"while [ ! -e {folder}/go ]; do sleep 0.02; done"] if waits else []),
        "exit 2",
    ]
    script = folder / "python"
    script.write_text("\n".join(lines), encoding="utf-8")
    script.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(script))


def ended(browser: Any, address: str) -> Any:
    """Return the page of a start whose process has ended, or where it leads."""
    while (page := browser.get(address)).status_code == 200 and "<h1>Starting</h1>" in page.text:
        time.sleep(0.2)
    return page


# ---------------------------------------------------------------- what is offered


def test_only_data_files_of_the_folder_are_offered_and_read(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "secret.csv"
    outside.write_text("text,secret\na,hush\n", encoding="utf-8")
    (folder / "link.csv").symlink_to(outside)
    (folder / "linked").symlink_to(outside.parent)
    (folder / ".hidden.csv").write_text("a\n1\n", encoding="utf-8")
    (folder / "notes.md").write_text("no data", encoding="utf-8")
    (folder / "sub").mkdir()
    (folder / "sub" / "more.jsonl").write_text('{"a": "b"}\n', encoding="utf-8")
    (folder / "runs" / "one").mkdir()
    for name in ("result.json", "candidates.csv"):
        (folder / "runs" / "one" / name).write_text("{}", encoding="utf-8")
    browser = client(Path("runs"))

    assert [file.name for file in data_files(folder)] == ["items.csv", "sub/more.jsonl"]
    assert re.findall(r'href="(/start\?data=[^"]*)"', browser.get("/start").text) == [
        "/start?data=items.csv", "/start?data=sub/more.jsonl"
    ]  # fmt: skip
    for name in (
        "link.csv",
        "linked/secret.csv",
        ".hidden.csv",
        f"../{outside.parent.name}/secret.csv",
        str(outside),
        "notes.md",
    ):
        page = browser.get("/start", params={"data": name})
        assert page.status_code == 422
        assert "there is no data file" in page.text
        assert "there is no data file" in browser.get(checked(browser, data=name)).text


def test_a_folder_without_data_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert "Put a .csv" in client(tmp_path).get("/start").text
    assert 'href="/start"' in client(tmp_path).get("/").text


def test_columns_and_labels_are_read_from_the_file(folder: Path) -> None:
    found = columns(folder / "items.csv")
    label, field = likely_label(found), likely_input(found)
    text = client(Path("runs")).get("/start?data=items.csv").text

    assert [(column.name, column.distinct, column.labels) for column in found] == [
        ("id", 30, ()), ("text", 30, ()), ("mood", 2, ("no", "yes"))
    ]  # fmt: skip
    assert (label and label.name, field and field.name) == ("mood", "text")
    assert re.findall(r'name="input" value="(\w+)" checked', text) == ["text"]
    assert re.findall(r'value="(\w+)" data-labels="no\nyes" selected', text) == ["mood"]
    assert '<textarea name="labels" id="labels" rows="4" spellcheck="false">\nno\nyes</textarea>' in text


def test_a_column_named_as_answers_is_the_label(folder: Path) -> None:
    (folder / "free.csv").write_text(
        "answer,question\n" + "".join(f"a{i},which {i}\n" for i in range(9)), encoding="utf-8"
    )
    found = columns(folder / "free.csv")

    assert (likely_label(found), likely_input(found)) == (found[0], found[1])
    assert found[0].labels == ()


# ---------------------------------------------------------------- what the check says


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"label": "", "labels": (), "seed_prompt": "Say it\nagain: {text}", "strategy": "auto", "budget": ""},
        {
            "inputs": ("text", "id"),
            "writer": "openai:w",
            "strategy": "hillclimb",
            "seed_prompt": "--budget",
            "budget": "60 calls",
        },
        {"data": "odd.csv", "inputs": ("--model",), "label": "a=b", "labels": ("x=1", "y,2"), "drop_unusable": True},
        {"label": "moods", "model": "openai", "budget": "many"},
        {"labels": ("no", "perhaps"), "model": "none:m"},
    ],
)
def test_the_check_is_that_of_doctor_with_the_same_words(folder: Path, changes: dict[str, Any]) -> None:
    quoted = '"y,2"'
    odd = "".join(f"t{i},{'x=1' if i % 2 else quoted}\n" for i in range(40))
    (folder / "odd.csv").write_text(f"--model,a=b\n{odd},\n", encoding="utf-8")
    plain = {"data": "items.csv", "inputs": ("text",), "label": "mood", "labels": ("no", "yes"), "model": "openai:m"}
    form = RunForm(folder=folder, **{**plain, "strategy": "tapruning", **changes})
    doctor = json.loads(promptopt(folder, "doctor", *form.words, "--json").stdout)
    ours = form.checkup.to_json()

    assert ours["ready"] == doctor["ready"]
    assert ours["task"] == doctor["task"]
    assert ours["estimate"] == doctor["estimate"]
    states = [(finding["topic"], finding["state"]) for finding in doctor["findings"]]
    assert [(finding["topic"], finding["state"]) for finding in ours["findings"]] == states


def test_the_check_comes_with_cost_power_and_command(folder: Path) -> None:
    browser = client(Path("runs"))
    address = checked(browser, prompt="Say 'yes' or $HOME:\r\n{text}")
    text = "".join(Parts(browser.get(address).text).texts)

    assert "This run can start" in text
    assert "about 1" in text
    assert "smallest improvement that shows" in text
    assert "search" in text
    command = (
        "promptopt optimize --data items.csv --input text --label mood --labels no,yes --seed-prompt 'Say '\"'\"'yes'\"'\"' or "
        "$HOME:\n{text}' --model openai:m --strategy tapruning --budget '150 calls' --run-dir runs/items-"
    )
    assert command in text
    again = browser.get(f"/start?from={address.rpartition('/')[2]}").text
    assert "Say &#39;yes&#39; or $HOME:\n{text}</textarea>" in again
    assert "<option selected>tapruning</option>" in again
    assert KEY not in text + again


def test_a_form_with_faults_starts_nothing_and_still_has_its_command(folder: Path) -> None:
    browser = client(Path("runs"))
    address = checked(browser, input=[], labels="one", model="python:os:path")
    text = "".join(Parts(browser.get(address).text).texts)

    assert "This run cannot start yet" in text
    assert "tick the columns" in text
    assert "your own code, which a page does not import" in text
    assert "promptopt optimize --data items.csv" in text
    assert "Start this run" not in text
    assert browser.post(f"{address}/run", headers=FROM_HERE).status_code == 409


# ---------------------------------------------------------------- what is started


@pytest.mark.parametrize("kind", ["local", "local-clip"])
@pytest.mark.parametrize("name", ["{outside}", "../outside", "a/../../outside", "~/outside", "link", "/nothing/there"])
@pytest.mark.parametrize("role", ["model", "writer"])
def test_a_form_names_no_model_file_outside_its_folder(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, kind: str, name: str, role: str
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (folder / "link").symlink_to(outside)
    form = RunForm(folder=folder, data="items.csv", **{role: f"{kind}:{name.format(outside=outside)}"})  # type: ignore[arg-type]

    with pytest.raises(ValueError, match="names a file or folder outside"):
        getattr(form, f"_{role}")


def test_a_form_names_known_models_those_of_the_hub_and_paths_below_its_folder(folder: Path) -> None:
    (folder / "models").mkdir()

    for name in ("smollm2", "owner/name", "models", "models/none.gguf"):
        assert not _leads_out(name, folder)


def test_one_process_is_started_for_a_form_with_its_words_and_no_shell(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub(folder, monkeypatch, waits=True)
    browser, owned = client(Path("runs")), folder / "owned"
    prompt = f"$(touch {owned}); touch {owned} `touch {owned}` \"'"
    address, same = checked(browser, prompt=prompt), checked(browser, prompt=prompt)
    for twice in (address, address, same):
        answer = browser.post(f"{twice}/run", headers=FROM_HERE)
        assert (answer.status_code, answer.headers["location"]) == (303, twice)
    assert "<h1>Starting</h1>" in browser.get(same).text
    (folder / "go").touch()
    page = ended(browser, address)

    assert (folder / "log").read_text(encoding="utf-8") == "started\n"
    words = (folder / "words").read_text(encoding="utf-8").removesuffix("\n\0").split("\n\0")
    (run_folder,) = (folder / "runs").iterdir()
    assert words == [
        "-m", "promptopt", "optimize", "--data", "items.csv", "--input", "text", "--label", "mood", "--labels", "no,yes",
        "--seed-prompt", prompt, "--model", "openai:m", "--strategy", "tapruning", "--budget", "150 calls",
        "--run-dir", f"runs/{run_folder.name}",
    ]  # fmt: skip
    assert not owned.exists()
    assert "The run did not start" in page.text
    assert "exit code 2" in page.text
    assert HOSTILE in "".join(Parts(page.text).texts)
    assert (run_folder / "output.txt").stat().st_mode & 0o777 == 0o600


def test_a_started_run_leads_to_its_page_as_soon_as_it_has_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(folder, monkeypatch, waits=True)
    browser = client(Path("runs"))
    address = checked(browser)
    browser.post(f"{address}/run", headers=FROM_HERE)
    (run_folder,) = (folder / "runs").iterdir()
    with EventFile(run_folder, Budget(calls=9), Stop()) as events:
        events(STARTED)
        run = browser.get(address).headers["location"]
        assert "End this run" in browser.get(run).text
        again = checked(browser)
        assert "in progress already" in browser.get(again).text
        assert browser.post(f"{again}/run", headers=FROM_HERE).headers["location"] == run
    (folder / "go").touch()
    ended(browser, address)

    assert (folder / "log").read_text(encoding="utf-8") == "started\n"
    assert "There is a run with these settings already" in browser.get(checked(browser)).text


# ---------------------------------------------------------------- what other people wrote, and who may ask


def test_texts_of_files_and_forms_stay_text(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(folder, monkeypatch)
    evil = '"><img src=x onerror=alert(1)>'
    labels = (f"'{evil}", "</textarea>")
    rows = "".join(f"'{evil}{i},{labels[i % 2]}\n" for i in range(30))
    (folder / f"{evil}.csv").write_text(f"'{evil},<b>label\n{rows}", encoding="utf-8")
    browser = client(Path("runs"))
    data = {"data": f"{evil}.csv", "input": [f"'{evil}"], "label": "<b>label", "labels": "\n".join(labels)}
    ready, faulty = checked(browser, **data), checked(browser, **dict.fromkeys(FORM, HOSTILE))
    assert browser.post(f"{ready}/run", headers=FROM_HERE).status_code == 303
    pages = [browser.get("/start"), browser.get("/start", params={"data": f"{evil}.csv"}), ended(browser, ready)]
    pages += [
        browser.get(address)
        for address in (faulty, f"/start?from={ready.rpartition('/')[2]}", f"/start?data={HOSTILE}")
    ]

    for page in pages:
        parts = Parts(page.text)
        assert not parts.inline
        assert not {"img", "b"} & set(parts.tags)
        assert all(address.startswith(("/", "#", "data:,")) for address in parts.addresses), parts.addresses
    assert "did not start" in pages[2].text
    assert HOSTILE in "".join(Parts(pages[3].text).texts)


def test_only_own_pages_start_runs(folder: Path) -> None:
    browser = client(Path("runs"))
    address = checked(browser)
    for path in ("/start", f"{address}/run"):
        for origin in ({}, {"origin": "http://evil.example"}, {"origin": "http://127.0.0.1:3000"}):
            assert browser.post(path, data=FORM, headers=origin).status_code == 403
        assert client(Path("runs"), entered=False).post(path, data=FORM, headers=FROM_HERE).status_code == 403

    assert browser.get(f"{address}/run").status_code == 405
    assert browser.get("/starts/none").status_code == 404
    assert browser.post("/starts/none/run", headers=FROM_HERE).status_code == 404
    assert not list((folder / "runs").iterdir())


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"prompt=" + b"x" * 1_000_001, 413, "shorten"),
        (b"prompt=%00", 422, "NUL"),
        (b"prompt=%ff", 422, "cannot be read"),
        (b"prompt=\xff", 422, "cannot be read"),
        (b"&".join([b"a=b"] * 3_000), 422, "cannot be read"),
    ],
)
def test_what_is_no_form_is_refused(folder: Path, body: bytes, status: int, said: str) -> None:
    page = client(Path("runs")).post("/start", content=body, headers=FROM_HERE)

    assert (page.status_code, said in page.text) == (status, True)


# ---------------------------------------------------------------- in a browser


@pytest.mark.wide
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (420, True)])
def test_a_run_is_started_by_keyboard_alone(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, width: int, *, dark: bool
) -> None:
    chromium()
    (folder / "items.csv").write_text(
        f"id,text,mood,other\n{ROWS.replace('yes', 'yes,a').replace('no', 'no,b')}", encoding="utf-8"
    )
    with (
        Loopback(right, waits=False) as server,
        served(Path("runs")) as address,
        browsing(tmp_path_factory.mktemp("profile")) as page,
    ):
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        page.look(width, dark=dark)
        page.open(f"{address}/?token={TOKEN}")
        for link, part in (("a[href='/start']", "a[href*='data=items.csv']"), ("a[href*='data=items.csv']", "#labels")):
            tab_to(page, link)
            page.press("Enter")
            page.wait(
                f"document.readyState === 'complete' && !!document.querySelector({json.dumps(part)})"
            )  # of the next page
        page.wait("document.body.dataset.ready === 'yes'")
        assert page.run(FITS)
        assert page.run("document.getElementById('labels').value") == "b\na"
        tab_to(page, "#label")
        page.press("ArrowUp")
        assert page.run("document.getElementById('labels').value") == "no\nyes"
        tab_to(page, "input[name=model]")
        page.type("openai:m")
        tab_to(page, "select[name=strategy]")
        page.run("document.activeElement.value = 'tapruning'")
        tab_to(page, "input[name=budget]")
        page.run("document.activeElement.select()")
        page.type("150 calls")
        tab_to(page, "form.fields button")
        page.press("Enter")
        page.wait("location.pathname.startsWith('/starts/') && document.body.dataset.ready === 'yes'", 120)
        assert page.run(FITS)
        copied = "(navigator.clipboard.writeText = async (text) => { window.copied = text; }, 0)"
        page.run(copied)
        tab_to(page, "[data-copy]")
        page.press("Enter")
        assert page.run("window.copied").startswith(
            "promptopt optimize --data items.csv --input text --label mood --labels no,yes"
        )
        assert page.run("document.querySelector('[data-copy] + [role=status]').textContent") == "copied"
        tab_to(page, "section.actions button")
        page.press("Enter")
        page.wait("location.pathname.startsWith('/runs/')", 300)
        page.wait("document.querySelector('#claim')", 300)
        assert page.complaints == []
        assert KEY not in page.run("document.documentElement.outerHTML")
        assert {seen.headers.get("authorization") for seen in server.requests} == {f"Bearer {KEY}"}
    (run_folder,) = (folder / "runs").iterdir()
    result = Result.load(run_folder)
    assert result.finished
    assert run_folder.name == f"items-{result.digest[:8]}"
    assert all(KEY.encode() not in file.read_bytes() for file in run_folder.iterdir())
