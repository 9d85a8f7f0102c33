"""Hill climbing: a prompt writer sees scored prompts and what became of items under the best, and proposes better ones.

After Liu et al., "Language Models as Black-Box Optimizers for Vision-Language Models" (CVPR 2024), whose search is
`HillClimb.paper()`; OPRO's and ProTeGi's messages are settings. Knows nothing of models, caching or budgets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from promptopt.errors import InputError
from promptopt.parsing.slots import check_slots
from promptopt.prompt import Prompt
from promptopt.search.surrogate import Change
from promptopt.search.writing import (
    MAX_CHARACTERS,
    MetaPrompts,
    ask,
    edit,
    good_bad_message,
    improve,
    load_prompt_pool,
    opro_message,
    paraphrase,
    summarise,
    unscored_message,
)
from promptopt.strategies.chain import Chain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from promptopt.prompt import Context, Example
    from promptopt.search.run import Run
    from promptopt.search.writing import ScoredPrompt

_FIRST = 3  # items before anyone may be dropped
_AT_ONCE = 8  # paraphrases for the pool that are asked for in one message, at least
_SHARE = 3  # of so many proposals one goes on to twice the items


@dataclass(frozen=True, kw_only=True)
class HillClimb:
    """Ask, score, keep, ask again, from several starts.

    By default the writer sees scores, the task, its labels, and items that tell the best prompt from the others. It is
    asked for several prompts at once. They first meet items that the writer was told of; the better third of them, as
    far as they are ahead of the best so far, go on to twice the items, and so on (the gate is GEPA's, the halving
    Jamieson and Talwalkar's). The best so far is one that met all items. A writer most of whose answer was no use, as
    small ones copy what they are shown, is next asked for other words of the best prompt alone. Once a forecast from
    the words of prompts has proved right on those that were measured, twice as many are asked for, and the better half
    of them by the forecast is measured. Scores are shrunk towards the mean of all, the more the fewer items they rest
    on, so that the luckiest of many is not taken for the best. A chain ends after `patience` messages without a better
    prompt, and a fresh one gets the messages that are left.

    The paper's counts of restarts, resets, iterations and pool (20, 50, 10, 100) are UNVERIFIED: they are known from
    memory and reviews, and its code, which has no such loop, has 80 in place of 100 and 3 in place of 15. Its pool is of
    captions; without `prompts` ours is of the writer's paraphrases, which are asked for eight at a time. Its message is
    that of the code, in our words.

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
        proposals: prompts of a message that are measured (paper: 1); of several drafts for one, two are: one by chance.
        drafts: prompts asked for in a message for each one measured, while the forecast is trusted; 1 measures all (paper).
            Drafts cost the writer's tokens alone.
        style: what the message shows: "contrastive", the paper's two bare "lists", OPRO's ascending "scale", or ProTeGi's
            "criticism" of errors, by which the best prompt is edited.
        control: what the lessons are worth: "paraphrase" has the best prompt said in other words, "random" shows some of
            the chain's prompts; the writer sees no score in either. All else stays the same.
        patience: messages in a row without a better prompt that end a chain; 0 for chains of fixed length (paper).
        racing: after 3 items, 6, and so on, a third of the prompts go on, those alone that are ahead of the best so far
            (paper: all prompts meet all items). The items come in an order of the message's own: two on which the best
            falls short, one on which it does not, those that the writer was told of first.
        longest: characters of a prompt.
        words: what "lists" asks for: fewer words a prompt than this (paper's code: 15, for captions); 0 asks for none. It
            is asked, not checked.
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
    drafts: int = 2
    style: Literal["contrastive", "lists", "scale", "criticism"] = "contrastive"
    control: Literal["", "paraphrase", "random"] = ""
    patience: int = 6
    racing: bool = True
    longest: int = MAX_CHARACTERS
    words: int = 0
    meta: str = ""

    def __post_init__(self) -> None:
        for name in ("restarts", "resets", "iterations", "pool", "good", "proposals", "drafts", "longest"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("bad", "items", "patience", "words"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if self.style not in ("contrastive", "lists", "scale", "criticism"):
            raise InputError(f"style must be 'contrastive', 'lists', 'scale' or 'criticism', not {self.style!r}")
        if self.control not in ("", "paraphrase", "random"):
            raise InputError(f"control must be 'paraphrase', 'random' or '', not {self.control!r}")
        load_prompt_pool(self.prompts)
        MetaPrompts(self.meta)

    @classmethod
    def paper(cls) -> HillClimb:
        """Return the paper's counts and message: best and worst prompts, no score, no task, one proposal a call."""
        return cls(
            restarts=20, resets=50, iterations=10, pool=100, good=15, bad=15, items=0, proposals=1, drafts=1,
            style="lists", patience=0, racing=False, words=15,
        )  # fmt: skip

    @classmethod
    def positives_only(cls) -> HillClimb:
        """Return the paper's ablation: good prompts alone in the message."""
        return replace(cls.paper(), bad=0)

    @classmethod
    def opro(cls) -> HillClimb:
        """Return OPRO's constants (its code): one chain, 200 messages, 8 prompts each, 20 shown, 3 items."""
        return cls(
            restarts=1, resets=1, iterations=200, pool=1, good=20, bad=0, items=3, proposals=8, drafts=1,
            style="scale", patience=0, racing=False, longest=500,
        )  # fmt: skip

    @classmethod
    def protegi(cls) -> HillClimb:
        """Return ProTeGi's constants (its code), on one chain: 6 rounds x 4 criticisms of 4 errors, 1 edit each."""
        return cls(
            restarts=1, resets=1, iterations=24, pool=1, items=4, proposals=1, drafts=1,
            style="criticism", patience=0, racing=False,
        )  # fmt: skip

    def search(self, run: Run) -> None:
        """Climb from every pool, several times."""
        order = [run.task.train[i] for i in run.rng.permutation(len(run.task.train))]  # data may be sorted by label
        pools, gains = list[Chain](), list[tuple[Change, float]]()
        left, number = self.restarts * self.resets * self.iterations, 0
        while left > 0:
            place = number // self.resets % self.restarts
            if place == len(pools):
                pools.append(self._pool(run, Chain(order, run.task.labels, gains=gains)))
            chain = replace(pools[place], tried=dict(pools[place].tried))
            most = left if self.patience else min(left, self.iterations)
            left -= self._climb(run, chain, most, number) or self.iterations
            number += 1

    def _pool(self, run: Run, chain: Chain) -> Chain:
        """Return a chain with its starting prompts scored: the seed prompt and others, given or written."""
        seed = run.task.seed_prompt
        texts = load_prompt_pool(self.prompts)
        for text in texts:
            check_slots(text, run.task.fields, f"the prompt {text[:60]!r} of the pool", run.task.template)
        if texts:
            drawn = run.rng.permutation(len(texts))[: self.pool]
            others = [Prompt(texts[i], seed.demonstrations) for i in drawn]
        else:
            others = self._paraphrases(run)
        found = [prompt for prompt in dict.fromkeys(others) if prompt != seed][: self.pool - 1]
        chain.take(run.score([seed], chain.order))
        if found:
            self._score(run, chain, found, seed, seed)
        return chain

    def _paraphrases(self, run: Run) -> list[Prompt]:
        """Return wordings of the seed prompt; fewer than wanted where the writer has no new ones."""
        seed, meta, out = run.task.seed_prompt, MetaPrompts(self.meta), list[Prompt]()

        def message(count: int) -> Context:
            return paraphrase(run.task, seed, count, meta=meta, longest=self.longest)

        while len(out) < self.pool - 1:
            wanted = min(max(self.proposals, _AT_ONCE), self.pool - 1 - len(out))
            new = ask(run, message, wanted, each=wanted, like=seed, known=out, longest=self.longest).prompts
            if not new:
                break
            out += new
        return out

    def _climb(self, run: Run, chain: Chain, most: int, number: int) -> int:
        """Send messages until the chain gets no better, and return how many."""
        idle, stuck, ranked = 0, False, chain.ranked()
        if not ranked:  # every reply failed: there is nothing to learn from
            return 0
        for sent in range(1, most + 1):
            best = ranked[0].prompt
            message, told = self._message(run, chain, ranked, stuck=stuck)
            model = chain.forecast() if self.drafts > 1 else None
            wanted = self.proposals * (self.drafts if model else 1)
            answer = ask(run, message, wanted, each=wanted, like=best, known=chain.tried, longest=self.longest)
            new = answer.prompts
            stuck = not stuck and answer.rejected.total() > len(new)
            if model and len(new) > self.proposals:
                changes = [Change(prompt.text, best.text, chain.mean(best)) for prompt in new]
                new = [new[i] for i in model.select_by_ucb(changes, max(1, self.proposals - 1), run.rng)]
            if new:
                parent = best if self.control != "random" else run.task.seed_prompt
                self._score(run, chain, new, parent, best, told=told)
                ranked = chain.ranked()
            top = ranked[0]
            improved = top.prompt in new
            facts = answer.facts() | {"measured": len(new)}
            run.step(best=chain.mean(top.prompt), expected=top.score, improved=int(improved), **facts, chain=number)
            idle = 0 if improved else idle + 1
            if self.patience and idle == self.patience:
                return sent
        return most

    def _message(
        self, run: Run, chain: Chain, ranked: Sequence[ScoredPrompt], *, stuck: bool
    ) -> tuple[Callable[[int], Context], Sequence[Example]]:
        """Return what asks for so many prompts, and the items on which it says that the best prompt falls short.

        Args:
            run: its task and chance.
            chain: what was tried.
            ranked: the chain's prompts, the best first.
            stuck: whether most of what the message before brought was no use.
        """
        task, meta, longest = run.task, MetaPrompts(self.meta), self.longest
        best, (good, bad) = ranked[0].prompt, self._ends(ranked)
        rephrase = stuck and self.style == "contrastive" and not self.control
        if self.control == "paraphrase" or rephrase:
            return lambda count: paraphrase(task, best, count, meta=meta, longest=longest), []
        if self.control == "random":
            size = min(len(ranked), self.good + self.bad)
            some = [ranked[i].prompt for i in run.rng.choice(len(ranked), size=size, replace=False)]
            return lambda count: unscored_message(task, some, count, meta=meta, longest=longest), []
        if self.style == "lists":
            best_ones, worst_ones = ([shown.prompt for shown in part] for part in (good, bad))
            most = self.words
            return lambda count: good_bad_message(
                best_ones, worst_ones, count, meta=meta, longest=longest, words=most
            ), []
        if self.style == "scale":
            some_items = chain.draw(run, self.items)
            return lambda count: opro_message(
                task, ranked[: self.good], count, items=some_items, meta=meta, longest=longest
            ), []
        losses, wins = chain.contrast(run, best, self.items)
        told = [seen.example for seen in losses]
        if self.style == "criticism":
            said = run.write(summarise(task, best, losses, meta=meta)) if losses else []
            criticism = said[0] if said else ""
            return lambda count: edit(task, best, criticism, count, meta=meta, longest=longest), told
        return (
            lambda count: improve(task, good, bad, count, losses=losses, wins=wins, meta=meta, longest=longest)
        ), told

    def _ends(self, chain: Sequence[ScoredPrompt]) -> tuple[Sequence[ScoredPrompt], Sequence[ScoredPrompt]]:
        """Return the best and the worst of a sorted chain; the two never share a prompt."""
        good = chain[: max(1, min(self.good, len(chain) - len(chain) // 2))]
        worst = min(self.bad, len(chain) - len(good))
        return good, chain[len(chain) - worst :]

    def _score(
        self,
        run: Run,
        chain: Chain,
        prompts: Sequence[Prompt],
        parent: Prompt,
        rival: Prompt,
        *,
        told: Sequence[Example] = (),
    ) -> None:
        """Score prompts, on more and more items the fewer they become, or all on all items.

        Args:
            run: what pays.
            chain: takes in the scores.
            prompts: new ones.
            parent: what they were made from.
            rival: a known prompt, than which they should be better.
            told: items that the writer was told the rival falls short on.
        """
        items = chain.telling(run, rival, told) if self.racing else chain.order
        size = min(_FIRST, len(items)) if self.racing else len(items)
        chain.take(run.score(prompts, items[:size], parents=[parent] * len(prompts)))
        chain.learn(prompts, rival)
        alive = list(prompts)
        while size < len(items):
            alive = chain.ahead(alive, rival, -(-len(alive) // _SHARE))
            if not alive:
                return
            size = min(2 * size, len(items))
            chain.take(run.score(alive, items[:size], parents=[parent] * len(alive)))
