"""Hill climbing: a prompt writer sees scored prompts and what became of items under the best, and proposes better ones.

After Liu et al., "Language Models as Black-Box Optimizers for Vision-Language Models" (CVPR 2024), whose search is
`HillClimb.paper()`; OPRO's and ProTeGi's messages are settings. Knows nothing of models, caching or budgets.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import numpy as np

from promptopt.errors import InputError
from promptopt.prompt import Prompt
from promptopt.racing import race
from promptopt.rewards import LabelMargin
from promptopt.scores import Response, nanmean
from promptopt.task import check_slots
from promptopt.writing import (
    LONGEST,
    MetaPrompts,
    Shown,
    ask,
    blind,
    edit,
    given,
    improve,
    lists,
    paraphrase,
    scale,
    seen,
    summarise,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from promptopt.prompt import Context, Example
    from promptopt.run import Run
    from promptopt.scores import Floats, Scores
    from promptopt.writing import Seen

_CONFIDENCE = 0.95  # of a race's rounds
_DIGITS = 9  # of scores, so that the last bits decide neither a tie nor what the writer reads
_SWEEPS, _SETTLED = 50, 1e-12  # of alternating least squares; where no item is missing, two do


@dataclass(frozen=True, kw_only=True)
class HillClimb:
    """Ask, score, keep, ask again, from several starts.

    By default the writer sees scores, the task, its labels, and items that tell the best prompt from the others. It is
    asked for several prompts at once; they race against the best; scores are shrunk towards the mean of all, the more
    the fewer items they rest on, so that the luckiest of many is not taken for the best. A chain ends after `patience`
    messages without a better prompt, and a fresh one gets the messages that are left.

    The paper's counts of restarts, resets, pool and iterations are known from memory and reviews, not from its code,
    which has no such loop.

    Not for tasks where one wording is as good as any other: compare with `control="paraphrase"` at the same budget.

    Args:
        restarts: fresh starting pools (paper: 20).
        resets: chains from each pool, each forgetting the one before (paper: 50).
        iterations: messages in a chain (paper: 10); with patience, on the average.
        pool: starting prompts, the seed among them (paper: 100, from a caption corpus).
        prompts: where they come from: a file (a prompt a line, or a JSON list of texts), or the texts themselves; "" asks
            the writer for paraphrases of the seed.
        good: best prompts in the message (paper: 15).
        bad: worst prompts in the message (paper: 15); 0 shows positives only.
        items: items in the message, of each kind (paper: 0).
        proposals: prompts asked for in a message (paper: 1).
        style: what the message shows: "contrastive", the paper's two bare "lists", OPRO's ascending "scale", or ProTeGi's
            "criticism" of errors, by which the best prompt is edited.
        control: what the lessons are worth: "paraphrase" has the best prompt said in other words, "random" shows some of
            the chain's prompts; the writer sees no score in either. All else stays the same.
        patience: messages in a row without a better prompt that end a chain; 0 for chains of fixed length (paper).
        racing: drop clearly worse prompts after 8 items, 16, and so on (paper: all prompts meet all items).
        longest: characters of a prompt.
        meta: folder with meta-prompts in place of the shipped ones.
    """

    writes: ClassVar[bool] = True

    restarts: int = 4
    resets: int = 1
    iterations: int = 5
    pool: int = 6
    prompts: str | tuple[str, ...] = ""
    good: int = 4
    bad: int = 4
    items: int = 3
    proposals: int = 8
    style: Literal["contrastive", "lists", "scale", "criticism"] = "contrastive"
    control: Literal["", "paraphrase", "random"] = ""
    patience: int = 3
    racing: bool = True
    longest: int = LONGEST
    meta: str = ""

    def __post_init__(self) -> None:
        for name in ("restarts", "resets", "iterations", "pool", "good", "proposals", "longest"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("bad", "items", "patience"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if self.style not in ("contrastive", "lists", "scale", "criticism"):
            raise InputError(f"style must be 'contrastive', 'lists', 'scale' or 'criticism', not {self.style!r}")
        if self.control not in ("", "paraphrase", "random"):
            raise InputError(f"control must be 'paraphrase', 'random' or '', not {self.control!r}")
        given(self.prompts)
        MetaPrompts(self.meta)

    @classmethod
    def paper(cls) -> HillClimb:
        """Return the paper's counts and message: best and worst prompts, no score, no task, one proposal a call."""
        return cls(
            restarts=20, resets=50, iterations=10, pool=100, good=15, bad=15, items=0, proposals=1,
            style="lists", patience=0, racing=False,
        )  # fmt: skip

    @classmethod
    def positives_only(cls) -> HillClimb:
        """Return the paper's ablation: good prompts alone in the message."""
        return replace(cls.paper(), bad=0)

    @classmethod
    def opro(cls) -> HillClimb:
        """Return OPRO's constants (its code): one chain, 200 messages, 8 prompts each, 20 shown, 3 items."""
        return cls(
            restarts=1, resets=1, iterations=200, pool=1, good=20, bad=0, items=3, proposals=8,
            style="scale", patience=0, racing=False, longest=500,
        )  # fmt: skip

    @classmethod
    def protegi(cls) -> HillClimb:
        """Return ProTeGi's constants (its code), on one chain: 6 rounds x 4 criticisms of 4 errors, 1 edit each."""
        return cls(
            restarts=1, resets=1, iterations=24, pool=1, items=4, proposals=1,
            style="criticism", patience=0, racing=False,
        )  # fmt: skip

    def search(self, run: Run) -> None:
        """Climb from every pool, several times."""
        order = [run.task.train[i] for i in run.rng.permutation(len(run.task.train))]  # data may be sorted by label
        pools: list[_Chain] = []
        left, number = self.restarts * self.resets * self.iterations, 0
        while left > 0:
            place = number // self.resets % self.restarts
            if place == len(pools):
                pools.append(self._pool(run, order))
            chain = replace(pools[place], tried=dict(pools[place].tried))
            most = left if self.patience else min(left, self.iterations)
            left -= self._climb(run, chain, most, number) or self.iterations
            number += 1

    def _pool(self, run: Run, order: Sequence[Example]) -> _Chain:
        """Return a fresh scored pool: the seed prompt and others, given or written."""
        seed = run.task.seed_prompt
        texts = given(self.prompts)
        for text in texts:
            check_slots(text, run.task.fields, f"the prompt {text[:60]!r} of the pool")
        if texts:
            drawn = run.rng.permutation(len(texts))[: self.pool]
            others = [Prompt(texts[i], seed.demonstrations) for i in drawn]
        else:
            others = self._paraphrases(run)
        found = [prompt for prompt in dict.fromkeys(others) if prompt != seed][: self.pool - 1]
        chain = _Chain(order, run.task.labels)
        self._score(run, chain, [seed, *found], [None, *[seed] * len(found)])
        return chain

    def _paraphrases(self, run: Run) -> list[Prompt]:
        """Return wordings of the seed prompt; fewer than wanted where the writer has no new ones."""
        seed, meta, out = run.task.seed_prompt, MetaPrompts(self.meta), list[Prompt]()

        def message(count: int) -> Context:
            return paraphrase(run.task, seed, count, meta=meta, longest=self.longest)

        while len(out) < self.pool - 1:
            wanted = min(self.proposals, self.pool - 1 - len(out))
            new = ask(run, message, wanted, each=wanted, like=seed, known=out, longest=self.longest).prompts
            if not new:
                break
            out += new
        return out

    def _climb(self, run: Run, chain: _Chain, most: int, number: int) -> int:
        """Send messages until the chain gets no better, and return how many."""
        idle, ranked = 0, chain.ranked()
        if not ranked:  # every reply failed: there is nothing to learn from
            return 0
        for sent in range(1, most + 1):
            best = ranked[0].prompt
            message = self._message(run, chain, ranked)
            answer = ask(
                run, message, self.proposals,
                each=self.proposals, like=best, known=chain.tried, longest=self.longest,
            )  # fmt: skip
            if answer.prompts:
                parent = best if self.control != "random" else run.task.seed_prompt
                self._score(run, chain, answer.prompts, [parent] * len(answer.prompts), best if self.racing else None)
                ranked = chain.ranked()
            top = ranked[0]
            run.step(best=chain.mean(top.prompt), expected=top.score, **answer.facts(), chain=number)
            idle = 0 if top.prompt in answer.prompts else idle + 1
            if self.patience and idle == self.patience:
                return sent
        return most

    def _message(self, run: Run, chain: _Chain, ranked: Sequence[Shown]) -> Callable[[int], Context]:
        """Return what asks for so many prompts."""
        task, meta, longest = run.task, MetaPrompts(self.meta), self.longest
        best, (good, bad) = ranked[0].prompt, self._ends(ranked)
        if self.control == "paraphrase":
            return lambda count: paraphrase(task, best, count, meta=meta, longest=longest)
        if self.control == "random":
            size = min(len(ranked), self.good + self.bad)
            some = [ranked[i].prompt for i in run.rng.choice(len(ranked), size=size, replace=False)]
            return lambda count: blind(task, some, count, meta=meta, longest=longest)
        if self.style == "lists":
            best_ones, worst_ones = ([shown.prompt for shown in part] for part in (good, bad))
            return lambda count: lists(best_ones, worst_ones, count, meta=meta, longest=longest)
        if self.style == "scale":
            some_items = chain.draw(run, self.items)
            return lambda count: scale(task, ranked[: self.good], count, items=some_items, meta=meta, longest=longest)
        losses, wins = chain.contrast(run, best, self.items)
        if self.style == "criticism":
            said = run.write(summarise(task, best, losses, meta=meta)) if losses else []
            criticism = said[0] if said else ""
            return lambda count: edit(task, best, criticism, count, meta=meta, longest=longest)
        return lambda count: improve(task, good, bad, count, losses=losses, wins=wins, meta=meta, longest=longest)

    def _ends(self, chain: Sequence[Shown]) -> tuple[Sequence[Shown], Sequence[Shown]]:
        """Return the best and the worst of a sorted chain; the two never share a prompt."""
        good = chain[: max(1, min(self.good, len(chain) - len(chain) // 2))]
        worst = min(self.bad, len(chain) - len(good))
        return good, chain[len(chain) - worst :]

    def _score(
        self,
        run: Run,
        chain: _Chain,
        prompts: Sequence[Prompt],
        parents: Sequence[Prompt | None],
        rival: Prompt | None = None,
    ) -> None:
        """Score prompts, in a race with one another and a rival that is known, or all on all items."""
        parent = dict(zip(prompts, parents, strict=True))

        def score(rows: Sequence[Prompt], items: Sequence[Example]) -> Scores:
            scores = run.score(rows, items, parents=[parent.get(row) for row in rows])
            chain.take(scores)
            return scores

        if self.racing:
            race(score, prompts if rival is None else [rival, *prompts], chain.order, _CONFIDENCE)
        else:
            score(prompts, chain.order)


class _Tried(NamedTuple):
    """What became of a prompt.

    Args:
        scores: on the first items of the chain's order.
        row: of the prompt in `scores`.
        rewards: [E' <= E], means over replicates.
        margin: by how much the right labels are ahead.
    """

    scores: Scores
    row: int
    rewards: Floats
    margin: float


@dataclass
class _Chain:
    """What a chain has tried, and what came of it.

    Args:
        order: [E] training items, in the order of the races' blocks.
        labels: of the task.
        tried: what became of each prompt.
    """

    order: Sequence[Example]
    labels: tuple[str, ...]
    tried: dict[Prompt, _Tried] = field(default_factory=dict)

    def take(self, scores: Scores) -> None:
        """Take in scores on the first items; what is known on more of them stays."""
        per_example = scores.per_example
        for row, prompt in enumerate(scores.prompts):
            known = self.tried.get(prompt)
            if known is None or len(known.rewards) <= len(scores.examples):
                self.tried[prompt] = _Tried(scores, row, per_example[row], _margin(scores, row, self.labels))

    def mean(self, prompt: Prompt) -> float:
        """Return the mean reward as measured."""
        return float(nanmean(self.tried[prompt].rewards[None], axis=1)[0])

    def ranked(self) -> list[Shown]:
        """Return the prompts that got a score, the best first: by shrunk score, label margin, measured mean."""
        prompts, rewards = self._table()
        scores = (shrunk(rewards).round(_DIGITS) + 0.0).tolist()  # no -0
        means = nanmean(rewards, axis=1).tolist()
        keys = [
            (-score, -self.tried[prompt].margin, -mean)
            for prompt, score, mean in zip(prompts, scores, means, strict=True)
        ]
        return [Shown(prompts[p], scores[p]) for p in sorted(range(len(prompts)), key=keys.__getitem__)]

    def contrast(self, run: Run, prompt: Prompt, count: int) -> tuple[list[Seen], list[Seen]]:
        """Return items on which a prompt falls short, and those on which it does better than the others.

        First those where it differs most from the mean of the others; among equals, chance decides.
        """
        prompts, rewards = self._table()
        own = rewards[prompts.index(prompt)]
        rest = np.delete(rewards, prompts.index(prompt), axis=0)
        gap = np.nan_to_num(own - nanmean(rest, axis=0)) if len(rest) else np.zeros(len(own))
        shuffled = run.rng.permutation(len(own)).tolist()
        short = [e for e in shuffled if own[e] < np.nanmax(rewards)]
        ahead = [e for e in shuffled if gap[e] > 0]
        losses = sorted(short, key=lambda e: (gap[e], own[e]))[:count]
        wins = sorted(ahead, key=lambda e: -gap[e])[:count]
        return [self._seen(prompt, e, np.nanargmin) for e in losses], [
            self._seen(prompt, e, np.nanargmax) for e in wins
        ]

    def draw(self, run: Run, count: int) -> list[Example]:
        """Return some items."""
        size = min(count, len(self.order))
        return [self.order[i] for i in run.rng.choice(len(self.order), size=size, replace=False)]

    def _seen(self, prompt: Prompt, e: int, which: Callable[[Floats], np.intp]) -> Seen:
        """Return an item with one of its replicates."""
        scores, row, *_ = self.tried[prompt]
        r = int(which(scores.rewards[row, e]))
        cell = scores.replies[row][e][r], scores.reasons[row][e][r], float(scores.rewards[row, e, r])
        return seen(scores.examples[e], *cell)

    def _table(self) -> tuple[list[Prompt], Floats]:
        """Return the prompts that got a score, [P], and their rewards [P, E], NaN where not tried."""
        out = np.full((len(self.tried), len(self.order)), np.nan)
        for p, known in enumerate(self.tried.values()):
            out[p, : len(known.rewards)] = known.rewards
        prompts, scored = list(self.tried), np.flatnonzero(~np.isnan(out).all(axis=1))
        return [prompts[p] for p in scored], out[scored]


def shrunk(rewards: Floats) -> Floats:
    """Return scores that are not too high for having been picked as the highest (empirical Bayes).

    Reward = item + prompt + noise is fitted by least squares, so that a prompt that met easy items only is not better
    for it. The prompts' effects vary by tau^2 (DerSimonian and Laird's estimate) beyond their errors sigma^2 / n; each
    keeps the share tau^2 / (tau^2 + sigma^2 / n) of its distance from the mean of all, itself weighted by these shares.

    Args:
        rewards: [P, E], NaN where a prompt did not meet an item; each prompt has met one at least.

    Returns:
        [P] expected rewards over all items that any prompt met; the means as measured where there is no telling noise
        from quality (one prompt, one item).
    """
    rewards = rewards[:, ~np.isnan(rewards).all(axis=0)]
    counts = (~np.isnan(rewards)).sum(axis=1)
    free = int(counts.sum()) - sum(rewards.shape) + 1
    if len(rewards) < 2 or free < 1:  # noqa: PLR2004  two can differ
        return nanmean(rewards, axis=1)
    items, effects = nanmean(rewards, axis=0), np.zeros(len(rewards))
    for _ in range(_SWEEPS):
        before, effects = effects, nanmean(rewards - items, axis=1)
        items = nanmean(rewards - effects[:, None], axis=0)
        if np.abs(effects - before).max() < _SETTLED:
            break
    noise = np.nansum((rewards - items - effects[:, None]) ** 2) / free
    spread = (counts * (effects - np.average(effects, weights=counts)) ** 2).sum()  # DerSimonian and Laird's Q
    expected = counts.sum() - (counts**2).sum() / counts.sum()
    between = max(float(spread - noise * (len(rewards) - 1)) / float(expected), 0.0)
    kept = np.divide(between, between + noise / counts, out=np.zeros(len(rewards)), where=between + noise > 0)
    middle = np.average(effects, weights=kept) if between else np.average(effects, weights=counts)
    out: Floats = items.mean() + middle + kept * (effects - middle)
    return out


def _margin(scores: Scores, row: int, labels: tuple[str, ...]) -> float:
    """Return by how much the right labels are ahead on average, where replies have log-probabilities; else 0."""
    gaps = [
        LabelMargin(labels, wrong=1.0, right=1.0)(example, reply)
        for example, replies in zip(scores.examples, scores.replies[row], strict=True)
        for reply in replies
        if isinstance(reply, Response) and reply.label_logprobs is not None and example.target is not None
    ]
    return float(np.mean(gaps)) if gaps else 0.0
