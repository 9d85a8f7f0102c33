"""Hill climbing: a writer sees scored prompts and the best prompt's replies to some examples, and proposes better prompts.

After Liu et al., "Language Models as Black-Box Optimizers for Vision-Language Models" (CVPR 2024); their search is
`HillClimb.paper()`. OPRO's and ProTeGi's messages are settings. Knows nothing of models, caching or budgets.
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

_FIRST_EXAMPLES = 3  # scored before any proposal may be dropped
_PARAPHRASES_PER_MESSAGE = 8  # for the pool, at least
_REDUCTION = 3  # successive halving keeps one proposal in three each time that the examples double


@dataclass(frozen=True, kw_only=True)
class HillClimb:
    """Propose, score, keep the best, and repeat, from several starting pools.

    By default the writer sees scores, the task, its labels, and the examples that best separate the best prompt from the
    others. It proposes several prompts per message. Proposals are first scored on examples that the writer was shown; the
    best third of those that beat the current best are then scored on twice as many examples, and so on (the screening is
    GEPA's, the halving Jamieson and Talwalkar's). The current best has always been scored on all examples. When most of a
    writer's proposals are rejected (small models copy what they are shown), the next message asks only for paraphrases of
    the best prompt. Once a surrogate that predicts gains from the words of a prompt has proved accurate, each message asks
    for twice as many proposals, and only the half with the better predictions is scored. Scores are shrunk towards their
    common mean, more strongly the fewer examples they rest on, so that a lucky prompt is not mistaken for the best. A chain
    ends after `patience` messages without a better prompt; the remaining messages go to a fresh chain.

    UNVERIFIED: the paper's numbers of restarts, resets, iterations and starting prompts (20, 50, 10, 100) are known only
    from memory and reviews. Its released code has no such loop, and uses 80 instead of 100 and 3 instead of 15. The paper's
    pool consists of captions; without `prompts`, ours consists of paraphrases by the writer, requested eight at a time.
    The message follows the released code, in our wording.

    Not for tasks where the wording makes no difference: compare with `control="paraphrase"` at the same budget.

    Args:
        restarts: fresh starting pools (paper: 20).
        resets: chains from each pool; each starts from the pool alone (paper: 50).
        iterations: messages in a chain (paper: 10); an average if `patience` is set.
        pool: starting prompts, including the seed prompt (paper: 100, from a caption corpus).
        prompts: source of the starting prompts: a file (one prompt per line, or a JSON list of texts), or the texts
            themselves; "" asks the writer for paraphrases of the seed prompt.
        good: best prompts in the message (paper: 15).
        bad: worst prompts in the message (paper: 15); 0 shows only the best.
        items: examples in the message, of each kind: lost and won (paper: 0).
        proposals: prompts scored per message (paper: 1). When there are more drafts than this, at least two are scored, one
            of them chosen at random.
        drafts: prompts requested per prompt scored, while the surrogate is trusted; 1 scores all (paper). Drafts that are
            not scored cost only the writer's tokens.
        style: what the message shows: "contrastive", the paper's two bare "lists", OPRO's ascending "scale", or ProTeGi's
            "criticism" of errors, which guides an edit of the best prompt.
        control: ablation that hides the scores from the writer: "paraphrase" asks for paraphrases of the best prompt,
            "random" shows random prompts of the chain. Everything else stays the same.
        patience: a chain ends after this many messages in a row without a better prompt; 0 for chains of fixed length
            (paper).
        racing: after 3 examples, 6, and so on, keep the best third of the proposals, and only those that beat the current
            best (paper: score all prompts on all examples). Each message has its own order of examples: two that the
            best prompt loses, then one that it does not, starting with those that the writer was shown.
        longest: most characters in a prompt.
        words: with "lists", ask for prompts of fewer words than this (paper's code: 15, for captions); 0 states no limit.
            The limit is not enforced.
        meta: folder with meta-prompts that replace the shipped ones.
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
        """Return the paper's settings: the message shows the best and worst prompts without scores or task, for one proposal."""
        return cls(
            restarts=20, resets=50, iterations=10, pool=100, good=15, bad=15, items=0, proposals=1, drafts=1,
            style="lists", patience=0, racing=False, words=15,
        )  # fmt: skip

    @classmethod
    def positives_only(cls) -> HillClimb:
        """Return the paper's ablation: the message shows only the best prompts."""
        return replace(cls.paper(), bad=0)

    @classmethod
    def opro(cls) -> HillClimb:
        """Return OPRO's settings (its code): one chain, 200 messages, 8 proposals each, 20 prompts and 3 examples shown."""
        return cls(
            restarts=1, resets=1, iterations=200, pool=1, good=20, bad=0, items=3, proposals=8, drafts=1,
            style="scale", patience=0, racing=False, longest=500,
        )  # fmt: skip

    @classmethod
    def protegi(cls) -> HillClimb:
        """Return ProTeGi's settings (its code), on one chain: 6 rounds x 4 criticisms of 4 errors, 1 edit each."""
        return cls(
            restarts=1, resets=1, iterations=24, pool=1, items=4, proposals=1, drafts=1,
            style="criticism", patience=0, racing=False,
        )  # fmt: skip

    def search(self, run: Run) -> None:
        """Run chains from every pool until no messages remain."""
        examples = [run.task.train[i] for i in run.rng.permutation(len(run.task.train))]  # data may be sorted by label
        pools, gains = list[Chain](), list[tuple[Change, float]]()
        remaining_messages, chain_number = self.restarts * self.resets * self.iterations, 0
        while remaining_messages > 0:
            pool_number = chain_number // self.resets % self.restarts
            if pool_number == len(pools):
                pools.append(self._starting_pool(run, Chain(examples, run.task.labels, gains=gains)))
            chain = replace(pools[pool_number], evaluated=dict(pools[pool_number].evaluated))
            max_messages = remaining_messages if self.patience else min(remaining_messages, self.iterations)
            remaining_messages -= self._climb(run, chain, max_messages, chain_number) or self.iterations
            chain_number += 1

    def _starting_pool(self, run: Run, chain: Chain) -> Chain:
        """Return the chain with its starting prompts scored: the seed prompt, and the user's or the writer's prompts."""
        seed = run.task.seed_prompt
        texts = load_prompt_pool(self.prompts)
        for text in texts:
            check_slots(text, run.task.fields, f"the prompt {text[:60]!r} of the pool", run.task.template)
        if texts:
            drawn = run.rng.permutation(len(texts))[: self.pool]
            others = [Prompt(texts[i], seed.demonstrations) for i in drawn]
        else:
            others = self._paraphrases(run)
        unique = [prompt for prompt in dict.fromkeys(others) if prompt != seed][: self.pool - 1]
        chain.add(run.score([seed], chain.examples))
        if unique:
            self._score(run, chain, unique, seed, seed)
        return chain

    def _paraphrases(self, run: Run) -> list[Prompt]:
        """Return paraphrases of the seed prompt; fewer than the pool needs if the writer stops giving new ones."""
        seed, meta, paraphrases = run.task.seed_prompt, MetaPrompts(self.meta), list[Prompt]()

        def message(count: int) -> Context:
            return paraphrase(run.task, seed, count, meta=meta, longest=self.longest)

        while len(paraphrases) < self.pool - 1:
            wanted = min(max(self.proposals, _PARAPHRASES_PER_MESSAGE), self.pool - 1 - len(paraphrases))
            new = ask(run, message, wanted, each=wanted, like=seed, known=paraphrases, longest=self.longest).prompts
            if not new:
                break
            paraphrases += new
        return paraphrases

    def _climb(self, run: Run, chain: Chain, max_messages: int, chain_number: int) -> int:
        """Send messages until the chain stops improving, and return how many were sent."""
        stale, mostly_rejected, ranked = 0, False, chain.ranked()
        if not ranked:  # every reply failed: there is nothing to learn from
            return 0
        for sent in range(1, max_messages + 1):
            best = ranked[0].prompt
            message, shown_examples = self._message(run, chain, ranked, mostly_rejected=mostly_rejected)
            surrogate = chain.forecast() if self.drafts > 1 else None
            wanted = self.proposals * (self.drafts if surrogate else 1)
            answer = ask(run, message, wanted, each=wanted, like=best, known=chain.evaluated, longest=self.longest)
            new = answer.prompts
            mostly_rejected = not mostly_rejected and answer.rejected.total() > len(new)
            if surrogate and len(new) > self.proposals:
                changes = [Change(prompt.text, best.text, chain.mean(best)) for prompt in new]
                new = [new[i] for i in surrogate.select_by_ucb(changes, max(1, self.proposals - 1), run.rng)]
            if new:
                parent = best if self.control != "random" else run.task.seed_prompt
                self._score(run, chain, new, parent, best, shown_examples=shown_examples)
                ranked = chain.ranked()
            top = ranked[0]
            improved = top.prompt in new
            facts = answer.facts() | {"measured": len(new)}
            run.step(
                best=chain.mean(top.prompt), expected=top.score, improved=int(improved), **facts, chain=chain_number
            )
            stale = 0 if improved else stale + 1
            if self.patience and stale == self.patience:
                return sent
        return max_messages

    def _message(
        self, run: Run, chain: Chain, ranked: Sequence[ScoredPrompt], *, mostly_rejected: bool
    ) -> tuple[Callable[[int], Context], Sequence[Example]]:
        """Return a function that builds the message for a number of proposals, and the lost examples that it shows.

        Args:
            run: supplies the task and the random numbers.
            chain: the evaluated prompts.
            ranked: the chain's prompts, best first.
            mostly_rejected: whether most proposals in reply to the previous message were rejected.
        """
        task, meta, longest = run.task, MetaPrompts(self.meta), self.longest
        best, (good, bad) = ranked[0].prompt, self._best_and_worst(ranked)
        rephrase = mostly_rejected and self.style == "contrastive" and not self.control
        if self.control == "paraphrase" or rephrase:
            return lambda count: paraphrase(task, best, count, meta=meta, longest=longest), []
        if self.control == "random":
            size = min(len(ranked), self.good + self.bad)
            random_prompts = [ranked[i].prompt for i in run.rng.choice(len(ranked), size=size, replace=False)]
            return lambda count: unscored_message(task, random_prompts, count, meta=meta, longest=longest), []
        if self.style == "lists":
            best_prompts, worst_prompts = ([shown.prompt for shown in part] for part in (good, bad))
            max_words = self.words
            return (
                lambda count: good_bad_message(
                    best_prompts, worst_prompts, count, meta=meta, longest=longest, words=max_words
                )
            ), []
        if self.style == "scale":
            sampled = chain.sample_examples(run, self.items)
            return lambda count: opro_message(
                task, ranked[: self.good], count, items=sampled, meta=meta, longest=longest
            ), []
        losses, wins = chain.contrast(run, best, self.items)
        shown_examples = [seen.example for seen in losses]
        if self.style == "criticism":
            replies = run.write(summarise(task, best, losses, meta=meta)) if losses else []
            criticism = replies[0] if replies else ""
            return lambda count: edit(task, best, criticism, count, meta=meta, longest=longest), shown_examples
        return (
            lambda count: improve(task, good, bad, count, losses=losses, wins=wins, meta=meta, longest=longest)
        ), shown_examples

    def _best_and_worst(self, ranked: Sequence[ScoredPrompt]) -> tuple[Sequence[ScoredPrompt], Sequence[ScoredPrompt]]:
        """Return the best and the worst prompts; the two never share a prompt."""
        good = ranked[: max(1, min(self.good, len(ranked) - len(ranked) // 2))]
        worst = min(self.bad, len(ranked) - len(good))
        return good, ranked[len(ranked) - worst :]

    def _score(
        self,
        run: Run,
        chain: Chain,
        prompts: Sequence[Prompt],
        parent: Prompt,
        rival: Prompt,
        *,
        shown_examples: Sequence[Example] = (),
    ) -> None:
        """Score prompts and add them to the chain: fewer prompts on more examples, or without racing all on all.

        Args:
            run: scores the prompts.
            chain: receives the scores.
            prompts: new prompts.
            parent: the prompt that they were made from.
            rival: a scored prompt that they should beat.
            shown_examples: examples that the rival loses and the writer was shown.
        """
        examples = chain.ordered_for_screening(run, rival, shown_examples) if self.racing else chain.examples
        size = min(_FIRST_EXAMPLES, len(examples)) if self.racing else len(examples)
        chain.add(run.score(prompts, examples[:size], parents=[parent] * len(prompts)))
        chain.record_gains(prompts, rival)
        survivors = list(prompts)
        while size < len(examples):
            survivors = chain.ahead(survivors, rival, -(-len(survivors) // _REDUCTION))
            if not survivors:
                return
            size = min(2 * size, len(examples))
            chain.add(run.score(survivors, examples[:size], parents=[parent] * len(survivors)))
