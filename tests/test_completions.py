"""Servers that score given texts: against a loopback server with a real tiny model behind it, and a real server."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from servers.loopback import Fault, Loopback
from typer.testing import CliRunner

from promptopt import (
    Budget,
    Example,
    LabelModel,
    Memo,
    Message,
    Prompt,
    Request,
    Response,
    Task,
    TokenModel,
    load_model,
    optimize,
)
from promptopt.cli import app
from promptopt.errors import BudgetExhaustedError, FinalModelError, InputError
from promptopt.evaluation.caller import Caller
from promptopt.evaluation.ledger import Ledger
from promptopt.models.hosted.check import check
from promptopt.models.hosted.completions import CompletionsModel, TokenizedCompletionsModel
from promptopt.replies import Failure

pytest.importorskip("torch", reason="the extra 'local' is not installed")

from servers.scoring import ScoringServer

from promptopt.models.local import LocalModel

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from servers.scoring import Dialect

    from promptopt.prompt import Context
    from promptopt.replies import Arrival

LABELS = ("terrible", "great", "very good, a joy")
TEXTS: list[Context] = [
    "Review: a dull evening\nSentiment:",
    "Review: a joy from start to end\nSentiment:",
    "naïve and ",
]
CHATS: list[Context] = [
    (Message("user", "Is the film very good? a joy"),),
    (Message("system", "Be short."), Message("user", "Is it terrible?")),
]
KEY = "any"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server(tiny_llama: Path) -> Iterator[Loopback]:
    with serving(tiny_llama) as server:
        yield server


def serving(folder: Path, dialect: Dialect = "openai", **settings: Any) -> Loopback:
    return Loopback(lambda _: "word", score=ScoringServer(folder, dialect), **settings)


def model_of(server: Loopback, **settings: Any) -> CompletionsModel:
    return CompletionsModel("tiny", base_url=f"{server.url}/v1", **settings)


def tokenized(server: Loopback, folder: Path) -> TokenizedCompletionsModel:
    return TokenizedCompletionsModel("tiny", tokenizer=str(folder), base_url=f"{server.url}/v1")


def scores(arrivals: Iterator[Arrival]) -> list[Any]:
    """Return log-probabilities in the order of the contexts, a failure's reason in place of them."""
    replies = [arrival.reply for arrival in sorted(arrivals, key=lambda arrival: arrival.number)]
    return [reply.reason if isinstance(reply, Failure) else reply.label_logprobs for reply in replies]


def local_scores(folder: Path, contexts: Sequence[Context], labels: Sequence[str]) -> list[Any]:
    return scores(LocalModel(str(folder), dtype="float32", device="cpu").label_logprobs(contexts, labels))


def asked(server: Loopback) -> list[str]:
    """Return the texts that were sent to be scored, the probe's aside."""
    return [seen.body["prompt"] for seen in server.requests if not seen.body["prompt"].startswith("one, two, three,")]


def reviews(**settings: Any) -> Task:
    rows = [("a joy from start to end", "great"), ("a dull and terrible evening", "terrible")]
    items = tuple(Example({"text": f"{text} {i}"}, label, f"{i} {label}") for i in range(3) for text, label in rows)
    return Task(
        train=items[:2],
        validation=items[2:4],
        test=items[4:],
        seed_prompt=Prompt("Review: {text}\nSentiment:"),
        labels=("terrible", "great"),
        **{"format": "completion"} | settings,
    )


# ---------------------------------------------------------------- what is scored


@pytest.mark.parametrize("dialect", ["openai", "vllm", "llama"])
def test_labels_of_any_length_get_the_log_probabilities_of_the_local_model(tiny_llama: Path, dialect: Dialect) -> None:
    with serving(tiny_llama, dialect) as server:
        found = scores(model_of(server).label_logprobs(TEXTS, LABELS))

    assert np.allclose(found, local_scores(tiny_llama, TEXTS, LABELS), atol=1e-4)


@pytest.mark.parametrize("dialect", ["openai", "vllm", "llama"])
def test_with_a_tokenizer_chats_and_parts_of_characters_are_scored_as_by_the_local_model(
    tiny_llama: Path, dialect: Dialect
) -> None:
    labels = (*LABELS, "好 naïve")
    with serving(tiny_llama, dialect) as server:
        model = tokenized(server, tiny_llama)
        found = [scores(model.label_logprobs(contexts, labels)) for contexts in (TEXTS, CHATS)]

    assert np.allclose(found[0], local_scores(tiny_llama, TEXTS, labels), atol=1e-4)
    assert np.allclose(found[1], local_scores(tiny_llama, CHATS, labels), atol=1e-4)


def test_a_reply_names_the_likeliest_label_and_sums_the_usage_of_its_calls(server: Loopback) -> None:
    (arrival,) = model_of(server).label_logprobs(TEXTS[:1], LABELS)
    reply = arrival.reply

    assert isinstance(reply, Response)
    assert reply.label_logprobs is not None
    assert reply.text == LABELS[int(np.argmax(reply.label_logprobs))]
    words = [len(text.split()) for text in asked(server)]
    assert (reply.usage.input, reply.usage.output, reply.usage.cached) == (sum(words), len(LABELS), len(LABELS))


def test_an_empty_context_fails_for_its_first_token_has_no_log_probability(server: Loopback) -> None:
    (found,) = scores(model_of(server).label_logprobs([""], LABELS))

    assert "first token" in found


def test_labels_of_a_context_follow_each_other_and_contexts_go_in_the_order_of_their_texts(server: Loopback) -> None:
    texts = [f"{start} item {number}:" for number in range(4) for start in ("Review", "An essay", "Text")]
    arrivals = list(model_of(server, concurrency=1).label_logprobs(texts, ("great", "terrible")))

    assert asked(server) == [f"{text} {label}" for text in sorted(texts) for label in ("great", "terrible")]
    assert [arrival.number for arrival in arrivals] == sorted(range(len(texts)), key=texts.__getitem__)


def test_many_calls_at_once_give_the_same_as_one_after_the_other(tiny_llama: Path) -> None:
    texts = [f"Review: item {number}\nSentiment:" for number in range(12)]
    with serving(tiny_llama, latency=0.01) as server:
        once = scores(model_of(server, concurrency=1).label_logprobs(texts, LABELS))
        many = scores(model_of(server).label_logprobs(texts, LABELS))

        assert server.most_in_flight > 1
    assert many == once


# ---------------------------------------------------------------- failures


def test_a_retry_asks_only_for_the_labels_that_are_missing(tiny_llama: Path) -> None:
    with serving(tiny_llama, fault=Fault(500, text="very good, a joy", stop=1)) as server:
        found = scores(model_of(server).label_logprobs(TEXTS[:1], LABELS))
        sent = asked(server)

    assert np.allclose(found, local_scores(tiny_llama, TEXTS[:1], LABELS), atol=1e-4)
    assert sent == [f"{TEXTS[0]} {label}" for label in (*LABELS, LABELS[-1])]


def test_a_label_that_never_comes_fails_its_context_and_no_other(tiny_llama: Path) -> None:
    with serving(tiny_llama, fault=Fault(500, text="dull evening\\nSentiment: great")) as server:
        found = scores(model_of(server).label_logprobs(TEXTS, LABELS))

    assert "answered 500" in found[0]
    assert np.allclose(found[1:], local_scores(tiny_llama, TEXTS[1:], LABELS), atol=1e-4)


@pytest.mark.parametrize(
    ("dialect", "says"),
    [
        ("deaf", "neither echo with logprobs nor prompt_logprobs.*use openai:tiny"),
        ("shifted", "echo scores it.*add_bos_token.*use openai:tiny"),
    ],
)
def test_a_server_that_cannot_score_ends_the_run_before_anything_is_spent(
    tiny_llama: Path, tmp_path: Path, dialect: Dialect, says: str
) -> None:
    with serving(tiny_llama, dialect) as server, Memo(tmp_path / "memo") as memo:
        with pytest.raises(FinalModelError, match=says):
            optimize(reviews(), model_of(server), "tapruning", budget="100 calls", memo=memo)

        assert asked(server) == []
        assert len(server.requests) <= 3
        assert memo.stats().entries == 0


def test_a_server_that_refuses_an_echo_is_asked_for_prompt_logprobs(tiny_llama: Path) -> None:
    with serving(tiny_llama, "vllm", fault=Fault(400, text='"echo"')) as server:
        model = model_of(server)

        assert model.scoring_method() == "prompt_logprobs"
        assert model.scoring_method() == "prompt_logprobs"
        assert len(server.requests) == 3


def test_a_chat_without_a_tokenizer_is_refused_before_any_call(server: Loopback) -> None:
    with pytest.raises(FinalModelError, match=r"'completion', give the model's tokenizer.*or use openai:tiny"):
        list(model_of(server).label_logprobs(CHATS, LABELS))

    assert server.requests == []


def test_labels_whose_tokens_are_parts_of_characters_need_the_tokenizer(tiny_llama: Path) -> None:
    with serving(tiny_llama, "llama") as server, pytest.raises(FinalModelError, match=r"do not spell.*--tokenizer"):
        list(model_of(server).label_logprobs(TEXTS[:1], ("好", "great")))


def test_a_bad_key_is_named_by_the_first_call(server: Loopback) -> None:
    server.fail(Fault(401))
    with pytest.raises(FinalModelError, match="check OPENAI_API_KEY"):
        list(model_of(server).label_logprobs(TEXTS, LABELS))

    assert len(server.requests) == 1


# ---------------------------------------------------------------- runs


def test_a_run_ends_with_a_result_and_a_second_one_asks_nothing_not_even_whether_it_can(
    server: Loopback, tmp_path: Path
) -> None:
    results = []
    for _ in range(2):
        with Memo(tmp_path / "memo") as memo:
            results.append(optimize(reviews(), model_of(server), "tapruning", budget="200 calls", memo=memo))
        count = len(server.requests)
        server.wait_idle()
    first, again = results

    assert first.finished
    assert first.failed == 0
    assert len(first.history) > 1
    assert len(server.requests) == count
    assert again.prompt == first.prompt
    cells = sum(paid.calls for paid in first.paid.values())
    assert len(asked(server)) == 2 * cells > 0


def test_text_and_chats_are_written_as_by_an_openai_model(server: Loopback) -> None:
    model = model_of(server)
    with Memo() as memo:
        caller = Caller(memo, Ledger(Budget()))
        caller.generate("writer", model, [Request(context=context, max_tokens=3) for context in (TEXTS[0], CHATS[0])])

    paths = sorted(seen.path for seen in server.requests)
    assert paths == ["/v1/chat/completions", "/v1/completions"]
    assert all("logprobs" not in seen.body and "echo" not in seen.body for seen in server.requests)


# ---------------------------------------------------------------- what a model can do is known by its type


def test_a_tokenizer_makes_it_a_token_model(tiny_llama: Path) -> None:
    url = "http://127.0.0.1:1/v1"
    plain = load_model("completions:tiny", base_url=url)
    cutting = load_model("completions:tiny", base_url=url, tokenizer=str(tiny_llama))

    assert isinstance(plain, LabelModel)
    assert not isinstance(plain, TokenModel)
    assert isinstance(cutting, LabelModel)
    assert isinstance(cutting, TokenModel)
    text = "Review: a joy, naïve 好"
    assert cutting.pieces(text) == LocalModel(str(tiny_llama)).pieces(text)
    assert dict(cutting.fingerprint) == dict(plain.fingerprint) | {"template": cutting.fingerprint["template"]}


def test_batches_of_a_model_that_scores_labels_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"row {i},{LABELS[i % 2]}\n" for i in range(9)))
    words = ["score", "--data", str(tmp_path / "rows.csv"), "--input", "text", "--label", "label", "--batch"]
    done = CliRunner().invoke(app, [*words, "--model", "completions:tiny", "--base-url", "http://127.0.0.1:1/v1"])

    assert isinstance(done.exception, InputError)
    assert "remove --batch" in str(done.exception)


def test_a_model_without_a_server_and_a_tokenizer_without_a_use_are_refused() -> None:
    with pytest.raises(InputError, match="completions:tiny needs a base URL"):
        load_model("completions:tiny")
    with pytest.raises(InputError, match="'openai:tiny' does not take a tokenizer"):
        load_model("openai:tiny", tokenizer="folder")


# ---------------------------------------------------------------- promptopt models check


def found_out(model: CompletionsModel) -> dict[str, tuple[bool | None, str]]:
    return {what: (good, says) for what, good, says in check(model)}


def test_check_says_that_texts_are_scored_and_what_chats_need(server: Loopback) -> None:
    said = found_out(model_of(server))

    assert said["scores texts"] == (True, "by echo; a generated token gets the same score when it is given")
    assert re.search(r"'four' \S+, 'five' \S+, 'dog' \S+: sum \S+, must be at most 1$", said["probabilities"][1])
    assert said["probabilities"][0]
    assert said["scores chats"] == (None, "needs the model's tokenizer: --tokenizer")


@pytest.mark.parametrize(
    ("dialect", "what", "says"),
    [
        ("deaf", "scores texts", "use openai:tiny"),
        ("shifted", "scores texts", "add_bos_token"),
        ("sure", "probabilities", "sum 3, must be at most 1"),
    ],
)
def test_check_finds_scores_that_are_none_or_cannot_be_probabilities(
    tiny_llama: Path, dialect: Dialect, what: str, says: str
) -> None:
    with serving(tiny_llama, dialect) as server:
        said = found_out(model_of(server))

    assert says in said[what][1]
    assert [name for name, (good, _) in said.items() if good is False] == [what]


def test_the_command_checks_chats_with_a_tokenizer_and_fails_where_one_thing_does(tiny_llama: Path) -> None:
    codes = []
    dialects: tuple[Dialect, ...] = ("openai", "deaf")
    for dialect in dialects:
        with serving(tiny_llama, dialect) as server:
            words = [
                "models",
                "check",
                "completions:tiny",
                "--base-url",
                f"{server.url}/v1",
                "--tokenizer",
                str(tiny_llama),
            ]
            done = CliRunner().invoke(app, words)
        codes.append(done.exit_code)
        assert re.search(rf"^{('ok', 'no')[done.exit_code]} +scores chats ", done.stdout, re.MULTILINE)

    assert codes == [0, 1]


def test_a_budget_in_tokens_is_not_overshot_by_a_cell_of_many_texts(server: Loopback, tmp_path: Path) -> None:
    labels = tuple(f"label {number}" for number in range(12))
    texts = [f"{number} {' '.join('bcdefghijklmnopqrst')}" for number in range(4)]
    ledger = Ledger(Budget(tokens=800))
    with Memo(tmp_path / "memo") as memo, pytest.raises(BudgetExhaustedError):
        Caller(memo, ledger).label_logprobs("task", model_of(server), texts, labels)

    assert ledger.total(ledger.logical).tokens <= 800
