from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptopt.errors import BudgetExhaustedError, InputError
from promptopt.evaluation.ledger import Budget, Ledger, Spending
from promptopt.models.base import Price
from promptopt.models.usage import Bound
from promptopt.replies import NO_USAGE, Usage

PRICE = Price(1.0, 10.0)  # dollars for a million tokens
HUNDRED = Usage(60, 20, 40)


def used(ledger: Ledger) -> Spending:
    return ledger.total(ledger.logical)


# ---------------------------------------------------------------- budgets


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("500 calls", Budget(calls=500)),
        ("1 call", Budget(calls=1)),
        ("1_000 calls", Budget(calls=1000)),
        ("2k calls", Budget(calls=2000)),
        ("1M tokens", Budget(tokens=1e6)),
        ("1.5m tokens", Budget(tokens=1.5e6)),
        ("2B Tokens", Budget(tokens=2e9)),
        ("2 dollars", Budget(dollars=2)),
        ("$2.50", Budget(dollars=2.5)),
        ("$2 dollars", Budget(dollars=2)),
        ("0.5 USD", Budget(dollars=0.5)),
        ("3$", Budget(dollars=3)),
        (" 500calls , $2 ", Budget(calls=500, dollars=2)),
        ("1 call, 2 tokens, 3 dollars", Budget(calls=1, tokens=2, dollars=3)),
    ],
)
def test_budgets_are_read_from_words(text: str, budget: Budget) -> None:
    assert Budget.parse(text) == budget


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("500", "cannot read the budget '500': write '500 calls', '1M tokens' or '2 dollars'"),
        ("", "cannot read the budget ''"),
        ("many calls", "cannot read the budget 'many calls'"),
        ("5 euros", "cannot read the budget '5 euros'"),
        ("-5 calls", "cannot read the budget '-5 calls'"),
        ("1e3 calls", "cannot read the budget '1e3 calls'"),
        ("$5 calls", "cannot read the budget '\\$5 calls'"),
        ("1,000 calls", "cannot read the budget '1'"),
        ("5 calls,", "cannot read the budget ''"),
        ("5 calls, 6 calls", "the budget '5 calls, 6 calls' gives calls twice: give each once"),
        ("0 calls", "a budget of 0.0 calls allows nothing: give a positive number"),
    ],
)
def test_a_budget_that_cannot_be_meant_says_the_mend(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Budget.parse(text)


@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_budget_must_be_positive(value: float) -> None:
    with pytest.raises(InputError, match="allows nothing"):
        Budget(tokens=value)


def test_a_budget_reads_as_it_is_written() -> None:
    assert str(Budget(calls=1500, dollars=0.25)) == "1,500 calls, 0.25 dollars"
    assert str(Budget()) == "no limit"


# ---------------------------------------------------------------- counting


def test_a_call_costs_logically_once_and_really_as_often_as_it_is_made() -> None:
    ledger = Ledger()
    ledger.record("task", "a", HUNDRED, PRICE, paid=True)
    ledger.record("task", "a", HUNDRED, PRICE, paid=True)
    ledger.record("task", "a", HUNDRED, PRICE, paid=False)
    ledger.record("writer", "b", HUNDRED, None, paid=False)

    price = PRICE.of(HUNDRED)
    assert price == pytest.approx((60 * 1.0 + 40 * 10.0) / 1e6)
    assert ledger.logical == {"task": Spending(1, 60, 20, 40, price), "writer": Spending(1, 60, 20, 40, 0.0)}
    assert ledger.paid == {"task": Spending(2, 120, 40, 80, 2 * price)}
    assert used(ledger).calls == 2
    assert used(ledger).tokens == 200
    assert ledger.to_json()["writer"]["output_tokens"] == 40


def test_a_failure_is_one_lost_call_however_often_it_is_tried() -> None:
    ledger = Ledger()
    ledger.record_failure("task", "a")
    ledger.record_failure("task", "a")

    assert ledger.failed == 1
    assert used(ledger) == Spending(calls=1)
    assert ledger.paid["task"].calls == 1


def test_a_call_that_failed_and_was_made_again_counts_once_as_made() -> None:
    ledger = Ledger()
    ledger.record_failure("task", "a")
    ledger.record_failure("task", "a")
    ledger.record("task", "a", Usage(input=3, output=1), None, paid=True)
    ledger.record("task", "b", Usage(input=3, output=1), None, paid=False)

    assert ledger.paid["task"].calls == 1
    assert ledger.paid["task"].tokens == 4
    assert ledger.logical["task"].calls - ledger.paid["task"].calls == 1  # from the memo


def test_a_reply_after_a_failure_is_no_failure_and_brings_its_tokens() -> None:
    ledger, calm = Ledger(), Ledger()
    ledger.record_failure("task", "a")
    ledger.record("task", "a", HUNDRED, PRICE, paid=True)
    calm.record("task", "a", HUNDRED, PRICE, paid=True)

    assert ledger.failed == 0
    assert ledger.logical == calm.logical


# ---------------------------------------------------------------- limits


def test_calls_pass_to_the_last_one_and_no_further() -> None:
    ledger = Ledger(Budget(calls=3))
    for key in "ab":
        ledger.record("task", key, NO_USAGE, PRICE, paid=True)

    ledger.admit("task", ["c"])
    with pytest.raises(
        BudgetExhaustedError, match="budget exhausted: 2 of 3 calls used, and the next 2 calls need about 2"
    ):
        ledger.admit("task", ["c", "d"])
    ledger.admit("task", ["c"])  # the refusal took nothing


def test_calls_of_all_roles_count_together() -> None:
    ledger = Ledger(Budget(calls=1))
    ledger.record("writer", "a", NO_USAGE, PRICE, paid=True)

    with pytest.raises(BudgetExhaustedError):
        ledger.admit("task", ["b"])


def test_what_was_asked_before_is_free_and_twins_cost_once() -> None:
    ledger = Ledger(Budget(calls=2))
    ledger.record("task", "a", NO_USAGE, PRICE, paid=False)

    ledger.admit("task", ["a", "b", "b", "a", "b"])
    ledger.record("task", "b", NO_USAGE, PRICE, paid=True)
    ledger.admit("task", ["a", "b"])
    with ledger.stage("test", Budget(calls=1)):
        ledger.admit("task", ["a"])  # free even beyond the limit


def test_a_stage_has_its_own_limit_and_restores_the_former_one() -> None:
    ledger = Ledger(Budget(calls=5))
    with ledger.stage("search", Budget(calls=1)):
        assert (ledger.stage_name, ledger.limit) == ("search", Budget(calls=1))
    with pytest.raises(BudgetExhaustedError), ledger.stage("search", Budget(calls=1)):
        ledger.admit("task", ["a", "b"])

    assert (ledger.stage_name, ledger.limit) == ("", Budget(calls=5))
    ledger.admit("task", ["a", "b"])


@given(st.lists(st.sampled_from("abcdefg")), st.sets(st.sampled_from("abcdefg")), st.none() | st.floats(0.5, 9))
def test_a_budget_of_calls_covers_the_most_first_calls_that_are_admitted(
    keys: list[str], asked: set[str], limit: float | None
) -> None:
    ledger = Ledger()
    for key in asked:
        ledger.record("task", key, NO_USAGE, PRICE, paid=True)

    def admitted(count: int) -> bool:
        try:
            ledger.admit("task", keys[:count])
        except BudgetExhaustedError:
            return False
        return True

    with ledger.stage("search", Budget(calls=limit)):
        assert ledger.affordable(keys) == max(count for count in range(len(keys) + 1) if admitted(count))


@pytest.mark.parametrize(
    ("limit", "fits"), [(Budget(tokens=500), 4), (Budget(dollars=5 * 460e-6 + 1e-9), 4), (Budget(tokens=499), 3)]
)
def test_tokens_and_dollars_of_a_whole_batch_are_expected_to_be_as_before(limit: Budget, fits: int) -> None:
    ledger = Ledger(limit)
    ledger.record("task", "a", HUNDRED, PRICE, paid=True)
    keys = [str(i) for i in range(fits)]

    ledger.admit("task", keys, estimate_from_mean=True)
    with pytest.raises(BudgetExhaustedError):
        ledger.admit("task", [*keys, "one more"], estimate_from_mean=True)


def test_in_a_whole_batch_a_role_is_expected_to_take_what_it_took_itself() -> None:
    ledger = Ledger(Budget(tokens=1000))
    ledger.record("task", "a", Usage(5, 0, 5), PRICE, paid=True)
    ledger.record("writer", "b", Usage(500, 0, 0), PRICE, paid=True)

    ledger.admit("task", [str(i) for i in range(49)], estimate_from_mean=True)
    with pytest.raises(BudgetExhaustedError):
        ledger.admit("writer", ["c"], estimate_from_mean=True)


def test_the_first_whole_batch_of_a_role_passes_and_the_next_is_weighed() -> None:
    ledger = Ledger(Budget(tokens=10))
    ledger.admit("task", ["a"], estimate_from_mean=True)
    ledger.record("task", "a", HUNDRED, PRICE, paid=True)

    with pytest.raises(BudgetExhaustedError, match="budget exhausted: 10 of 10 tokens used"):
        ledger.admit("task", ["b"], estimate_from_mean=True)


def test_calls_in_flight_hold_back_the_most_that_they_can_use_until_they_are_settled() -> None:
    ledger = Ledger(Budget(tokens=100))
    ledger.reserve("task", "a", Bound(60))
    with pytest.raises(
        BudgetExhaustedError,
        match="budget exhausted: 60 of 100 tokens used or reserved, and the next call of the task model may take 50",
    ):
        ledger.reserve("task", "b", Bound(50))

    ledger.record("task", "a", Usage(20, 0, 10), PRICE, paid=True)
    ledger.reserve("writer", "b", Bound(70))
    ledger.record_failure("writer", "b")  # settled at zero
    ledger.reserve("task", "c", Bound(70))
    ledger.release(["c", "never reserved"])
    ledger.reserve("task", "d", Bound(70))


def test_a_reply_that_the_run_has_needs_no_reserve_and_a_failed_one_does() -> None:
    ledger = Ledger(Budget(tokens=100))
    ledger.record("task", "a", HUNDRED, PRICE, paid=True)
    ledger.record_failure("task", "b")

    ledger.reserve("task", "a", Bound(1000))
    with pytest.raises(BudgetExhaustedError):
        ledger.reserve("task", "b", Bound(1))


def test_dollars_add_up_to_the_same_in_whatever_order_they_come() -> None:
    price, usages = Price(0.1, 0.7, 0.03, 0.13), [Usage(7 * i, 2 * i, i % 5, i) for i in range(100)]

    def total(order: list[Usage]) -> float:
        ledger = Ledger()
        for i, usage in enumerate(order):
            ledger.record("task", str(i), usage, price, paid=True)
        return used(ledger).dollars

    assert total(usages) == total(usages[::-1]) == total(sorted(usages, key=lambda usage: usage.input % 11))


def test_what_is_left_of_each_limit() -> None:
    ledger = Ledger(Budget(calls=3, tokens=50))
    ledger.record("task", "a", HUNDRED, PRICE, paid=True)

    assert ledger.left() == {"calls": 2, "tokens": 0}
    assert Ledger().left() == {}
