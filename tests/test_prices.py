"""Prices of providers, without a network."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptopt import Price, Usage
from promptopt.models.hosted.prices import known_price


def test_prices_of_both_providers_are_known_with_what_their_caches_cost() -> None:
    assert known_price("openai", "gpt-4.1-mini") == Price(0.4, 1.6, 0.1)
    assert known_price("anthropic", "claude-haiku-4-5") == Price(1.0, 5.0, 0.1, 1.25)


def test_where_long_inputs_cost_more_the_price_is_that_of_short_ones() -> None:
    assert known_price("anthropic", "claude-sonnet-4-5") == Price(3.0, 15.0, 0.3, 3.75)


@pytest.mark.parametrize(
    ("provider", "model"),
    [("openai", "my-own-model"), ("nobody", "gpt-4.1-mini"), ("openai", "text-embedding-3-small"), ("openai", "")],
)
def test_a_price_that_is_not_known_is_none_and_not_zero(provider: str, model: str) -> None:
    assert known_price(provider, model) is None


def test_cached_and_written_input_have_prices_of_their_own() -> None:
    usage = Usage(input=1000, cached=600, output=100, written=300)

    assert Price(1.0, 10.0, 0.1, 1.25).of(usage) == pytest.approx((100 + 60 + 375 + 1000) / 1e6)
    assert Price(1.0, 10.0).of(usage) == pytest.approx((1000 + 1000) / 1e6)
    assert Price(1.0, 10.0, 0.0, 0.0).of(usage) == pytest.approx((100 + 1000) / 1e6)


PRICES = st.floats(0, 1000)


@given(
    price=st.builds(Price, PRICES, PRICES, st.none() | PRICES, st.none() | PRICES),
    parts=st.tuples(*[st.integers(0, 100_000)] * 4),
    spare=st.integers(0, 10),
)
def test_no_call_costs_more_than_the_most_that_its_tokens_can(price: Price, parts: tuple[int, ...], spare: int) -> None:
    fresh, cached, written, output = parts
    read = fresh + cached + written

    assert price.of(Usage(read, cached, output, written)) <= price.most(read + spare, output + spare)


def test_the_table_of_prices_is_loaded_when_it_is_used_and_not_before() -> None:
    code = "import sys, promptopt.cli, promptopt.models.hosted.prices; sys.exit('genai_prices' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_socket_is_opened_for_a_price() -> None:
    code = (
        "import sys; sys.addaudithook(lambda event, _: sys.exit(3) if event.startswith('socket.') else None)\n"
        "from promptopt.models.hosted.prices import known_price; sys.exit(known_price('openai', 'gpt-4.1-mini') is None)"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
