"""Hill climbing: what it shows, what it keeps, and that its lessons are worth something."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import toys

from promptopt import (
    Example,
    FakeLabelModel,
    FakeModel,
    HillClimb,
    InputError,
    Prompt,
    RandomSearch,
    Request,
    Task,
    optimize,
)
from promptopt.replies import Response
from promptopt.scores import Scores
from promptopt.search.archive import Archive
from promptopt.search.run import Run
from promptopt.statistics import shrunken_means
from promptopt.strategies.chain import Chain
from promptopt.strategies.registry import find_strategy, settings_of

if TYPE_CHECKING:
    from promptopt import Result, Strategy

GOLDEN = Path(__file__).with_name("golden") / "hillclimb.paper.json"
SMALL = {"restarts": 1, "resets": 1}


def climb(strategy: Strategy, memo: Path, seed: int = 0, task: Task = toys.TASK) -> tuple[Result, list[str]]:
    """Return the result, and what the writer was shown."""
    shown: list[str] = []

    def writer(request: Request) -> str:
        shown.append(toys.text_of(request.context))
        return toys.writer(request)

    result = optimize(task, FakeModel(toys.answer), strategy, writer=FakeModel(writer, "w"), seed=seed, memo=memo)
    return result, [text for text in shown if "{text}" in text]


# ---------------------------------------------------------------- a landscape that the strategies do not know

WORDS = tuple(f"{kind}{n}" for kind in ("alpha", "beta", "gamma") for n in range(8))
WORTH = {word: (0.08, -0.08, 0.0)[n // 8] for n, word in enumerate(WORDS)}


def chance(*of: object) -> float:
    return int.from_bytes(hashlib.sha256(repr(of).encode()).digest()[:6]) / 2**48


def competence(text: str) -> float:
    """The hidden map: alphas help, betas harm, gammas do nothing."""
    return min(max(0.3 + sum(WORTH.get(word, 0.0) for word in set(text.split())), 0.02), 0.98)


def pupil(request: Request) -> str:
    """Right with the prompt's competence: half of the luck is the item's, half is new to each prompt."""
    text = toys.text_of(request.context)
    item = re.findall(r"item\d+", text)[-1]
    right = (chance(item) + chance(text)) / 2 < competence(text)
    return toys.right_answer(text) if right else toys.LABELS[1 - toys.LABELS.index(toys.right_answer(text))]


def scripted(request: Request) -> str:
    """A writer that changes two words of the best prompt it is shown, and learns from scores where it sees any.

    Of words to add it prefers those that stand in better prompts, of words to drop those that stand in worse ones.
    """
    text = toys.text_of(request.context)
    shown = [found for found in re.findall(r"(-?[\d.]+: )?<prompt>(.*?)</prompt>", text) if "{text}" in found[1]]
    if not shown:
        return "ready"
    wanted = re.search(r"write (\d+) ", text)
    scored = [(float(score[:-2]), set(prompt.split())) for score, prompt in shown if score]
    start = max(shown, key=lambda found: float(found[0][:-2] or 0))[1].split()
    out = []
    for n in range(int(wanted[1]) if wanted else 1):
        words, salt = list(start), (text, request.replicate, n)
        for change in range(2):
            luck = {word: chance(word, change, *salt) for word in WORDS}
            liked = {word: luck[word] + 8 * lesson(word, scored) for word in WORDS}
            new, old = (set(WORDS) - set(words)), set(WORDS) & set(words)
            if new and (chance("add", change, *salt) < 0.6 or not old):
                words.insert(0, max(sorted(new), key=liked.__getitem__))
            elif old:
                words.remove(min(sorted(old), key=liked.__getitem__))
        out.append(f"<prompt>{' '.join(words)}</prompt>")
    return "\n".join(out)


def lesson(word: str, scored: list[tuple[float, set[str]]]) -> float:
    with_, without = ([score for score, words in scored if (word in words) == has] for has in (True, False))
    return sum(with_) / len(with_) - sum(without) / len(without) if with_ and without else 0.0


def landscape() -> Task:
    splits = {
        split: tuple(Example({"text": f"item{1000 * k + i}"}, toys.LABELS[i % 2], f"{split}{i}") for i in range(size))
        for k, (split, size) in enumerate((("train", 24), ("validation", 16)))
    }
    return Task(**splits, seed_prompt=Prompt("gamma0 beta1 Answer: {text}"), labels=toys.LABELS)  # type: ignore[arg-type]


def climb_landscape(strategy: Strategy, memo: Path, seed: int) -> Result:
    return optimize(
        landscape(),
        FakeModel(pupil),
        strategy,
        writer=FakeModel(scripted, "w"),
        seed=seed,
        budget="1100 calls",
        memo=memo,
    )


def quality(strategy: Strategy, memo: Path, seed: int) -> float:
    result = climb_landscape(strategy, memo, seed)
    assert sum(spent.calls for spent in result.used.values()) <= 1100
    return competence(result.prompt.text)


@pytest.mark.proof
def test_it_beats_random_search_and_the_control_without_scores_at_equal_calls_over_twenty_seeds(tmp_path: Path) -> None:
    rivals: dict[str, Strategy] = {
        "climb": HillClimb(restarts=20),
        "random": RandomSearch(prompts=1000),
        "blind": HillClimb(restarts=20, control="random"),
    }
    found = {name: [quality(rival, tmp_path, seed) for seed in range(20)] for name, rival in rivals.items()}

    assert all(ours > theirs for ours, theirs in zip(found["climb"], found["random"], strict=True))
    assert np.mean(found["climb"]) > np.mean(found["blind"]) + 0.1


# ---------------------------------------------------------------- shrunk scores


def measured(rng: np.random.Generator, few: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Return true qualities of 60 prompts, and rewards on 64 items, of which most prompts met the first few only."""
    quality = rng.normal(0.6, 0.05, 60)
    rewards = quality[:, None] + rng.normal(0, 0.2, 64) + rng.normal(0, 0.4, (60, 64))
    rewards[15:, few:] = np.nan
    return quality, rewards


def test_the_pick_by_shrunk_scores_is_better_and_less_flattered() -> None:
    """Regret and flattery of the winner, over 200 draws: by the mean as measured, and by the shrunk score."""
    regrets, flattery = np.zeros((2, 200)), np.zeros((2, 200))
    for draw in range(200):
        quality, rewards = measured(np.random.default_rng(draw))
        items = np.nanmean(rewards[:15].mean(axis=0)) - quality[:15].mean()  # the draw's items may be easy for all
        for way, scores in enumerate((np.nanmean(rewards, axis=1), shrunken_means(rewards))):
            best = int(np.argmax(scores))
            regrets[way, draw] = quality.max() - quality[best]
            flattery[way, draw] = scores[best] - items - quality[best]

    raw, better = regrets.mean(axis=1)
    assert better < 0.85 * raw
    assert abs(flattery[1].mean()) < 0.2 * flattery[0].mean()


def test_prompts_that_differ_by_noise_alone_are_all_alike() -> None:
    rewards = np.array([[0.0, 1, 0, 1], [1, 0, 1, 0], [1, 0, 0, 1]])

    assert shrunken_means(rewards) == pytest.approx(0.5)


def test_without_noise_nothing_is_shrunk_and_easy_items_are_no_merit() -> None:
    rewards = np.array([0.1, 0.3, 0.8])[:, None] + np.array([0.2, 0.0, -0.1, -0.1])
    shown = rewards.copy()
    shown[0, 1:] = np.nan

    assert shrunken_means(shown) == pytest.approx(rewards.mean(axis=1))


@pytest.mark.parametrize("rewards", [[[0.0, 1.0, np.nan]], [[0.2], [0.4]]])
def test_where_noise_cannot_be_told_the_means_stay(rewards: list[list[float]]) -> None:
    assert shrunken_means(np.array(rewards)) == pytest.approx(np.nanmean(rewards, axis=1))


# ---------------------------------------------------------------- what it does


def chain_of(rewards: list[list[float]]) -> tuple[Chain, list[Prompt]]:
    """Return a chain that knows prompts by their rewards on its items, NaN where one met none."""
    items = landscape().train[: len(rewards[0])]
    chain, prompts = Chain(items, (), Archive()), [Prompt(f"{n} {{text}}") for n in range(len(rewards))]
    for prompt, row in zip(prompts, rewards, strict=True):
        met = [e for e, reward in enumerate(row) if not np.isnan(reward)]
        cells = np.array([[[row[e]] for e in met]])
        said = (tuple((Response("yes"),) for _ in met),)
        scores = Scores((prompt,), tuple(items[e] for e in met), cells, said, (tuple(("",) for _ in met),))
        chain.archive.add(scores.prompts, scores.examples, scores.rewards)
        chain.add(scores)
    return chain, prompts


def test_only_proposals_that_are_ahead_of_the_best_on_the_same_items_go_on() -> None:
    none = np.nan
    chain, (best, *new) = chain_of([[1, 0, 0, 1], [0, 1, 1, none], [1, 0, 0, none], [1, 1, 0, none], [0, 0, 0, none]])

    assert chain.ahead(new, best) == [new[0], new[2]]


def test_luck_on_a_few_items_makes_no_prompt_the_one_to_beat() -> None:
    none = np.nan
    chain, prompts = chain_of([[0, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, none], [0, 1, none, none]])

    assert [shown.prompt for shown in chain.ranked()] == [prompts[n] for n in (1, 2, 3, 0)]


def test_proposals_meet_first_two_items_to_mend_then_one_to_keep() -> None:
    chain, (best, _) = chain_of([[1, 0, 1, 0, 0, 1, 0, 1], [1, 1, 1, 1, 1, 1, 1, 1]])
    run = Run(landscape(), np.random.default_rng(0), 0, None)  # type: ignore[arg-type]  # nothing is scored

    ordered = chain.ordered_for_screening(run, best, [chain.examples[4], chain.examples[3]])
    order = [chain.examples.index(item) for item in ordered]

    assert sorted(order) == list(range(8))
    assert [int(reward) for reward in chain.archive.rewards([best], ordered)[0]] == [0, 0, 1, 0, 0, 1, 1, 1]
    assert {order[0], order[1]} == {3, 4}, "the writer was told of them"


def test_once_the_forecast_proves_right_twice_as_many_are_written_and_the_likelier_half_is_measured(
    tmp_path: Path,
) -> None:
    climbed, single = (climb_landscape(HillClimb(drafts=drafts), tmp_path / f"{drafts}", 0) for drafts in (2, 1))

    assert {step["new"] for step in climbed.steps} >= {8, 16}
    assert all(step["measured"] <= 8 for step in climbed.steps)
    assert all(step["new"] == step["measured"] <= 8 for step in single.steps)
    alone = climb_landscape(HillClimb(proposals=1, drafts=4, iterations=20), tmp_path / "alone", 1)
    assert any(step["new"] == 4 for step in alone.steps)
    assert all(step["measured"] <= 2 for step in alone.steps)


def test_the_message_shows_items_that_tell_the_best_prompt_from_the_others(tmp_path: Path) -> None:
    _, shown = climb(HillClimb(**SMALL), tmp_path)  # type: ignore[arg-type]
    message = next(text for text in shown if "better prompts" in text)

    assert "falls short" in message
    assert re.search(r"<item>\ntext: item\d+\nwanted: (yes|no)\nreply: (yes|no)\nreward: 0\nwhy: said", message)


@pytest.mark.parametrize(
    ("strategy", "has", "has_not"),
    [
        (HillClimb(style="lists", **SMALL), "Good prompts:", "The task:"),  # type: ignore[arg-type]
        (HillClimb(style="scale", **SMALL), "the best last", "reply:"),  # type: ignore[arg-type]
        (HillClimb(style="criticism", **SMALL), "<criticism>", "These work badly"),  # type: ignore[arg-type]
        (HillClimb(control="random", **SMALL), "in no order", ": <prompt>"),  # type: ignore[arg-type]
        (HillClimb(control="paraphrase", **SMALL), "in other words", "better prompt"),  # type: ignore[arg-type]
        (HillClimb(bad=0, **SMALL), "These prompts work well", "These work badly"),  # type: ignore[arg-type]
    ],
)
def test_styles_and_controls_are_settings(strategy: HillClimb, has: str, has_not: str, tmp_path: Path) -> None:
    result, shown = climb(strategy, tmp_path)

    assert len(result.steps) == 5
    asked = [text for text in shown if has in text]
    assert asked
    assert not any(has_not in text for text in asked)


def test_a_control_asks_and_scores_as_often_as_the_climb(tmp_path: Path) -> None:
    for control in ("", "random", "paraphrase"):
        result, _ = climb(HillClimb(control=control), tmp_path / control)

        assert len(result.steps) == 20
        assert all(step["measured"] <= 8 for step in result.steps)


def test_a_writer_that_only_repeats_what_it_is_shown_is_asked_for_other_words(tmp_path: Path) -> None:
    asked: list[str] = []

    def writer(request: Request) -> str:
        text = toys.text_of(request.context)
        shown = [found for found in re.findall(r"<prompt>(.*?)</prompt>", text) if "{text}" in found]
        if not shown:
            return "ready"
        asked.append("other words" if "in other words" in text else "better")
        return f"<prompt>{shown[-1]}{' please' if asked[-1] == 'other words' else ''}</prompt>"

    def steps(**settings: object) -> list[str]:
        asked.clear()
        strategy = HillClimb(restarts=1, iterations=4, pool=1, proposals=1, **settings)  # type: ignore[arg-type]
        optimize(toys.TASK, FakeModel(toys.answer), strategy, writer=FakeModel(writer, repr(settings)), memo=tmp_path)
        return [kind for kind, _ in groupby(asked)]  # what is no use is asked for again at once

    assert steps() == ["better", "other words"] * 2
    assert steps(style="scale") == steps(control="random") == ["better"]


def test_a_chain_ends_when_it_gets_no_better_and_its_messages_go_to_fresh_ones(tmp_path: Path) -> None:
    fixed, _ = climb(HillClimb(patience=0), tmp_path)
    patient, _ = climb(HillClimb(patience=2), tmp_path)

    assert [step["chain"] for step in fixed.steps] == [n // 5 for n in range(20)]
    assert len(patient.steps) == 20
    assert patient.steps[-1]["chain"] > 4


def test_the_records_say_what_was_rejected_and_why(tmp_path: Path) -> None:
    result, _ = climb(HillClimb(), tmp_path)

    assert any(step["rejected"] > 0 and "identical to a known prompt" in step["why"] for step in result.steps)
    for step in result.steps:
        assert step["rejected"] == sum(map(int, re.findall(r"\d+", step["why"])))


def test_racing_drops_prompts_that_are_not_ahead_early_and_loses_no_optimum(tmp_path: Path) -> None:
    task = replace(toys.TASK, **toys.splits(48))  # type: ignore[arg-type]  # of fields
    raced, _ = climb(HillClimb(), tmp_path / "raced", task=task)
    whole, _ = climb(HillClimb(racing=False), tmp_path / "whole", task=task)

    assert {record.cells for record in raced.history} >= {3, 48}
    assert {record.cells for record in whole.history} == {48}
    for result in (raced, whole):
        assert result.test is not None
        assert result.test.chosen.estimate == 1.0
    assert raced.used["task"].calls < whole.used["task"].calls
    assert all(record.parent is not None for record in raced.history[1:])


def test_ties_are_broken_by_the_margin_of_the_labels(tmp_path: Path) -> None:
    """All prompts are right everywhere; of two wordings the surer is climbed from."""

    def logprobs(context: object, labels: object) -> list[float]:
        text = toys.text_of(context)  # type: ignore[arg-type]
        sure = 3.0 if "surely" in text else 1.0
        return [-0.1 if label == toys.right_answer(text) else -0.1 - sure for label in toys.LABELS]

    shown: list[str] = []

    def writer(request: Request) -> str:
        shown.append(toys.text_of(request.context))
        return "<prompt>Plainly {text}</prompt><prompt>Say surely {text}</prompt>"

    optimize(
        toys.TASK, FakeLabelModel(logprobs), HillClimb(restarts=1, resets=1, iterations=2, pool=1),
        writer=FakeModel(writer), memo=tmp_path,
    )  # fmt: skip

    assert "higher is better):\n1: <prompt>Say surely {text}</prompt>" in shown[-1]


def test_the_pool_may_be_the_users_and_each_restart_draws_from_it(tmp_path: Path) -> None:
    file = tmp_path / "pool.txt"
    file.write_text("".join(f"Prompt {n} {{text}}\n" for n in range(20)))
    strategy = find_strategy("hillclimb", {"prompts": str(file), "pool": "5", "patience": "0", "style": "scale"})
    result, shown = climb(strategy, tmp_path / "memo")
    drawn = [record.prompt.text for record in result.history if re.match(r"Prompt \d+ ", record.prompt.text)]

    assert 4 < len(set(drawn)) <= 16
    assert not any("in other words" in text for text in shown)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pool": 0}, "pool must be at least 1, not 0"),
        ({"patience": -1}, "patience must be at least 0, not -1"),
        ({"style": "opro"}, "style must be 'contrastive', 'lists', 'scale' or 'criticism', not 'opro'"),
        ({"control": "blind"}, "control must be 'paraphrase', 'random' or '', not 'blind'"),
        ({"prompts": "nowhere.txt"}, "cannot read the pool of prompts nowhere.txt"),
        ({"meta": "nowhere"}, "no folder 'nowhere' of meta-prompts"),
    ],
)
def test_a_wrong_setting_says_the_mend(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        HillClimb(**settings)  # type: ignore[arg-type]


def test_a_prompt_of_the_pool_with_a_wrong_slot_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the prompt 'Read \{txt\}' of the pool has the slot \{txt\}"):
        climb(HillClimb(prompts=("Read {txt}",)), tmp_path)


def test_the_papers_pool_is_asked_for_eight_at_a_time_and_its_message_asks_for_fewer_than_15_words(
    tmp_path: Path,
) -> None:
    strategy = replace(HillClimb.paper(), restarts=1, resets=1, iterations=1, pool=20)
    _, shown = climb(strategy, tmp_path)
    asked = [int(said[1]) for text in shown if (said := re.search(r"write (\d+) prompts", text))]

    assert asked[0] == 8
    assert len(asked) < 19
    assert ["Use fewer than 15 words a prompt." in text for text in shown if "Good prompts:" in text] == [True]


def test_the_papers_constants() -> None:
    paper = settings_of(HillClimb.paper())

    counts = {
        "restarts": 20,
        "resets": 50,
        "iterations": 10,
        "pool": 100,
        "good": 15,
        "bad": 15,
        "proposals": 1,
        "drafts": 1,
    }
    off = {"items": 0, "patience": 0, "racing": False, "control": "", "prompts": "", "meta": ""}
    assert paper == counts | off | {"style": "lists", "longest": HillClimb().longest, "words": 15}
    assert settings_of(HillClimb.positives_only()) == paper | {"bad": 0}
    assert (HillClimb.opro().good, HillClimb.opro().iterations, HillClimb.opro().proposals) == (20, 200, 8)
    assert (HillClimb.protegi().items, HillClimb.protegi().iterations) == (4, 24)


def test_the_papers_trajectory_is_the_golden_one(tmp_path: Path) -> None:
    """PROMPTOPT_WRITE_GOLDEN=1 writes the file anew; look at the difference before committing it."""
    strategy = replace(HillClimb.paper(), restarts=2, resets=2, iterations=3, pool=6)
    result, _ = climb(strategy, tmp_path, seed=11)
    found = [[r.number, r.parent, r.step, r.fitness and round(r.fitness, 6), r.prompt.text] for r in result.history]
    if os.environ.get("PROMPTOPT_WRITE_GOLDEN"):
        GOLDEN.write_text("[\n" + ",\n".join(json.dumps(row) for row in found) + "\n]\n")

    assert [step["chain"] for step in result.steps] == [n // 3 for n in range(12)]
    assert found == json.loads(GOLDEN.read_text())
