from __future__ import annotations

import json
import logging
import os
import re
import time
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from batch_child import KEY, MANY, keys_of, model_of, plain_model
from forked import Forked
from servers.batch_routes import Spoiled, of
from servers.loopback import Fault, Loopback

from promptopt import Example, FakeModel, Memo, Prompt, Task
from promptopt.errors import FinalModelError, InputError, StoppedError
from promptopt.evaluation.batch_journal import MIN_REQUESTS, BatchArrival, ask_in_batches
from promptopt.evaluation.caller import Caller
from promptopt.evaluation.ledger import Ledger
from promptopt.memo.memo import KeyMaker
from promptopt.models.base import BatchModel, LabelReader, Model, Request, without_batches
from promptopt.models.loading import batch_model
from promptopt.optimization.job import prepare
from promptopt.prompt import Message
from promptopt.replies import Failure, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

KINDS = ("openai", "anthropic")
PLAIN = ("/v1/chat/completions", "/v1/messages")
CREATE = {"openai": "/v1/batches", "anthropic": "/v1/messages/batches"}


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def ask(
    memo: Memo, model: BatchModel, requests: Sequence[Request] = MANY, **settings: Any
) -> dict[int, Response | Failure]:
    """Ask for what the memo lacks, and store each reply as it comes."""
    keys = keys_of(model, requests)
    stored = memo.get_many(keys)
    replies: dict[int, Response | Failure] = {
        number: Response.from_json(stored[key]) for number, key in enumerate(keys) if key in stored
    }
    missing = [number for number in range(len(keys)) if number not in replies]
    arrivals = ask_in_batches(
        memo, model, [keys[number] for number in missing], [requests[number] for number in missing], **settings
    )
    for place, reply in arrivals:
        number = missing[place]
        assert number not in replies
        if isinstance(reply, Response):
            memo.put(keys[number], reply.to_json())
        replies[number] = reply
    return replies


def as_plain(kind: str, server: Loopback, requests: Sequence[Request] = MANY) -> dict[int, Response | Failure]:
    return dict(plain_model(kind, server.url).generate(requests))


def calls(server: Loopback, *paths: str) -> int:
    return sum(seen.path in paths for seen in server.requests)


def open_entries(memo: Memo, model: Model, requests: Sequence[Request] = MANY) -> list[Any]:
    """Return what the journal still holds of requests that have no reply."""
    keys = keys_of(model, requests)
    name = KeyMaker(model.fingerprint, "batch")
    entries = memo.get_many([name(key) for key in keys if key not in memo.get_many([key])])
    return [entry for entry in entries.values() if entry != {"batch": None}]


def wait_until(what: Callable[[], bool]) -> None:
    while not what():
        time.sleep(0.005)


def memo_bytes(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_gives_what_plain_calls_give_and_the_journal_is_empty_after(kind: str, tmp_path: Path) -> None:
    with Loopback() as server, Memo(tmp_path / "m") as memo:
        model = model_of(kind, server.url)
        replies = ask(memo, model)
        assert (len(of(server).created), calls(server, *PLAIN)) == (1, 0)
        assert {str(path) for path in of(server).created[0].requests} == set(keys_of(model, MANY))
        name = KeyMaker(model.fingerprint, "batch")
        assert set(map(str, memo.get_many([name(key) for key in keys_of(model, MANY)]).values())) == {"{'batch': None}"}
        assert replies == as_plain(kind, server)
        assert ask(memo, model) == replies
        assert len(of(server).created) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_plain_texts_and_chats_go_into_batches_of_their_own(kind: str, tmp_path: Path) -> None:
    texts = [Request(context="once " * n, max_tokens=7) for n in range(1, 13)]
    with Loopback() as server, Memo(tmp_path / "m") as memo:
        if kind == "anthropic":
            with pytest.raises(FinalModelError, match="format to 'chat'"):
                ask(memo, model_of(kind, server.url), texts)
            assert server.requests == []
            return
        replies = ask(memo, model_of(kind, server.url), [*MANY, *texts])
        assert [len(batch.requests) for batch in of(server).created] == [40, 12]
        assert replies == as_plain(kind, server, [*MANY, *texts])


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_requests_are_asked_one_by_one(kind: str, tmp_path: Path) -> None:
    with Loopback() as server, Memo(tmp_path / "m") as memo:
        few = MANY[: MIN_REQUESTS - 1]
        model = model_of(kind, server.url)
        arrivals = list(ask_in_batches(memo, model, keys_of(model, few), few))
        assert all(arrival.share == 1 and not isinstance(arrival, BatchArrival) for arrival in arrivals)
        assert (calls(server, *PLAIN), calls(server, CREATE[kind])) == (len(few), 0)
        assert dict(arrivals) == as_plain(kind, server, few)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", ["max_requests", "max_bytes"])
def test_what_one_batch_cannot_hold_goes_into_several(
    kind: str, limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Loopback() as server, Memo(tmp_path / "m") as memo:
        model = model_of(kind, server.url)
        most = {"max_requests": 15, "max_bytes": 5000}[limit]
        monkeypatch.setattr(type(model), limit, most)
        replies = ask(memo, model)
        sizes = [len(batch.requests) for batch in of(server).created]
        assert sizes == [15, 15, 10] if limit == "max_requests" else len(sizes) > 2
        assert sum(sizes) == len(MANY)
        assert replies == as_plain(kind, server)
        if limit == "max_bytes":
            uploads = of(server).files.values()
            assert all(len(text) <= most for text in uploads)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spoiled", [Spoiled(500), Spoiled(429), Spoiled(0), "lost"])
def test_what_failed_in_a_batch_goes_into_a_second_one(kind: str, spoiled: Spoiled | str, tmp_path: Path) -> None:
    with Loopback() as server, Memo(tmp_path / "m") as memo:
        of(server).spoil = lambda batch, request: spoiled if batch == 0 and request % 3 == 0 else None
        model = model_of(kind, server.url)
        replies = ask(memo, model)
        assert [len(batch.requests) for batch in of(server).created] == [40, 14]
        assert calls(server, *PLAIN) == 0
        assert replies == as_plain(kind, server)
        assert open_entries(memo, model) == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_left_after_batches_is_asked_one_by_one_if_it_is_little(kind: str, tmp_path: Path) -> None:
    with Loopback() as server, Memo(tmp_path / "m") as memo:
        of(server).spoil = lambda batch, request: Spoiled(500) if request < 12 and (batch == 0 or request < 3) else None
        replies = ask(memo, model_of(kind, server.url))
        assert [len(batch.requests) for batch in of(server).created] == [40, 12]
        assert calls(server, *PLAIN) == 3
        assert replies == as_plain(kind, server)


@pytest.mark.parametrize("kind", KINDS)
def test_where_whole_batches_fail_nothing_is_asked_at_full_price_and_the_next_run_asks_again(
    kind: str, tmp_path: Path
) -> None:
    with Loopback() as server, Memo(tmp_path / "m") as memo:
        of(server).spoil = lambda batch, _: Spoiled(0) if batch < 2 else None
        model = model_of(kind, server.url)
        failed = ask(memo, model)
        assert {type(reply) for reply in failed.values()} == {Failure}
        assert "did not run" in str(failed[0])
        assert (len(of(server).created), calls(server, *PLAIN)) == (2, 0)
        assert open_entries(memo, model) == []
        replies = ask(memo, model)
        assert len(of(server).created) == 3
        assert replies == as_plain(kind, server)


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_that_is_refused_for_what_it_holds_is_a_gap_and_the_others_arrive(kind: str, tmp_path: Path) -> None:
    with Loopback() as server, Memo(tmp_path / "m") as memo:
        of(server).spoil = lambda _, request: Spoiled(400, f"too long {KEY}") if request == 20 else None
        model = model_of(kind, server.url)
        (gap,) = [reply for reply in ask(memo, model).values() if isinstance(reply, Failure)]
        assert gap.refused
        assert KEY not in gap.reason
        assert len(memo.get_many(keys_of(model, MANY))) == len(MANY) - 1
        assert open_entries(memo, model) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [401, 403, 400, 404])
def test_an_endpoint_that_takes_no_batches_ends_the_run_after_one_call(kind: str, status: int, tmp_path: Path) -> None:
    fault = Fault(status, error={"message": f"bad {KEY}"})
    with Loopback(fault=fault) as server, Memo(tmp_path / "m") as memo:
        with pytest.raises(FinalModelError) as caught:
            ask(memo, model_of(kind, server.url))
        assert len(server.requests) == 1
        assert KEY not in "".join(traceback.format_exception(caught.value))
        if status == 404:
            assert "omit --batch" in str(caught.value)
    assert KEY.encode() not in memo_bytes(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_whose_creation_seemed_to_fail_is_found_and_not_created_again(kind: str, tmp_path: Path) -> None:
    with Loopback() as server, Memo(tmp_path / "m") as memo:
        of(server).hide = 1
        replies = ask(memo, model_of(kind, server.url))
        assert (len(of(server).created), calls(server, *PLAIN)) == (1, 0)
        assert replies == as_plain(kind, server)


@pytest.mark.parametrize("kind", KINDS)
def test_another_batch_of_the_same_size_is_not_taken_for_ours(kind: str, tmp_path: Path) -> None:
    others = [Request(context=(Message("user", "other " * n),), max_tokens=7) for n in range(1, 41)]
    with Loopback() as server, Memo(tmp_path / "m") as memo, Memo(tmp_path / "other") as other:
        model = model_of(kind, server.url)
        ask(other, model, others)
        server.fail(Fault(500, path=CREATE[kind], stop=1))
        replies = ask(memo, model)
        assert calls(server, *PLAIN) == 0
        assert len(of(server).created) == 2
        assert replies == as_plain(kind, server)


@pytest.mark.parametrize("kind", KINDS)
def test_polls_that_fail_and_results_that_break_are_read_again(kind: str, tmp_path: Path) -> None:
    with Loopback() as server, Memo(tmp_path / "m") as memo:
        model = model_of(kind, server.url)
        path = CREATE[kind] + "/"
        server.fail([Fault(500, every=2, path=path), Fault("reset", every=3, path=path)])
        assert len(ask(memo, model)) == len(MANY)
        assert len(of(server).created) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_results_that_stay_broken_are_not_paid_for_again(kind: str, tmp_path: Path) -> None:
    with Loopback() as server, Memo(tmp_path / "m") as memo:
        of(server).broken = 100
        model = model_of(kind, server.url)
        failed = ask(memo, model)
        assert all("run again to collect it" in str(reply) for reply in failed.values())
        of(server).broken = 1
        replies = ask(memo, model)
        assert (len(of(server).created), calls(server, *PLAIN)) == (1, 0)
        assert replies == as_plain(kind, server)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_that_the_provider_lost_is_asked_again(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Loopback() as server, Memo(tmp_path / "m") as memo:
        of(server).forgotten.add("batch_0")
        replies = ask(memo, model_of(kind, server.url))
        assert len(of(server).created) == 2
        assert "batch batch_0 is lost" in caplog.text
        assert replies == as_plain(kind, server)


@pytest.mark.parametrize("code", ["token_limit_exceeded", "model_not_found"])
def test_an_openai_batch_that_is_refused_whole_costs_nothing(code: str, tmp_path: Path) -> None:
    with Loopback() as server, Memo(tmp_path / "m") as memo:
        of(server).refusal = code, f"words {KEY}"
        model = model_of("openai", server.url)
        if code == "model_not_found":
            with pytest.raises(FinalModelError, match=r"model_not_found: words \*\*\*"):
                ask(memo, model)
        else:
            assert {type(reply) for reply in ask(memo, model).values()} == {Failure}
        assert calls(server, *PLAIN) == 0
        assert open_entries(memo, model) == []


def test_waiting_says_how_far_it_is_and_can_be_ended_and_taken_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="promptopt")
    with Loopback() as server, Memo(tmp_path / "m") as memo:
        of(server).held = True
        model = model_of("openai", server.url)

        def check() -> None:
            if of(server).created and of(server).created[0].polls > 2:
                raise StoppedError("stopped by the user")

        with pytest.raises(StoppedError):
            ask(memo, model, check=check)
        assert "batch batch_0: 0 of 40 done" in caplog.text
        of(server).held = False
        assert len(ask(memo, model)) == len(MANY)
        assert len(of(server).created) == 1


def test_a_model_without_a_batch_endpoint_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="fake:fake has no batch endpoint: omit --batch"):
        batch_model(FakeModel(str))


def test_a_batch_model_is_a_model_of_the_same_name_at_half_the_price() -> None:
    plain = plain_model("openai", "http://127.0.0.1:1")
    model = batch_model(plain)
    assert isinstance(model, Model)
    assert isinstance(model, BatchModel)
    assert not isinstance(plain, BatchModel)
    assert model.fingerprint == plain.fingerprint
    assert KEY not in repr(model)
    assert without_batches(model) is without_batches(plain) is plain


@pytest.mark.parametrize("role", ["task", "writer"])
def test_the_model_decides_whether_requests_go_in_batches_not_its_role(role: str, tmp_path: Path) -> None:
    with Loopback() as server, Memo(tmp_path / "m") as memo:
        model = model_of("openai", server.url)
        Caller(memo, Ledger()).generate(role, without_batches(model), MANY)
        assert not of(server).created
        Caller(memo, Ledger()).generate(role, model, [replace(request, replicate=1) for request in MANY])
        assert len(of(server).created) == 1


def test_a_run_asks_its_writer_without_batches() -> None:
    model = model_of("openai", "http://127.0.0.1:1")
    task = Task(train=(Example({"text": "a"}, "b", "1"),), seed_prompt=Prompt("{text}"))
    made: dict[str, Any] = {"strategy": "hillclimb", "budget": "9 calls", "seed": 0, "settings": None}
    for writer in (None, model):
        job = prepare(task, model, writer=writer, **made)
        assert (job.roles["task"], job.roles["writer"]) == (model, without_batches(model))
        assert not job.has_own_writer


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_that_the_model_does_not_take_is_left_out_of_the_second_batch(kind: str, tmp_path: Path) -> None:
    warm = [replace(request, temperature=0.5) for request in MANY]
    with Loopback() as server, Memo(tmp_path / "m") as memo:
        wrong = Spoiled(400, "temperature is not supported with this model")
        of(server).spoil = lambda batch, _: wrong if batch == 0 else None
        replies = ask(memo, model_of(kind, server.url), warm)
        bodies = [next(iter(batch.requests.values()))[1] for batch in of(server).created]
        assert ["temperature" in body for body in bodies] == [True, False]
        assert {type(reply) for reply in replies.values()} == {Response}


def test_log_probabilities_of_labels_come_through_a_batch(tmp_path: Path) -> None:
    asked = [replace(request, labels=("odd", "even")) for request in MANY]
    with (
        Loopback(lambda _: "odd", logprobs=lambda _: [("odd", -0.1), ("even", -2.5)]) as server,
        Memo(tmp_path / "m") as memo,
    ):
        model = model_of("openai", server.url)
        assert isinstance(model, LabelReader)
        assert not isinstance(model_of("anthropic", server.url), LabelReader)
        replies = ask(memo, model, asked)
        assert all(getattr(reply, "label_logprobs", None) == pytest.approx((-0.1, -2.5)) for reply in replies.values())
        assert replies == as_plain("openai", server, asked)


def test_what_the_protocol_does_not_know_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    with Loopback() as server, Memo(tmp_path / "m") as memo:
        with pytest.raises(InputError, match="top_k = 3"):
            ask(memo, model_of("openai", server.url), [replace(request, top_k=3) for request in MANY])
        assert server.requests == []


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_batch_that_is_under_way_some_of_the_requests_can_be_asked_for(kind: str, tmp_path: Path) -> None:
    with Loopback() as server, Memo(tmp_path / "m") as memo:
        of(server).held = True
        model = model_of(kind, server.url)

        def check() -> None:
            if of(server).created and of(server).created[0].polls:
                raise StoppedError("stopped by the user")

        with pytest.raises(StoppedError):
            ask(memo, model, check=check)
        of(server).held = False
        assert ask(memo, model, MANY[5:8]) == dict(enumerate(ask(memo, model, MANY)[number] for number in (5, 6, 7)))
        assert (len(of(server).created), calls(server, *PLAIN)) == (1, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_an_endpoint_that_is_down_gives_failures_and_what_was_begun_is_looked_for_later(
    kind: str, tmp_path: Path
) -> None:
    with Loopback() as server, Memo(tmp_path / "m") as memo:
        model = model_of(kind, server.url, attempts=2)
        of(server).hide = 1
        server.fail(Fault(500, start=2 if kind == "anthropic" else 3))
        failed = ask(memo, model)
        assert all("no batch was created" in str(reply) for reply in failed.values())
        assert len(open_entries(memo, model)) == len(MANY)
        server.fail(None)
        replies = ask(memo, model)
        assert (len(of(server).created), calls(server, *PLAIN)) == (1, 0)
        assert replies == as_plain(kind, server)


def child(kind: str, url: str, folder: Path) -> Forked:
    return Forked("batch_child:ask", [kind, url, str(folder / "memo")], os.environ, folder)


def finish(process: Forked) -> dict[int, Response | Failure]:
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert KEY not in out + errors
    return {number: Response.from_json(value) for number, value in json.loads(out.splitlines()[-1])}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("moment", ["created, not noted", "waiting", "collecting"])
def test_a_run_killed_at_any_moment_finds_its_batch_again(kind: str, moment: str, tmp_path: Path) -> None:
    with Loopback() as server:
        batches = of(server)
        if moment == "created, not noted":
            batches.answers.clear()
        batches.held = moment == "waiting"
        process = child(kind, server.url, tmp_path)
        if moment == "created, not noted":
            wait_until(lambda: bool(batches.created))
        elif moment == "waiting":
            wait_until(lambda: bool(batches.created) and batches.created[0].polls > 0)
        else:
            wait_until(lambda: len(process.stdout.read_bytes().splitlines()) >= 10)
        process.kill()
        process.communicate()
        batches.answers.set()
        batches.held = False

        replies = finish(child(kind, server.url, tmp_path))
        assert (len(batches.created), calls(server, *PLAIN)) == (1, 0)
        assert calls(server, CREATE[kind]) - (moment == "created, not noted") == 1  # looking for it is a call, too
        assert replies == as_plain(kind, server)
    assert KEY.encode() not in memo_bytes(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_killed_before_its_batch_was_created_creates_one(kind: str, tmp_path: Path) -> None:
    with Loopback(fault=Fault("hang", path=CREATE[kind])) as server:
        process = child(kind, server.url, tmp_path)
        wait_until(lambda: calls(server, CREATE[kind]) > 0)
        process.kill()
        process.communicate()
        server.fail(None)
        replies = finish(child(kind, server.url, tmp_path))
        assert (len(of(server).created), calls(server, *PLAIN)) == (1, 0)
        assert replies == as_plain(kind, server)


# ---------------------------------------------------------------- from the shell


def test_a_run_with_batches_pays_half_and_ends_as_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data.csv").write_text(
        "text,label\n" + "".join(f"film {n} is {word},{word}\n" for n in range(30) for word in ("good", "bad"))
    )
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    results = {}
    with Loopback(lambda asked: asked.split()[-1]) as server:
        for way in ("plain", "--batch"):
            words = [
                *("optimize", "--data", str(tmp_path / "data.csv")),
                *("--input", "text", "--label", "label", "--labels", "good,bad", "--seed-prompt", "Say which."),
                *("--model", "openai:some-model", "--base-url", f"{server.url}/v1", "--price", "1,1"),
                *("--strategy", "random", "--set", "prompts=4", "--set", "batch=4", "--budget", "2000 calls"),
                *("--memo", str(tmp_path / way), "--run-dir", str(tmp_path / f"run {way}"), "--json"),
                *([way] if way == "--batch" else []),
            ]
            process = Forked("batch_child:shell", words, os.environ, tmp_path)
            out, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
            assert bool(re.search(r"batch \S+: \d+ of \d+ done", errors)) == (way == "--batch")
            results[way] = json.loads(out)
        created = len(of(server).created)

    plain, batched = results["plain"], results["--batch"]
    assert created > 0
    assert plain["prompt"] == batched["prompt"]
    assert plain["used"] == batched["used"]
    assert 0.5 <= batched["paid"]["task"]["dollars"] / plain["paid"]["task"]["dollars"] < 0.7
