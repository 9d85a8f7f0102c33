from __future__ import annotations

import contextlib
import tempfile
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptopt import Failure, FakeLabelModel, Memo, Message, Price, Request, Response, Usage
from promptopt.errors import BudgetExhaustedError, FinalModelError, InputError, StoppedError
from promptopt.evaluation.caller import Caller
from promptopt.evaluation.calls import Stop
from promptopt.evaluation.ledger import Budget, Ledger
from promptopt.memo import memo_key
from promptopt.replies import Arrival

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from promptopt.memo.store import Claim
    from promptopt.models.base import Unit
    from promptopt.replies import Finish


class Recorder:
    """A model that writes down what it is asked, and answers with a function of the request."""

    price = Price(1.0, 1.0)

    def __init__(self, handler: Callable[[Request], Response | Failure] | None = None, unit: Unit = "reply") -> None:
        self.handler = handler or (lambda request: Response(f"re: {request.context}", usage=Usage(3, 0, 2)))
        self.unit = unit
        self.fingerprint: dict[str, Any] = {"provider": "recorder"}
        self.asked: list[str] = []

    def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
        for number, request in enumerate(requests):
            self.asked.append(str(request.context))
            yield Arrival(number, self.handler(request))


class Flying(Recorder):
    """Keeps up to `width` calls in flight and lets them arrive in any order, as a dispatcher does."""

    def __init__(self, width: int, seed: int, handler: Callable[[Request], Response | Failure] | None = None) -> None:
        super().__init__(handler)
        self.width, self.rng = width, np.random.default_rng(seed)

    def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
        queue, flying = enumerate(requests), list[tuple[int, Request]]()
        while True:
            while len(flying) < self.width and (pulled := next(queue, None)) is not None:
                self.asked.append(str(pulled[1].context))
                flying.append(pulled)
            if not flying:
                return
            number, request = flying.pop(int(self.rng.integers(len(flying))))
            yield Arrival(number, self.handler(request))


@pytest.fixture
def memo(tmp_path: Path) -> Iterator[Memo]:
    with Memo(tmp_path) as memo:
        yield memo


def requests(*contexts: str, replicate: int = 0) -> list[Request]:
    return [Request(context=context, max_tokens=5, replicate=replicate) for context in contexts]


def stored(memo: Memo, *contexts: str) -> list[bool]:
    return [memo.get(key_of(request)) is not None for request in requests(*contexts)]


def key_of(request: Request) -> str:
    body: dict[str, Any] = {"context": request.context, "max_tokens": 5, "temperature": 0.0, "stop": []}
    return memo_key({"provider": "recorder"}, "generate", body, request.replicate)


def texts(replies: Iterable[Response | Failure]) -> list[str]:
    return [reply.text if isinstance(reply, Response) else f"failed: {reply.reason}" for reply in replies]


def failing(*contexts: str) -> Callable[[Request], Response | Failure]:
    return lambda request: Failure("broken") if request.context in contexts else Response("fine")


# ---------------------------------------------------------------- once


def test_equal_requests_in_one_batch_are_asked_once_in_their_order(memo: Memo) -> None:
    model, ledger = Recorder(), Ledger()
    replies = Caller(memo, ledger).generate("task", model, requests("b", "a", "b", "c", "a"))

    assert texts(replies) == ["re: b", "re: a", "re: b", "re: c", "re: a"]
    assert model.asked == ["b", "a", "c"]
    assert ledger.logical["task"].calls == ledger.paid["task"].calls == 3


def test_another_replicate_length_stop_or_way_of_sampling_is_another_request(memo: Memo) -> None:
    model = Recorder()
    variants = [
        Request(context="a", max_tokens=5),
        Request(context="a", max_tokens=5, replicate=1),
        Request(context="a", max_tokens=6),
        Request(context="a", max_tokens=5, temperature=0.5),
        Request(context="a", max_tokens=5, stop=("\n",)),
        Request(context="a", max_tokens=5, top_p=0.9),
        Request(context="a", max_tokens=5, top_k=9),
    ]
    Caller(memo, Ledger()).generate("task", model, variants)

    assert len(model.asked) == len(variants)


@pytest.mark.parametrize(
    ("plain", "key"),
    [
        (Request(context="x", max_tokens=5), "bcd71ee07872c64fa9d1df9007566eecda021cf36cdf9c02934e7b33c43bd9e0"),
        (
            Request(
                context=(Message("system", "Be brief."), Message("user", "one")),
                max_tokens=7,
                temperature=0.5,
                stop=("\n",),
                replicate=2,
            ),
            "b94710d2a378f61c3f8c1542ef0d0a0bb73955397735d83e29949e1b19fef064",
        ),
    ],
)
def test_a_request_without_top_p_and_top_k_has_the_key_of_memos_that_know_neither(
    memo: Memo, plain: Request, key: str
) -> None:
    Caller(memo, Ledger()).generate("task", Recorder(), [plain])

    assert memo.get(key) is not None


def test_a_replay_pays_nothing_and_counts_the_same(memo: Memo) -> None:
    first, again = Ledger(), Ledger()
    wanted = requests("a", "b", "a")
    replies = Caller(memo, first).generate("task", Recorder(), wanted)
    silent = Recorder()

    assert Caller(memo, again).generate("task", silent, wanted) == replies
    assert silent.asked == []
    assert again.paid == {}
    assert again.logical == first.logical
    assert again.logical["task"].tokens == 10


def test_a_budget_stops_a_replay_where_it_stopped_the_run(memo: Memo) -> None:
    Caller(memo, Ledger()).generate("task", Recorder(), requests("a", "b", "c"))
    replay = Caller(memo, Ledger(Budget(calls=2)))
    replay.generate("task", Recorder(), requests("a", "b"))

    with pytest.raises(BudgetExhaustedError):
        replay.generate("task", Recorder(), requests("c"))


def test_a_refused_batch_sends_nothing(memo: Memo) -> None:
    model = Recorder()
    with pytest.raises(BudgetExhaustedError):
        Caller(memo, Ledger(Budget(calls=2))).generate("task", model, requests("a", "b", "c"))

    assert model.asked == []


def test_labels_are_kept_apart_from_text_and_from_other_labels(memo: Memo) -> None:
    asked: list[tuple[Any, ...]] = []

    def logprobs(context: Any, labels: Sequence[str]) -> list[float]:
        asked.append((context, *labels))
        return [-1.0, -2.0]

    model, caller = FakeLabelModel(logprobs), Caller(memo, Ledger())
    first = caller.label_logprobs("task", model, ["a", "b", "a"], ["yes", "no"])
    again = caller.label_logprobs("task", model, ["a", "b", "a"], ["yes", "no"])
    turned = caller.label_logprobs("task", model, ["a"], ["no", "yes"])
    written = caller.generate("task", model, requests("a"))

    assert asked == [("a", "yes", "no"), ("b", "yes", "no"), ("a", "no", "yes")]
    assert first == again == [Response("yes", (-1.0, -2.0))] * 3
    assert turned == [Response("no", (-1.0, -2.0))]
    assert texts(written) == ["a"]


@pytest.mark.parametrize("values", [(), (-1.0,), (-1.0, -2.0, -3.0), (-1.0, float("nan")), (-1.0, -float("inf"))])
def test_log_probabilities_that_cannot_be_meant_are_refused_and_not_stored(
    memo: Memo, values: tuple[float, ...]
) -> None:
    caller = Caller(memo, Ledger())
    model = FakeLabelModel(lambda *_: values, "odd one")
    with pytest.raises(InputError, match=r"the model 'odd one' gave .* of 2 labels: it must give one finite number"):
        caller.label_logprobs("task", model, ["a"], ["yes", "no"])
    assert memo.stats().entries == 0


def test_nothing_asked_is_nothing_done(memo: Memo) -> None:
    model = Recorder()

    assert Caller(memo, Ledger()).generate("task", model, []) == []
    assert model.asked == []


def test_replies_may_arrive_in_any_order_and_from_any_iterator(memo: Memo) -> None:
    class Backwards(Recorder):
        def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
            pulled = list(requests)
            return iter([Arrival(i, Response(str(pulled[i].context))) for i in reversed(range(len(pulled)))])

    assert texts(Caller(memo, Ledger()).generate("task", Backwards(), requests(*"abc"))) == ["a", "b", "c"]
    assert texts(Caller(memo, Ledger()).generate("task", Recorder(), requests(*"abc"))) == ["a", "b", "c"]


# ---------------------------------------------------------------- when it breaks


def test_what_arrived_before_a_crash_is_kept_and_not_asked_again(memo: Memo) -> None:
    def handler(request: Request) -> Response:
        if request.context == "c":
            raise FinalModelError("the key was revoked")
        return Response("fine")

    with pytest.raises(FinalModelError):
        Caller(memo, Ledger()).generate("task", Recorder(handler), requests(*"abcd"))
    assert stored(memo, *"abcd") == [True, True, False, False]

    healed = Recorder()
    Caller(memo, Ledger()).generate("task", healed, requests(*"abcd"))
    assert healed.asked == ["c", "d"]


def test_a_crash_closes_the_model_and_frees_its_claims(memo: Memo) -> None:
    closed = []

    class Closing(Recorder):
        def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
            try:
                yield from super().generate(requests)
            finally:
                closed.append(True)

    def watch() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Caller(memo, Ledger(), watch=watch).generate("task", Closing(), requests("a", "b"))

    assert closed == [True]
    with memo.claim([key_of(request) for request in requests("a", "b")]) as claim:
        assert claim.theirs == []


def test_where_a_batch_is_the_unit_all_of_it_is_stored_or_nothing(memo: Memo) -> None:
    def handler(request: Request) -> Response:
        if request.context == "c":
            raise FinalModelError("out of memory")
        return Response("fine")

    with pytest.raises(FinalModelError):
        Caller(memo, Ledger()).generate("task", Recorder(handler, "batch"), requests(*"abcd"))
    assert stored(memo, *"abcd") == [False] * 4

    whole = Recorder(unit="batch")
    Caller(memo, Ledger()).generate("task", whole, requests(*"abcd"))
    assert whole.asked == ["a", "b", "c", "d"]
    assert stored(memo, *"abcd") == [True] * 4


@pytest.mark.parametrize("unit", ["reply", "batch"])
def test_a_failure_is_returned_and_never_stored_and_asked_again(memo: Memo, unit: Unit) -> None:
    model, ledger = Recorder(failing("b"), unit), Ledger()
    caller = Caller(memo, ledger)

    assert texts(caller.generate("task", model, requests("a", "b"))) == ["fine", "failed: broken"]
    assert stored(memo, "a", "b") == [True, False]
    assert ledger.failed == 1

    assert texts(caller.generate("task", model, requests("a", "b"))) == ["fine", "failed: broken"]
    assert model.asked == ["a", "b", "b"]
    assert ledger.failed == 1  # the same reply is missing, not another
    assert ledger.logical["task"].calls == 2

    model.handler = failing()
    assert texts(caller.generate("task", model, requests("a", "b"))) == ["fine", "fine"]
    assert ledger.failed == 0


@pytest.mark.parametrize(
    "garbage",
    [
        None,
        5,
        "text",
        [],
        {},
        {"text": "a"},
        {"text": 5, "label_logprobs": None, "usage": [1, 0, 1], "finish_reason": "stop"},
        {"text": "a", "label_logprobs": "x", "usage": [1, 0, 1], "finish_reason": "stop"},
        {"text": "a", "label_logprobs": None, "usage": [1, 0, 1, 5, 6], "finish_reason": "stop"},
        {"text": "a", "label_logprobs": None, "usage": ["1", 0, 1], "finish_reason": "stop"},
        {"text": "a", "label_logprobs": None, "usage": [1, 0, 1], "finish_reason": "done"},
    ],
)
def test_an_entry_that_is_no_response_is_asked_again_and_replaced(memo: Memo, garbage: Any) -> None:
    (request,) = requests("a")
    memo.put(key_of(request), garbage)
    model = Recorder()

    assert texts(Caller(memo, Ledger()).generate("task", model, [request])) == ["re: a"]
    assert model.asked == ["a"]
    assert memo.get(key_of(request)) == Response("re: a", usage=Usage(3, 0, 2)).to_json()


@pytest.mark.parametrize("finish", ["stop", "length", "refusal"])
def test_every_kind_of_reply_comes_back_from_the_memo_as_it_was(memo: Memo, finish: Finish) -> None:
    reply = Response("two\nlines 😀", (-0.5, -1.0), Usage(5, 2, 1), finish)

    def handler(request: Request) -> Response:
        return reply

    wanted = requests("a")
    Caller(memo, Ledger()).generate("task", Recorder(handler), wanted)
    silent = Recorder()

    assert Caller(memo, Ledger()).generate("task", silent, wanted) == [reply]
    assert silent.asked == []


@pytest.mark.parametrize("half", ["\ud83d", "\ude00 and \ud83d"])
def test_half_a_surrogate_pair_is_replaced_and_counted_the_same_from_the_memo(memo: Memo, half: str) -> None:
    (wanted,) = requests("a")

    def counted(model: Recorder) -> tuple[list[str], int]:
        caller = Caller(memo, Ledger())
        return texts(caller.generate("task", model, [wanted])), len(caller.repaired)

    first = counted(Recorder(lambda _: Response(f"fine {half}")))

    assert first == counted(Recorder())
    assert first[1] == 1
    assert "\ufffd" in first[0][0]
    first[0][0].encode()
    assert memo.get(key_of(wanted))["text"] == f"fine {half}"  # type: ignore[index]  # as entries of before


@pytest.mark.parametrize(("usage", "written"), [(Usage(5, 2, 1), [5, 2, 1]), (Usage(5, 2, 1, 3), [5, 2, 1, 3])])
def test_tokens_written_to_a_cache_are_stored_where_there_are_any(memo: Memo, usage: Usage, written: list[int]) -> None:
    reply = Response("fine", usage=usage)
    (wanted,) = requests("a")
    Caller(memo, Ledger()).generate("task", Recorder(lambda _: reply), [wanted])

    assert memo.get(key_of(wanted))["usage"] == written  # type: ignore[index]  # it is there
    assert Caller(memo, Ledger()).generate("task", Recorder(), [wanted]) == [reply]


# ---------------------------------------------------------------- budgets of tokens and dollars

PRICES = st.builds(
    Price,
    st.floats(0, 50),
    st.floats(0, 50),
    st.none() | st.floats(0, 50),
    st.none() | st.floats(0, 50),
)
LONGEST = 20  # of a reply; a context of one letter may take 1 + 16 + 16 tokens


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    read = draw(st.integers(0, 33))
    cached = draw(st.integers(0, read))
    return Usage(read, cached, draw(st.integers(0, LONGEST)), draw(st.integers(0, read - cached)))


@given(
    price=PRICES,
    used=st.lists(usages(), min_size=1, max_size=20),
    share=st.floats(0.01, 1.2),
    unit=st.sampled_from(["tokens", "dollars"]),
    known=st.sets(st.integers(0, 19)),
    width=st.integers(1, 8),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40)
def test_no_budget_is_overshot_and_the_same_calls_pass_whatever_the_memo_holds_and_in_any_order(  # noqa: PLR0917  given by name
    price: Price, used: list[Usage], share: float, unit: str, known: set[int], width: int, seed: int
) -> None:
    most = {"tokens": 53.0, "dollars": price.most(33, LONGEST)}[unit]
    limit = Budget(**{unit: max(share * len(used) * most, 1e-9)})
    wanted = [Request(context=chr(97 + i), max_tokens=LONGEST) for i in range(len(used))]
    replies = {request.context: Response("fine", usage=usage) for request, usage in zip(wanted, used, strict=True)}

    def run(memo: Memo, width: int) -> tuple[set[str], Ledger]:
        model = Flying(width, seed, lambda request: replies[request.context])
        model.price = price
        ledger = Ledger(limit)
        with contextlib.suppress(BudgetExhaustedError):
            Caller(memo, ledger).generate("task", model, wanted)
        for account in (ledger.logical, ledger.paid):
            assert getattr(ledger.total(account), unit) <= getattr(limit, unit)
        return set(ledger._asked), ledger

    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other, Memo(one) as empty:
        answered, alone = run(empty, 1)
        with Memo(other) as some:
            before = [wanted[i] for i in known if i < len(wanted)]
            Caller(some, Ledger()).generate("task", Flying(1, 0, lambda r: replies[r.context]), before)
            again, together = run(some, width)

    assert again == answered
    assert together.logical == alone.logical


def test_a_budget_that_ends_on_the_way_keeps_and_counts_what_was_paid(memo: Memo) -> None:
    ledger = Ledger(Budget(tokens=80))  # each call takes 5 and may take 1 + 16 + 16 + 5
    with pytest.raises(BudgetExhaustedError, match=r"45 of 80 tokens used or reserved, and .* may take 38"):
        Caller(memo, ledger).generate("task", Flying(3, 0), requests(*"abcdefghijklm"))

    assert ledger.total(ledger.paid).calls == 9
    assert stored(memo, *"abcdefghijklm") == [True] * 9 + [False] * 4


def test_a_call_that_could_overstep_waits_for_what_others_leave(memo: Memo) -> None:
    flights: list[int] = []

    def handler(request: Request) -> Response:
        flights.append(len(model.asked) - len(flights))
        return Response("fine", usage=Usage(3, 0, 2))

    model = Flying(8, 0, handler)
    Caller(memo, Ledger(Budget(tokens=100))).generate("task", model, requests(*"abcdefgh"))

    assert len(model.asked) == 8
    assert max(flights) == 2  # two may take 76, three 114


def test_an_error_gives_back_what_calls_in_flight_held(memo: Memo) -> None:
    def refuse(request: Request) -> Response:
        raise FinalModelError("no")

    ledger = Ledger(Budget(tokens=80))
    for _ in range(3):
        with pytest.raises(FinalModelError):
            Caller(memo, ledger).generate("task", Flying(2, 0, refuse), requests("a", "b"))


def test_a_budget_in_dollars_and_an_unknown_price_do_not_go_together(memo: Memo) -> None:
    class Unpriced(Recorder):
        price = None  # type: ignore[assignment]  # what the test is about

    model = Unpriced()
    with pytest.raises(InputError, match="needs the price of the judge model"):
        Caller(memo, Ledger(Budget(dollars=1))).generate("judge", model, requests("a"))
    assert model.asked == []


@pytest.mark.parametrize("limit", [Budget(), Budget(tokens=10_000)])
def test_under_any_budget_threads_that_want_the_same_wait_and_pay_once(tmp_path: Path, limit: Budget) -> None:
    gate = threading.Barrier(2, timeout=30)
    asked: list[str] = []

    def handler(request: Request) -> Response:
        asked.append(str(request.context))
        return Response("fine")

    with Memo(tmp_path) as memo:

        def ask(wanted: str) -> None:
            gate.wait()
            Caller(memo, Ledger(limit)).generate("task", Recorder(handler), requests(*wanted))
            memo.close()

        threads = [threading.Thread(target=ask, args=(wanted,)) for wanted in ("abcdef", "fedcba")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert sorted(asked) == list("abcdef")


# ---------------------------------------------------------------- stopping


def stopping(stop: Stop, after: str) -> Callable[[Request], Response]:
    def handler(request: Request) -> Response:
        stop.requested = stop.requested or request.context == after
        return Response("fine")

    return handler


def test_after_a_stop_nothing_more_is_pulled_and_what_is_in_flight_is_kept(memo: Memo) -> None:
    stop, sent = Stop(), 0

    def handler(request: Request) -> Response:
        nonlocal sent
        if request.context == "5":
            stop.requested, sent = True, len(model.asked)
        return Response("fine")

    model = Flying(width=4, seed=1, handler=handler)
    contexts = [str(i) for i in range(40)]
    with pytest.raises(StoppedError):
        Caller(memo, Ledger(), stop).generate("task", model, requests(*contexts))

    assert len(model.asked) == sent < 40
    assert stored(memo, *contexts) == [True] * sent + [False] * (40 - sent)


def test_a_stop_takes_effect_between_replies_of_a_batch_and_drops_it(memo: Memo) -> None:
    stop = Stop()
    model = Recorder(stopping(stop, "c"), "batch")
    with pytest.raises(StoppedError):
        Caller(memo, Ledger(), stop).generate("task", model, requests(*"abcdef"))

    assert model.asked == ["a", "b", "c"]
    assert stored(memo, *"abcdef") == [False] * 6


def test_after_a_stop_nothing_is_asked(memo: Memo) -> None:
    model = Recorder()
    with pytest.raises(StoppedError):
        Caller(memo, Ledger(), Stop(requested=True)).generate("task", model, requests("a"))

    assert model.asked == []


# ---------------------------------------------------------------- threads


class WatchedMemo(Memo):
    """Says when a thread finds that another one is computing what it wants."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.waiting = threading.Event()

    @contextmanager
    def claim(self, keys: Iterable[str]) -> Iterator[Claim]:
        with super().claim(keys) as claim:
            if claim.theirs:
                self.waiting.set()
            yield claim


@pytest.mark.parametrize(("first", "calls"), [(Response("fine"), 1), (Failure("broken"), 2)])
def test_two_threads_share_one_call_and_a_failed_one_is_tried_by_the_other(
    tmp_path: Path, first: Response | Failure, calls: int
) -> None:
    entered = threading.Event()
    ledgers = [Ledger(), Ledger()]
    replies: list[Response | Failure] = []
    with WatchedMemo(tmp_path) as memo:

        def handler(request: Request) -> Response | Failure:
            if entered.is_set():
                return Response("fine")
            entered.set()
            assert memo.waiting.wait(30)
            return first

        def ask() -> None:
            replies.extend(Caller(memo, ledgers[0]).generate("task", model, requests("a")))
            memo.close()  # this thread's connection

        model = Recorder(handler)
        other = threading.Thread(target=ask)
        other.start()
        assert entered.wait(30)
        mine = Caller(memo, ledgers[1]).generate("task", model, requests("a"))
        other.join()

    assert (texts(replies), texts(mine)) == (texts([first]), ["fine"])
    assert model.asked == ["a"] * calls
    assert [ledger.logical["task"].calls for ledger in ledgers] == [1, 1]
    assert sum(spent.calls for ledger in ledgers for spent in ledger.paid.values()) == calls


def test_a_reply_stored_between_look_and_claim_is_not_asked_again(tmp_path: Path) -> None:
    class Late(Memo):
        @contextmanager
        def claim(self, keys: Iterable[str]) -> Iterator[Claim]:
            wanted = list(keys)
            self.put(wanted[0], Response("from elsewhere").to_json())
            with super().claim(wanted) as claim:
                yield claim

    model = Recorder()
    with Late(tmp_path) as memo:
        replies = Caller(memo, Ledger()).generate("task", model, requests("a", "b"))

    assert texts(replies) == ["from elsewhere", "re: b"]
    assert model.asked == ["b"]
