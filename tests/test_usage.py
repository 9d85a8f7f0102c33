"""What calls count as where a server says nothing of its tokens, or says what cannot be true."""

from __future__ import annotations

import contextlib
import tempfile
from typing import TYPE_CHECKING, Any, Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from servers.loopback import Loopback

from promptopt import Arrival, FakeModel, Memo, Message, Price, Request, Response, Usage
from promptopt.errors import BudgetExhaustedError
from promptopt.evaluation.caller import Caller
from promptopt.evaluation.ledger import Budget, Ledger
from promptopt.models.hosted import anthropic, openai
from promptopt.models.hosted.anthropic import AnthropicModel
from promptopt.models.usage import label_token_range, min_tokens, parse_count, reply_token_range
from promptopt.replies import NO_USAGE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from promptopt import Failure

PRICE = Price(2.0, 8.0)
HUGE = 10**400
ODD = [None, "", "many", -3, float("nan"), float("inf"), HUGE, True, {}, [20], {"tokens": 20}, "nan", "-1", "1e999"]


@pytest.mark.parametrize("value", [20, 20.0, "20", " 20 ", "20.0", "2e1", 19.5])
def test_a_count_is_read_in_any_form(value: object) -> None:
    assert parse_count(value) == 20


@pytest.mark.parametrize("value", [*ODD, 0])
def test_what_is_no_count_is_none(value: object) -> None:
    assert parse_count(value) == 0


@pytest.mark.parametrize(
    ("said", "usage"),
    [
        ({"prompt_tokens": "20", "completion_tokens": 2.0}, Usage(20, 0, 2)),
        ({"prompt_tokens": 20, "completion_tokens": 2, "total_tokens": 22}, Usage(20, 0, 2)),
        # A thought that the server reports beside the reply, or in the total alone.
        (
            {"prompt_tokens": 20, "completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 300}},
            Usage(20, 0, 302),
        ),
        (
            {"prompt_tokens": 20, "completion_tokens": 302, "completion_tokens_details": {"reasoning_tokens": 300}},
            Usage(20, 0, 302),
        ),
        ({"prompt_tokens": 20, "completion_tokens": 2, "total_tokens": 322}, Usage(20, 0, 302)),
        # One of the three from the other two.
        ({"completion_tokens": 2, "total_tokens": 22}, Usage(20, 0, 2)),
        ({"prompt_tokens": 20, "total_tokens": 22}, Usage(20, 0, 2)),
        ({"total_tokens": 22}, Usage(0, 0, 22)),
        (
            {"prompt_tokens": None, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 7}},
            Usage(0, 0, 2),
        ),
        ({"prompt_tokens": -20, "completion_tokens": HUGE, "total_tokens": True}, NO_USAGE),
        ([20, 2], NO_USAGE),
        ("20", NO_USAGE),
        (None, NO_USAGE),
    ],
)
def test_openai_usage_is_read_as_far_as_it_can_be(said: Any, usage: Usage) -> None:
    assert openai._usage(said) == usage


@pytest.mark.parametrize(
    ("said", "usage"),
    [
        ({"input_tokens": "3", "output_tokens": 2.0, "cache_read_input_tokens": "2"}, Usage(5, 2, 2)),
        ({"input_tokens": 0, "output_tokens": 2, "cache_read_input_tokens": 9}, Usage(9, 9, 2)),
        ({"output_tokens": 2, "cache_read_input_tokens": 9}, Usage(0, 0, 2)),
        ({"input_tokens": -1, "output_tokens": [], "cache_creation_input_tokens": 9}, NO_USAGE),
        (7, NO_USAGE),
    ],
)
def test_anthropic_usage_is_read_as_far_as_it_can_be(said: Any, usage: Usage) -> None:
    assert anthropic._usage(said) == usage


LONG = "word " * 100  # 500 bytes: 50 tokens at least, 532 at most
MOST = 532


@pytest.mark.parametrize(
    ("reported", "text", "counted"),
    [
        (Usage(101, 4, 3), "fine", Usage(101, 4, 3)),
        (NO_USAGE, "fine", Usage(MOST, 0, 30)),
        (Usage(101, 4, 0), "fine", Usage(101, 4, 30)),
        (Usage(0, 0, 3), "fine", Usage(MOST, 0, 3)),
        (Usage(101, 4, 0), "", Usage(101, 4, 30)),  # a thought may have taken them all
        (Usage(1, 0, 3), "fine", Usage(MOST, 0, 3)),  # too few for such a text
        (Usage(101, 0, 1), "a word " * 10, Usage(101, 0, 30)),
        (Usage(9_999, 0, 7_777), "fine", Usage(9_999, 0, 7_777)),  # more than can be: it may be charged
        (Usage(101, 0, 0), "a word " * 100, Usage(101, 0, 100)),  # a longer reply than was asked for
    ],
)
def test_a_part_that_is_missing_or_too_small_counts_as_the_most_that_it_can_be(
    reported: Usage, text: str, counted: Usage
) -> None:
    assert (
        reply_token_range(Request(context=LONG, max_tokens=30)).billable_usage(Response(text, usage=reported), PRICE)
        == counted
    )


def test_input_that_may_have_been_written_to_a_dearer_cache_counts_so() -> None:
    dear, wanted = Price(2.0, 8.0, 0.2, 2.5), reply_token_range(Request(context=LONG, max_tokens=30))
    usage = wanted.billable_usage(Response("fine"), dear)

    assert dear.of(usage) == pytest.approx(wanted.bound(dear).dollars)


def test_scored_labels_write_nothing() -> None:
    wanted = label_token_range(LONG, 2, 8)

    assert wanted.billable_usage(Response("positive", (-1.0, -2.0), Usage(101)), PRICE) == Usage(101)
    assert wanted.billable_usage(Response("positive", (-1.0, -2.0)), PRICE) == Usage(2 * MOST)
    assert wanted.bound(None).tokens == 2 * (MOST + 8 + 16)


# ---------------------------------------------------------------- never overshot

WORDS = st.lists(st.sampled_from(["good", "a", "prompt", "Ωmega", "\n", "incomprehensibly"]), min_size=1, max_size=60)
LONGEST = 24


class Untruthful:
    """A server that takes so many tokens for each request, and says what it likes."""

    unit: Literal["reply"] = "reply"

    def __init__(self, replies: dict[str, Response], price: Price | None) -> None:
        self.fingerprint = {"provider": "untruthful"}
        self.replies, self.price = replies, price
        self.asked: list[str] = []

    def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
        for number, request in enumerate(requests):
            self.asked.append(str(request.context))
            yield Arrival(number, self.replies[str(request.context)])


def tokens(text: str) -> int:
    """How many tokens the server's tokenizer cuts a text into: a word each, long ones more."""
    return max(sum(-(-len(word) // 6) for word in text.split()), 1)


@st.composite
def reports(draw: st.DrawFn) -> tuple[str, str, Any]:
    """Return a message, its reply, and what the server says of their tokens: the truth or more, nothing, or the impossible."""
    asked, said = (" ".join(draw(WORDS)) for _ in range(2))
    said = " ".join(said.split()[: LONGEST // 3])

    def report(text: str) -> Any:
        taken = tokens(text)
        return draw(
            st.integers(taken, 10**6)
            | st.integers(taken, 500).map(str)
            | st.floats(taken, 500)
            | st.sampled_from(ODD)
            | st.integers(0, min_tokens(text) - 1)
        )

    cached: Any = draw(st.sampled_from([0, *ODD]))
    return asked, said, Usage(report(asked), cached, report(said), 0)


@given(
    said=st.lists(reports(), min_size=1, max_size=12),
    share=st.floats(0.05, 1.2),
    unit=st.sampled_from(["tokens", "dollars"]),
    known=st.sets(st.integers(0, 11)),
)
@example(said=[("good", "good", Usage(1, 0, 1.0, 0))], share=1.0, unit="tokens", known=set())  # type: ignore[arg-type]
@settings(max_examples=30, deadline=None)
def test_what_was_delivered_never_exceeds_the_budget_and_a_replay_counts_the_same(
    said: list[tuple[str, str, Any]], share: float, unit: str, known: set[int]
) -> None:
    wanted = [Request(context=f"{i} {asked}", max_tokens=LONGEST) for i, (asked, _, _) in enumerate(said)]
    replies = {str(r.context): Response(text, usage=usage) for r, (_, text, usage) in zip(wanted, said, strict=True)}
    most = sum(getattr(reply_token_range(r).bound(PRICE), unit) for r in wanted)
    limit = Budget(**{unit: share * most})

    def run(memo: Memo, requests: list[Request]) -> tuple[Ledger, Untruthful]:
        ledger, model = Ledger(limit), Untruthful(replies, PRICE)
        with contextlib.suppress(BudgetExhaustedError):
            Caller(memo, ledger).generate("task", model, requests)
        return ledger, model

    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other, Memo(one) as empty:
        first, model = run(empty, wanted)
        again, silent = run(empty, wanted)
        with Memo(other) as some:
            run(some, [wanted[i] for i in known if i < len(wanted)])
            resumed, _ = run(some, wanted)

    delivered = [Usage(tokens(asked), 0, tokens(replies[asked].text)) for asked in model.asked]
    assert sum(u.total if unit == "tokens" else PRICE.of(u) for u in delivered) <= getattr(limit, unit)
    assert set(model.asked) >= set(silent.asked) == set()
    assert first.logical == again.logical == resumed.logical
    assert first.unreported == again.unreported == resumed.unreported


def test_a_memo_of_calls_whose_usage_is_missing_is_counted_like_the_calls(tmp_path: Path) -> None:
    wanted = [Request(context=f"{i} {LONG}", max_tokens=30) for i in range(3)]
    replies = {str(r.context): Response("fine") for r in wanted}

    def counted(price: Price, limit: Budget) -> tuple[int, list[str]]:
        ledger = Ledger(limit)
        Caller(memo, ledger).generate("task", Untruthful(replies, price), wanted)
        return ledger.total(ledger.logical).tokens, ledger.notes()

    with Memo(tmp_path) as memo:
        free = counted(Price(0.0, 0.0), Budget(calls=9))  # nobody asks what it took
        dear = counted(PRICE, Budget(calls=9))
        limited = counted(Price(0.0, 0.0), Budget(tokens=9_999))

    assert free == (0, [])
    assert dear == limited
    assert dear[0] == 3 * (30 + MOST + 2)
    assert len(dear[1]) == 1
    assert dear[1][0].startswith("3 of 3 replies of the task model came without a plausible token count: each counts")


def test_a_fake_model_that_reports_its_tokens_is_believed(tmp_path: Path) -> None:
    ledger = Ledger(Budget(tokens=9_999))
    with Memo(tmp_path) as memo:
        model = FakeModel(lambda _: Response("fine", usage=Usage(101, 0, 1)))
        Caller(memo, ledger).generate("task", model, [Request(context=LONG, max_tokens=30)])

    assert ledger.total(ledger.logical).tokens == 102
    assert ledger.notes() == []


@pytest.mark.parametrize("usage", [None, {"input_tokens": 1, "output_tokens": 0}, {"input_tokens": HUGE}, "none", [1]])
def test_a_silent_server_overshoots_no_budget(tmp_path: Path, usage: Any) -> None:
    wanted = [Request(context=(Message("user", f"{i} {LONG}"),), max_tokens=30) for i in range(9)]
    ledger = Ledger(Budget(dollars=5 * reply_token_range(wanted[0]).bound(PRICE).dollars))
    with Loopback(extra={"usage": usage}) as server, Memo(tmp_path) as memo:
        model = AnthropicModel("m", base_url=server.url, api_key="sk-test-key", price=PRICE)
        replies: list[Response | Failure] = []
        with pytest.raises(BudgetExhaustedError, match=r"budget exhausted: .* dollars used"):
            replies = Caller(memo, ledger).generate("task", model, wanted)

    assert replies == []
    assert len(server.requests) == 5
