"""The local model that a server runs, beside the network's own forward pass and the local model itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from promptopt import Request, Response

pytest.importorskip("torch", reason="the extra 'local' is not installed")

import torch
from transformers import AutoModelForCausalLM

from promptopt.models.local import LocalModel, token_scores
from promptopt.models.local.served import ServedModel
from promptopt.models.local.trie import all_segments, merge

if TYPE_CHECKING:
    from pathlib import Path

Ids = tuple[int, ...]


@pytest.fixture(scope="module")
def network(tiny_llama: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_llama)


@pytest.fixture
def model(tiny_llama: Path) -> ServedModel:
    return ServedModel(str(tiny_llama), dtype="float32", device="cpu")


def drawn(seed: int, *lengths: int) -> list[Ids]:
    rng = np.random.default_rng(seed)
    return [tuple(rng.integers(5, 300, length).tolist()) for length in lengths]


def test_segments_are_runs_along_one_sequence_at_multiples_of_their_size() -> None:
    (stem,) = drawn(0, 9)
    trie = merge([(*stem, 5, 6, 7, 8), (*stem, 5, 6, 9), (*stem[:2], 4), (3, 3, 3, 3), (2, 2, 2, 2, 2)])
    found = {
        tuple(trie.tokens[start:stop].tolist()): int(trie.depths[start])
        for start, stop in all_segments(trie, np.zeros(0, np.int64), 4)
    }
    assert found == {(2, 2, 2, 2): 0, stem[4:8]: 4, (stem[8], 5, 6, 7): 8}  # but none that ends a sequence


def test_scores_are_those_of_the_network_whether_kept_or_computed(model: ServedModel, network: Any) -> None:
    stem, *tails = drawn(1, 140, 1, 20, 60, 90, 0)
    sequences = [stem + tail for tail in tails] + [stem[:128], (7,), stem[:128] + tails[2]]
    computed = []
    for turn in range(3):
        for count in (1, 3):
            before = model.computed_tokens
            for sequence, scores in zip(sequences, model.scores(sequences, count), strict=True):
                expected = network(torch.tensor([sequence])).logits[0].log_softmax(-1).detach()
                own = expected[torch.arange(len(sequence) - 1), list(sequence[1:])]
                np.testing.assert_allclose(scores.logprobs[1:], own, atol=1e-4, err_msg=f"turn {turn}")
                np.testing.assert_allclose(scores.likeliest, expected.topk(count).values, atol=1e-4)
                np.testing.assert_allclose(
                    expected.gather(1, torch.from_numpy(scores.tokens)), scores.likeliest, atol=1e-4
                )
                assert np.isnan(scores.logprobs[0])
            computed.append(model.computed_tokens - before)
    # More of the likeliest are not in the cache yet; after that only what comes after the segments is computed.
    assert computed[1] > 128 > computed[3] - len({*map(len, tails)}) * 128
    assert computed[3:] == computed[3:4] * 3
    assert computed[3] <= computed[0] - 128


def test_the_cache_of_scores_forgets_what_was_used_least_recently(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_scores, "_MAX_SEGMENTS", 2)
    first, second, third = drawn(2, 130, 130, 130)
    for sequence in (first, second, first, third):
        model.scores([sequence], 1)
    kept = model._segment_scores
    counts = [kept.get(merge([ids[:128]]).tokens.tobytes(), 1) is not None for ids in (first, second, third)]
    assert counts == [True, False, True]


def test_rows_that_join_and_leave_change_no_other_row(model: ServedModel, tiny_llama: Path) -> None:
    texts = [
        "Review:",
        "Answer with yes or no.",
        "naïve and short",
        "Review: a dull evening\nSentiment:",
        "Answer with",
    ]
    requests = [
        Request(context=text, max_tokens=6 + 5 * i, temperature=0.8 * (i % 2), replicate=i)
        for i, text in enumerate(texts)
    ]
    arrivals = LocalModel(str(tiny_llama), dtype="float32", device="cpu").generate(requests)
    expected = {arrival.number: arrival.reply for arrival in arrivals}

    decoding, found, last = model.decoding(), {}, len(requests) - 1
    decoding.add(requests[:2], [model.prompt(request.context) for request in requests[:2]], [None, 2])
    rows = []
    for step in range(100):
        if step in {2, 3, 5}:  # in the last two cases beside rows that have tokens already
            added = len(expected) - (5 - 2 - [2, 3, 5].index(step))
            decoding.add([requests[added]], [model.prompt(requests[added].context)])
        if step == 8:
            decoding.drop([last])
        rows += decoding.step()
        if not len(decoding):
            break
    found = {row.number: row.reply for row in rows}
    assert found == {number: reply for number, reply in expected.items() if number != last}

    shown = next(row for row in rows if row.number == 1)
    prompt = model.prompt(requests[1].context)
    scores = model.scores([prompt + shown.tokens], 2)[0]
    places = slice(len(prompt), None)
    np.testing.assert_allclose([place.logprob for place in shown.likeliest], scores.logprobs[places], atol=1e-4)
    np.testing.assert_allclose(
        [place.logprobs for place in shown.likeliest], scores.likeliest[len(prompt) - 1 : -1], atol=1e-4
    )
    assert isinstance(shown.reply, Response)


def test_the_texts_of_tokens_concatenate_to_the_text(model: ServedModel) -> None:
    text = "naïve 日本 review: </s> \N{SLIGHTLY SMILING FACE}"
    tokens = model.tokenize(text)
    assert "".join(tokens.texts) == text
    assert len(tokens.texts) == len(tokens.ids)
    assert tokens.ids == model.prompt(text)
