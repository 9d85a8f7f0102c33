"""The sampler against the definitions of temperature, top-k and top-p, written out token by token."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scipy import stats

pytest.importorskip("torch", reason="the extra 'local' is not installed")

import torch

from promptopt.models.local import sampling
from promptopt.models.local.sampling import choose

ROUNDING = 1e-5  # of probabilities that come from float32 logits
LAST = 1 - 2**-53  # the highest uniform number that there is


class Row(NamedTuple):
    logits: list[float]
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    uniform: float = 0.5


def chosen(*rows: Row) -> list[int]:
    columns = zip(*rows, strict=True)
    logits, temperatures, top_ps, top_ks, uniforms = (list(column) for column in columns)
    tokens = choose(
        torch.tensor(logits, dtype=torch.float32),
        torch.tensor(temperatures, dtype=torch.float64),
        torch.tensor(top_ps, dtype=torch.float64),
        torch.tensor(top_ks),
        torch.tensor(uniforms, dtype=torch.float64),
    )
    assert tokens.dtype == torch.int64
    return tokens.tolist()


def after_top_k(row: Row) -> dict[int, float]:
    """Return the tokens that top-k leaves, likeliest first, with their probabilities."""
    logits = np.array(row.logits, dtype=np.float32)
    weights = np.exp((logits - logits.max()).astype(np.float64) / row.temperature).tolist()
    order = sorted(range(len(weights)), key=lambda token: (-weights[token], token))[: row.top_k or None]
    return {token: weights[token] / math.fsum(weights[token] for token in order) for token in order}


def left(row: Row) -> dict[int, float]:
    """Return the tokens that top-k and then top-p leave, likeliest first, with their probabilities."""
    shares = after_top_k(row)
    reached = list(accumulate(shares.values()))
    enough = [n for n, sum_ in enumerate(reached, start=1) if sum_ >= row.top_p and row.top_p < 1]
    count = min(enough, default=len(reached))
    return {token: share / reached[count - 1] for token, share in list(shares.items())[:count]}


def is_clear(row: Row) -> bool:
    """Whether rounding cannot change how many tokens reach top-p."""
    return row.top_p == 1 or all(abs(sum_ - row.top_p) > ROUNDING for sum_ in accumulate(after_top_k(row).values()))


# Often equal, as they are where they are computed in 16 bits.
LOGITS = st.one_of(st.sampled_from([-1.5, -0.0, 0.0, 0.25, 2.0]), st.integers(-400, 400).map(lambda n: n / 64))
PROBABILITIES = st.one_of(st.just(1.0), st.floats(1e-6, 1.0))


@st.composite
def batches(draw: st.DrawFn) -> list[Row]:
    vocabulary = draw(st.integers(1, 12))
    row = st.builds(
        Row,
        logits=st.lists(LOGITS, min_size=vocabulary, max_size=vocabulary),
        temperature=st.sampled_from([0.25, 0.7, 1.0, 3.0]),
        top_p=PROBABILITIES,
        top_k=st.integers(0, vocabulary + 2),
        uniform=st.one_of(st.sampled_from([0.0, LAST]), st.floats(0, LAST)),
    )
    return draw(st.lists(row, min_size=1, max_size=5))


@pytest.mark.parametrize("head", [1, 3, 256])
@given(batch=batches())
def test_the_token_is_the_one_in_whose_share_the_uniform_number_falls(head: int, batch: list[Row]) -> None:
    assume(all(map(is_clear, batch)))
    with mock.patch.object(sampling, "_SORTED_FIRST", head):
        tokens = chosen(*batch)

    for row, token in zip(batch, tokens, strict=True):
        shares = left(row)
        assert token in shares
        end = math.fsum(share for other, share in list(shares.items())[: list(shares).index(token) + 1])
        assert end - shares[token] - ROUNDING <= row.uniform <= end + ROUNDING


@given(batch=batches())
def test_a_row_gets_the_same_token_alone_and_in_a_batch_whatever_is_put_in_order_first(batch: list[Row]) -> None:
    alone = [chosen(row)[0] for row in batch]
    with mock.patch.object(sampling, "_SORTED_FIRST", 2):
        assert chosen(*batch) == alone
    assert chosen(*batch) == alone


@example(logits=[-0.0, 0.0], uniform=0.0)
@given(logits=st.lists(LOGITS, min_size=1, max_size=12), uniform=st.floats(0, LAST))
def test_three_ways_to_the_likeliest_token_which_of_several_is_that_of_lowest_id(
    logits: list[float], uniform: float
) -> None:
    likeliest = min(range(len(logits)), key=lambda token: (-logits[token], token))
    row = Row(logits, uniform=uniform)
    cold, narrow, single = row._replace(temperature=0.0), row._replace(top_p=1e-9), row._replace(top_k=1)

    assert chosen(cold, narrow, single) == [likeliest] * 3


@pytest.mark.parametrize("head", [2, 256])
def test_with_top_p_and_top_k_at_their_ends_every_token_has_its_share(head: int) -> None:
    logits = [math.log(weight) for weight in (1, 2, 4, 8, 1)]
    at = [0.0, 7.9, 8.1, 11.9, 12.1, 13.9, 14.1, 14.9, 15.1, 15.9]  # in sixteenths; the likeliest come first
    rows = [Row(logits, uniform=sixteenths / 16) for sixteenths in at]

    with mock.patch.object(sampling, "_SORTED_FIRST", head):
        assert chosen(*rows) == [3, 3, 2, 2, 1, 1, 0, 0, 4, 4]


def test_top_k_comes_before_top_p() -> None:
    # Of the four, 1/2 1/4 1/8 1/8, top-k leaves 2/3 1/3; only then do the likeliest reach 0.6 with one token.
    logits = [math.log(weight) for weight in (4, 2, 1, 1)]

    assert chosen(Row(logits, top_p=0.6, top_k=2, uniform=0.9)) == [0]
    assert chosen(Row(logits, top_p=0.6, top_k=0, uniform=0.9)) == [1]


def test_exactly_reached_top_p_takes_no_further_token() -> None:
    assert chosen(*(Row([0.0] * 4, top_p=0.5, uniform=u) for u in (0.0, 0.49, 0.51, LAST))) == [0, 0, 1, 1]


def test_a_share_begins_with_its_lower_end() -> None:
    assert chosen(*(Row([0.0] * 4, uniform=u) for u in (0.0, 0.25, 0.5, 0.75))) == [0, 1, 2, 3]


def test_a_token_that_cannot_be_is_never_taken() -> None:
    never = -math.inf
    rows = [Row([never, 1.0, never, 0.5, never], uniform=u, top_k=k) for u in (0.0, LAST) for k in (0, 4)]
    many = np.random.default_rng(5).normal(scale=10, size=(50, 600)).tolist()

    assert chosen(*rows) == [1, 1, 3, 3]
    assert 600 not in chosen(*(Row([*logits, never], uniform=LAST) for logits in many))


def test_in_a_long_tail_every_token_has_its_share() -> None:
    weight, count = math.exp(-20), 100_000
    logits = [0.0, *[-20.0] * count]
    at = [10_000, 50_000, 99_999]
    rows = [Row(logits, uniform=(1 + weight * (token - 0.5)) / (1 + weight * count)) for token in at]

    assert chosen(*rows) == at


@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e-30])
def test_a_temperature_next_to_nothing_takes_the_likeliest(temperature: float) -> None:
    assert chosen(Row([0.0, 1.0, 0.999], temperature=temperature, uniform=LAST)) == [1]


@pytest.mark.parametrize(
    "settings", [{}, {"top_k": 400}, {"top_p": 0.9}, {"top_k": 3000, "top_p": 0.9}, {"top_k": 400, "top_p": 0.5}]
)
def test_a_large_vocabulary_is_searched_to_its_end(settings: dict[str, Any]) -> None:
    row = Row(np.random.default_rng(3).normal(size=5000).tolist(), uniform=LAST, **settings)

    assert chosen(row) == list(left(row))[-1:]


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.7},
        {"temperature": 1.5, "top_p": 0.8},
        {"temperature": 1.0, "top_k": 3},
        {"temperature": 2.0, "top_p": 0.7, "top_k": 5},
    ],
)
def test_frequencies_are_the_probabilities(settings: dict[str, Any]) -> None:
    draws = 20_000
    row = Row([0.3, -1.0, 2.0, 0.0, 1.1, -0.4, 0.7, -2.0], **settings)
    uniforms = np.random.default_rng(7).random(draws).tolist()
    counts = np.bincount(chosen(*(row._replace(uniform=u) for u in uniforms)), minlength=len(row.logits))
    shares = left(row)
    expected = np.array([draws * shares.get(token, 0.0) for token in range(len(row.logits))])
    can_be = expected > 0

    assert counts[~can_be].sum() == 0
    distance = ((counts - expected)[can_be] ** 2 / expected[can_be]).sum()
    assert distance < stats.chi2.isf(1e-3, df=can_be.sum() - 1)
