"""Hill climbing: a writer sees scored prompts and the best prompt's replies to some examples, and proposes better prompts.

After Liu et al., "Language Models as Black-Box Optimizers for Vision-Language Models" (CVPR 2024); their search is
`HillClimb.paper()`. OPRO's and ProTeGi's messages are settings. Knows nothing of models, caching or budgets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from promptopt.parsing.slots import check_slots
from promptopt.prompt import Prompt
from promptopt.search.halving import doubling, successive_halving
from promptopt.search.surrogate import Change
from promptopt.search.writing import MAX_CHARACTERS, MetaPrompts, ask, load_prompt_pool, paraphrase
from promptopt.strategies.chain import Chain
from promptopt.strategies.checks import check_at_least, check_choice
from promptopt.strategies.styles import Contrastive, Criticism, Lists, Paraphrases, RandomPrompts, Scale

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.prompt import Context, Example
    from promptopt.search.run import Run
    from promptopt.search.writing import AskResult
    from promptopt.strategies.styles import Message, Style

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
    the best prompt. With several objectives, each message is about a prompt drawn from the front in place of the best one, and
    proposals have to beat it in one of them. Once a surrogate that predicts gains from the words of a prompt has proved accurate, each message asks
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

    writes = True

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
        check_at_least(self, 1, "restarts", "resets", "iterations", "pool", "good", "proposals", "drafts", "longest")
        check_at_least(self, 0, "bad", "items", "patience", "words")
        check_choice(self, "style", "contrastive", "lists", "scale", "criticism")
        check_choice(self, "control", "paraphrase", "random", "")
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
                pools.append(self._starting_pool(run, Chain(examples, run.task.labels, run.archive, gains=gains)))
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
            front = chain.front(ranked)
            best = front[0] if len(front) == 1 else front[int(run.rng.integers(len(front)))]
            shown = sorted(ranked, key=lambda scored: scored.prompt != best)
            message = self._style(rephrase=mostly_rejected).message(run, chain, shown)
            answer, new = self._propose(run, chain, best, message)
            mostly_rejected = not mostly_rejected and answer.rejected.total() > len(answer.prompts)
            if new:
                parent = best if self.control != "random" else run.task.seed_prompt
                self._score(run, chain, new, parent, best, lost=message.lost)
                ranked = chain.ranked()
            top = ranked[0]
            improved = not set(new).isdisjoint(chain.front(ranked))
            facts = answer.facts() | {"measured": len(new)}
            run.step(
                best=chain.mean(top.prompt), expected=top.score, improved=int(improved), **facts, chain=chain_number
            )
            stale = 0 if improved else stale + 1
            if self.patience and stale == self.patience:
                return sent
        return max_messages

    def _style(self, *, rephrase: bool) -> Style:
        """Return what the next message shows.

        Args:
            rephrase: whether most proposals in reply to the previous message were rejected.
        """
        wording = MetaPrompts(self.meta), self.longest
        if self.control == "random":
            return RandomPrompts(*wording, self.good + self.bad)
        if self.control == "paraphrase" or (rephrase and self.style == "contrastive"):
            return Paraphrases(*wording)
        if self.style == "lists":
            return Lists(*wording, self.good, self.bad, self.words)
        if self.style == "scale":
            return Scale(*wording, self.good, self.items)
        if self.style == "criticism":
            return Criticism(*wording, self.items)
        return Contrastive(*wording, self.good, self.bad, self.items)

    def _propose(self, run: Run, chain: Chain, best: Prompt, message: Message) -> tuple[AskResult, list[Prompt]]:
        """Return the writer's answer, and the prompts in it to score: all, or those that the surrogate prefers."""
        surrogate = chain.forecast() if self.drafts > 1 else None
        wanted = self.proposals * (self.drafts if surrogate else 1)
        answer = ask(run, message.build, wanted, each=wanted, like=best, known=chain.evaluated, longest=self.longest)
        if surrogate is None or len(answer.prompts) <= self.proposals:
            return answer, answer.prompts
        changes = [Change(prompt.text, best.text, chain.mean(best)) for prompt in answer.prompts]
        kept = surrogate.select_by_ucb(changes, max(1, self.proposals - 1), run.rng)
        return answer, [answer.prompts[i] for i in kept]

    def _score(
        self,
        run: Run,
        chain: Chain,
        prompts: Sequence[Prompt],
        parent: Prompt,
        rival: Prompt,
        *,
        lost: Sequence[Example] = (),
    ) -> None:
        """Score prompts and add them to the chain: fewer prompts on more examples, or without racing all on all.

        Args:
            run: scores the prompts.
            chain: receives the scores.
            prompts: new prompts.
            parent: the prompt that they were made from.
            rival: a scored prompt that they should beat.
            lost: examples that the rival loses and the writer was shown.
        """
        examples = chain.ordered_for_screening(run, rival, lost) if self.racing else chain.examples
        rounds = doubling(_FIRST_EXAMPLES, len(examples)) if self.racing else [len(examples)]

        def rank(remaining: list[Prompt], size: int) -> list[Prompt]:
            chain.add(run.score(remaining, examples[:size], parents=[parent] * len(remaining)))
            if size == rounds[0]:
                chain.record_gains(remaining, rival)
            return chain.ahead(remaining, rival)

        successive_halving(prompts, rounds, rank, lambda count: -(-count // _REDUCTION))
