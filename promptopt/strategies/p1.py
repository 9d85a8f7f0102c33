"""p1: choose the user prompts that tell system prompts apart, and let another strategy search on those alone.

After Gao et al. 2026, "Better Prompt Optimization with Fewer Prompts" (arXiv 2604.08801), section 4 and algorithm 1,
from the paper's text; no code is released. "System prompt" is what the task calls a prompt, "user prompt" an example.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import numpy as np

from promptopt.errors import BudgetExhaustedError, InputError, nearest
from promptopt.scores import Response
from promptopt.variance import Components, best_subset, components, covariance, held_out_score, shrunk
from promptopt.writing import Shown, improve, paraphrase, proposals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.prompt import Prompt
    from promptopt.run import Run
    from promptopt.scores import Floats, Scores
    from promptopt.strategies import Strategy

PILOT = 2  # replicates by which the others are planned; the fewest that show noise

_FEWEST = 4  # candidates, two to choose by and two to check
_ROUNDS = 3  # of asking the writer, until there are enough candidates
_TRIES = 10  # draws for each pruning that is wanted
_MOST_CUT = 0.5  # where more replies are cut off, that is how the task works


class Probe(NamedTuple):
    """Candidate prompts on all examples.

    Args:
        prompts: [N]; the seed prompt first.
        rewards: [N, K, M]; NaN for gaps: failed replies, replies set apart, replicates that were not worth asking for.
        cut: share of the replies that were cut off at the length limit.
    """

    prompts: tuple[Prompt, ...]
    rewards: Floats
    cut: float


@dataclass(frozen=True, kw_only=True)
class P1:
    """Choose the few examples that tell prompts apart, and let another strategy search on those alone.

    Candidate prompts meet all training examples several times; variance components say whether the candidates differ
    at all, and a debiased covariance which examples agree on how. Where the candidates do not differ, or the choice
    does not hold for candidates that took no part in it, the inner strategy gets all examples.

    What differs from the paper: the search is the inner strategy's, not reinforcement learning; the noise term is
    unbiased (the paper's leaves p (1 - p) / M^2 of chance in the score) and the covariance shrunk; a subset must
    agree with the other examples; the reported score is from candidates that did not choose; replicates are planned.
    The probe costs up to systems x examples x replicates calls before the search begins. Each prompt of the search is
    sampled about as often as with all examples where replies vary, else once on each of the chosen.

    Not for deterministic replies with rewards of 0 and 1 unless `subset` is raised: of two examples such a search sees
    three values. Not for even data and an ample budget: there the paper's own filter lost to all examples (IFBench).
    Truncated and failed replies are gaps; replies that a reward cannot read are what the reward says.

    Args:
        inner: the strategy that searches, or its name, such as "hillclimb" or "promptquine.paper".
        systems: candidate prompts of the probe (paper: 16): the seed prompt and others, from the writer, or random
            prunings of the seed prompt where the inner strategy writes nothing.
        replicates: most samples of a cell; fewer where they pay less. At least 2: one shows no noise.
        subset: examples to choose (paper: 2). No score can choose it: the smaller, the higher the score.
        aligned: only choose examples that agree with the others, on the whole.
        noise: "unbiased" or the paper's "plug-in", which needs rewards of 0 and 1, takes all replicates, and does not
            shrink.
        worth: smallest standard deviation of prompt quality, in units of the reward, that is worth filtering for; where
            its interval lies below, the inner strategy gets all examples. 0 always filters.
    """

    writes: ClassVar[bool] = True  # the inner strategy says whether it is asked

    inner: object = "hillclimb"
    systems: int = 16
    replicates: int = 8
    subset: int = 2
    aligned: bool = True
    noise: Literal["unbiased", "plug-in"] = "unbiased"
    worth: float = 0.02

    def __post_init__(self) -> None:
        if self.systems < _FEWEST:
            raise InputError(
                f"systems must be at least {_FEWEST}, two to choose by and two to check, not {self.systems}"
            )
        if self.replicates < PILOT:
            raise InputError(
                f"replicates must be at least {PILOT}, not {self.replicates}: one cannot tell a better prompt from a "
                "luckier reply"
            )
        if self.subset < 1:
            raise InputError(f"subset must be at least 1, not {self.subset}")
        if self.noise not in ("unbiased", "plug-in"):
            raise InputError(f"noise must be 'unbiased' or 'plug-in', not {self.noise!r}")
        if not 0 <= self.worth < math.inf:
            raise InputError(f"worth must be 0 or more, not {self.worth}")
        self.strategy()

    @classmethod
    def paper(cls) -> P1:
        """Return the paper's filter: 16 system prompts, 128 responses a cell (its analyses), 2 user prompts, eq. 5."""
        return cls(replicates=128, aligned=False, noise="plug-in", worth=0.0)

    def strategy(self) -> Strategy:
        """Return the inner strategy."""
        from promptopt.strategies import BUILT_IN, Strategy  # noqa: PLC0415  the package imports this module

        if isinstance(self.inner, Strategy):
            return self.inner
        if not isinstance(self.inner, str) or self.inner not in BUILT_IN:
            like = nearest(self.inner, BUILT_IN) if isinstance(self.inner, str) else ""
            raise InputError(
                f"inner must be a strategy or one of {', '.join(sorted(BUILT_IN))}, not {self.inner!r}{like}"
            )
        return BUILT_IN[self.inner]()

    def search(self, run: Run) -> None:
        """Probe, choose, and search on what was chosen."""
        inner, aside = self.strategy(), run.aside()
        try:
            prompts = written(aside, self.systems) if inner.writes else pruned(aside, self.systems)
            found = probe(aside, prompts, self.replicates, planned=self.noise == "unbiased")
        except BudgetExhaustedError:
            if aside.history:
                run.score(list(aside.history))  # free: what was paid for is a candidate all the same
            raise
        narrowed = self.narrowed(run, found)
        narrowed.score(prompts, parents=[None, *[prompts[0]] * (len(prompts) - 1)])
        inner.search(narrowed)

    def narrowed(self, run: Run, found: Probe) -> Run:
        """Report what the probe showed, and return the run on the chosen examples, or the run itself."""
        train = run.task.train
        if len(found.prompts) < _FEWEST or len(train) <= self.subset:
            short = f"{len(found.prompts)} candidates for {len(train)} examples"
            run.step(filter=f"no: {short} are too few to choose {self.subset} by", candidates=len(found.prompts))
            return run
        parts = components(found.rewards)
        subset, held_out = self.choose(found.rewards), self.held_out(found.rewards)
        why = self._against(parts, subset, held_out)
        certain = parts.noise.estimate == 0
        repeats = 1 if certain else max(1, len(train) // self.subset)  # the paper holds K * M constant, too
        run.step(
            filter=f"no: {why}" if why else "yes",
            candidates=len(found.prompts),
            chosen=" ".join(train[k].id for k in subset or ()),
            repeats=repeats,
            held_out=held_out,
            replies="the same in every replicate: preferences and accidents of wording look alike"
            if certain
            else "vary",
            cut=found.cut,
            **{f"{name}{end}": value for name, interval in _named(parts) for end, value in interval},
            best_replicates=parts.replicates,
        )
        return run if why or subset is None else run.on([train[k] for k in subset], repeats)

    def choose(self, rewards: Floats) -> tuple[int, ...] | None:
        """Return the subset that [N, K, M] rewards speak for (algorithm 1), or None where none is aligned."""
        matrix = shrunk(rewards) if self.noise == "unbiased" else covariance(rewards, "plug-in")
        measured = int(np.isfinite(np.diag(matrix)).sum())
        return best_subset(matrix, self.subset, aligned=self.aligned) if measured >= self.subset else None

    def held_out(self, rewards: Floats) -> float:
        """Return the variance between candidates on subsets that other candidates chose; unbiased, if rather low."""
        return held_out_score(rewards, self.choose)

    def _against(self, parts: Components, subset: tuple[int, ...] | None, held_out: float) -> str:
        """Return why not to filter, or ""."""
        if self.worth and parts.system.high < self.worth**2:
            return f"candidates differ by less than {self.worth:g} (95 % sure): try others, not fewer examples"
        if subset is None:
            return "no subset agrees with the other examples"
        if self.worth and not held_out > 0:
            return "the choice did not hold for candidates that took no part in it"
        return ""


def written(run: Run, count: int) -> tuple[Prompt, ...]:
    """Return the seed prompt and others by the writer, half of them paraphrases, half tries to better it.

    Fewer than `count` where the writer's replies are no new prompts.
    """
    seed = run.task.seed_prompt
    out = dict.fromkeys([seed])
    better = improve(run.task, [Shown(seed, run.score([seed]).mean.item())], (), 1)
    for context, share in ((paraphrase(run.task, seed), (count + 1) // 2), (better, count)):
        for _ in range(_ROUNDS):
            if len(out) < share:
                replies = run.write(context, count=share - len(out))
                out |= dict.fromkeys(prompt for reply in replies for prompt in proposals(run.task, reply, seed, out))
                out = dict.fromkeys(list(out)[:share])
    return tuple(out)


def pruned(run: Run, count: int) -> tuple[Prompt, ...]:
    """Return the seed prompt and random prunings of it that keep half of its tokens or more.

    Fewer than `count` where the prompt has too few tokens.
    """
    tokens = run.tokens(run.task.seed_prompt)
    out = dict.fromkeys([run.task.seed_prompt])
    most = tokens.prunable.size // 2
    for _ in range(_TRIES * count if most else 0):
        if len(out) == count:
            break
        mask = tokens.full()
        mask[run.rng.choice(tokens.prunable, size=int(run.rng.integers(1, most + 1)), replace=False)] = False
        out[tokens.prompt(mask)] = None
    return tuple(out)


def probe(run: Run, prompts: Sequence[Prompt], replicates: int, *, planned: bool = True) -> Probe:
    """Score prompts on all training examples, with replicates.

    Args:
        run: whose history takes the prompts.
        prompts: [N].
        replicates: of each cell, at most.
        planned: look at all cells twice; then take as many replicates as measure differences best (M* of the
            components), and none where no candidate and no reply made a difference.

    Raises:
        BudgetExhaustedError: the budget does not pay for it.
    """
    train = run.task.train
    first = run.score(prompts, replicates=PILOT if planned else replicates)
    rewards, cut = _apart(first)
    if not planned or len(prompts) < _FEWEST or len(train) < 2:  # noqa: PLR2004  what examples agree on is of two
        return Probe(tuple(prompts), rewards, cut)
    wanted = components(rewards).replicates
    replicates = int(min(max(wanted, PILOT), replicates))
    open_ = [k for k in range(len(train)) if _differs(rewards[:, k])]
    if replicates == PILOT or not open_:
        return Probe(tuple(prompts), rewards, cut)
    more, cut = _apart(run.score(prompts, [train[k] for k in open_], replicates))
    whole = np.full((len(prompts), len(train), replicates), np.nan)
    whole[..., :PILOT] = rewards
    whole[:, open_] = more
    return Probe(tuple(prompts), whole, cut)


def _apart(scores: Scores) -> tuple[Floats, float]:
    """Return rewards with NaN for replies that were cut off, and the share of those.

    A prompt that makes replies long is not a prompt that makes them wrong. Where most replies are cut off, that is
    how the task works, and they stay.
    """
    cut = np.array(
        [
            [[isinstance(reply, Response) and reply.finish_reason == "length" for reply in cell] for cell in row]
            for row in scores.replies
        ]
    )
    share = float(cut.mean())
    return (scores.rewards if share > _MOST_CUT else np.where(cut, np.nan, scores.rewards)), share


def _differs(rewards: Floats) -> bool:
    """Whether anything made a difference in the cells [N, M] of one example."""
    known = rewards[~np.isnan(rewards)]
    return bool(known.size and np.ptp(known) > 0)


def _named(parts: Components) -> list[tuple[str, list[tuple[str, float]]]]:
    named = (("system", parts.system), ("interaction", parts.interaction), ("noise", parts.noise))
    return [(name, [("", part.estimate), ("_low", part.low), ("_high", part.high)]) for name, part in named]
