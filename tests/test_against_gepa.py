"""The benchmark beside GEPA: its server, its writer, and how it counts, by our side alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from servers.landscape import TOPICS, TopicWords, World, judged, target_of, topic_of

from promptopt import HillClimb

if TYPE_CHECKING:
    from collections.abc import Iterator

WORDS = TopicWords(2, 2, 2)
FENCED = "Instructions:\n```\n{}\n```\nThe examples:\n```\n{}\n```"
TAGGED = "These work well:\n0.2: <prompt>{} {{text}}</prompt>\nwhy: {}\nwrite one better prompt. Between <prompt> and </prompt>"


@pytest.fixture(scope="module")
def benchmark() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent.parent)
        yield pytest.importorskip("benchmarks.against_gepa", reason="benchmarks come with a checkout only")


def words_in(text: str) -> set[str]:
    return {word for word in text.replace("<prompt>", " ").replace("</prompt>", " ").split() if word in WORDS.words}


def test_our_side_is_counted_by_the_server_within_its_budget_and_the_same_twice(benchmark: Any) -> None:
    first, again = (benchmark.ours(World(WORDS, 3), 400, HillClimb(restarts=100)) for _ in range(2))

    assert first == again
    assert set(first.calls) == {"task", "writer"}
    assert 300 < first.calls.total() <= 400
    assert WORDS.competence(first.prompt) > WORDS.competence(WORDS.seed_prompt)


@pytest.mark.parametrize(
    ("python", "reason"),
    [
        ("", "no --gepa-python names a Python that has gepa"),
        ("no/such/python", "no/such/python does not run"),
        (sys.executable, "has no gepa: pip install gepa there"),
    ],
)
def test_without_gepa_its_side_is_skipped_with_the_reason(benchmark: Any, python: str, reason: str) -> None:
    assert reason in benchmark.absent(python).reason


def test_the_writer_changes_two_words_of_the_prompt_in_either_form_of_message() -> None:
    start = {"letters0", "letters2", "digits0", "digits4"}
    for form in (FENCED, TAGGED):
        for seed in range(20):
            said = World(WORDS, seed, scores=False).answer(form.format(" ".join(sorted(start)), "right"))

            assert len(start ^ words_in(said)) in {0, 2}  # a word that was added may be dropped again


def test_in_either_form_the_topics_that_the_reward_names_come_first() -> None:
    _, why = judged("item2", "no" if target_of("item2") == "yes" else "yes")
    for form in (FENCED, TAGGED):
        for seed in range(20):
            said = World(WORDS, seed, scores=False).answer(form.format("digits0", why))

            assert all(word.startswith(topic_of("item2")) for word in words_in(said) - {"digits0"})


def test_the_writer_learns_from_scores_where_it_sees_any() -> None:
    shown = "0.9: <prompt>letters0 {text}</prompt>\n0.1: <prompt>letters3 {text}</prompt>\n0.8: <prompt>letters0 digits1 {text}</prompt>"
    learnt = [words_in(World(WORDS, seed).answer(f"{shown}\nwrite one better prompt")) for seed in range(40)]

    assert sum("letters0" in words for words in learnt) > 35
    assert not any("letters3" in words for words in learnt)


def test_the_task_model_is_right_as_often_as_the_words_of_the_prompt_say() -> None:
    prompt = "letters0 letters1 digits2 Answer:"
    items = [f"item{n}" for n in range(1600)]
    world = World(WORDS, 0)
    for topic, share in zip(TOPICS, (0.94, 0.02, 0.3, 0.3), strict=True):
        about = [item for item in items if topic_of(item) == topic]
        right = [judged(item, world.answer(f"{prompt} {item}"))[0] for item in about]

        assert WORDS.share(prompt, topic) == pytest.approx(share)
        assert sum(right) / len(right) == pytest.approx(share, abs=0.07)
