"""p1: choose the user prompts that tell system prompts apart, and let another strategy search on those alone.

After Gao et al. 2026, "Better Prompt Optimization with Fewer Prompts" (arXiv 2604.08801), section 4 and algorithm 1,
from the paper's text; no code is released. "System prompt" is what the task calls a prompt, "user prompt" an example.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from promptopt.errors import BudgetExhaustedError, InputError, nearest
from promptopt.replies import Response
from promptopt.search.subsets import best_subset, held_out_score
from promptopt.search.writing import ScoredPrompt, ask, by_reason, improve, paraphrase, unscored_message
from promptopt.statistics.components import Components, components, covariance, shrunken_covariance
from promptopt.strategies.base import Strategy, needs_no_labels
from promptopt.strategies.registry import BUILT_IN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from promptopt.prompt import Context, Prompt
    from promptopt.scores import Scores
    from promptopt.search.run import Run
    from promptopt.statistics.arrays import Floats

PILOT = 2  # replicates by which the others are planned; the fewest that show noise

_FEWEST = 4  # candidates, two to choose by and two to check
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
    Failed replies are gaps; replies that a reward cannot read are what the reward says.

    It asks a writer, and does without labels, where the inner strategy does. An inner strategy that looks at no label gets
    all examples at once: there is nothing to choose them by.

    Args:
        inner: the strategy that searches, or its name, such as "hillclimb" or "promptquine.paper".
        systems: candidate prompts of the probe (paper: 16), from the writer, or, where the inner strategy writes nothing,
            the seed prompt and random prunings of it.
        candidates: what the writer is asked. "varied": the seed prompt and others, half of them paraphrases, half made from
            the seed prompt and its score. "one message": all of them in answer to one message, which shows the task and the
            seed prompt without a score (paper; its meta-prompt, of a sentence or a few, is not published).
        replicates: most samples of a cell; fewer where they pay less. At least 2: one shows no noise.
        subset: examples to choose (paper: 2). No score can choose it: the smaller, the higher the score.
        aligned: only choose examples that agree with the others, on the whole.
        noise: "unbiased" or the paper's "plug-in", which needs rewards of 0 and 1, takes all replicates, and does not
            shrink.
        cut_off: what a reply is that was cut off at the length limit: a "gap", or "zero", a reward of 0 (paper, on AIME). As a
            gap it says nothing, unless most replies are cut off: then that is how the task works, and rewards stay.
        worth: smallest standard deviation of prompt quality, in units of the reward, that is worth filtering for; where
            its interval lies below, the inner strategy gets all examples. 0 always filters.
    """

    inner: object = "hillclimb"
    systems: int = 16
    replicates: int = 8
    subset: int = 2
    candidates: Literal["varied", "one message"] = "varied"
    aligned: bool = True
    cut_off: Literal["gap", "zero"] = "gap"
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
        if self.candidates not in ("varied", "one message"):
            raise InputError(f"candidates must be 'varied' or 'one message', not {self.candidates!r}")
        if self.cut_off not in ("gap", "zero"):
            raise InputError(f"cut_off must be 'gap' or 'zero', not {self.cut_off!r}")
        if not 0 <= self.worth < math.inf:
            raise InputError(f"worth must be 0 or more, not {self.worth}")
        self.strategy()

    @classmethod
    def paper(cls) -> P1:
        """Return the paper's filter: 16 system prompts, 128 responses a cell (its analyses), 2 user prompts, eq. 5."""
        return cls(replicates=128, candidates="one message", aligned=False, cut_off="zero", noise="plug-in", worth=0.0)

    @property
    def writes(self) -> bool:
        """Whether the inner strategy asks a prompt writer; then the probe's candidates are written, too."""
        return self.strategy().writes

    @property
    def unlabelled(self) -> bool:
        """Whether the inner strategy looks at no label of the training items; then there is no probe either."""
        return needs_no_labels(self.strategy())

    def strategy(self) -> Strategy:
        """Return the inner strategy."""
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
        inner, aside, seed = self.strategy(), run.with_own_history(), run.task.seed_prompt
        if self.unlabelled:
            run.step(filter="no: the inner strategy looks at no label, and examples are chosen by rewards")
            inner.search(run)
            return
        try:
            prompts = self._candidates(aside)
            found = probe(
                aside, prompts, self.replicates, planned=self.noise == "unbiased", zeros=self.cut_off == "zero"
            )
        except BudgetExhaustedError:
            run.score(
                list(dict.fromkeys([seed, *aside.history]))
            )  # free: what was paid for is a candidate all the same
            raise
        narrowed = self.narrowed(run, found)
        others = [prompt for prompt in prompts if prompt != seed]
        narrowed.score([seed, *others], parents=[None, *[seed] * len(others)])
        inner.search(narrowed)

    def _candidates(self, run: Run) -> tuple[Prompt, ...]:
        if not self.writes:
            return pruned(run, self.systems)
        return written(run, self.systems) if self.candidates == "varied" else sampled(run, self.systems)

    def narrowed(self, run: Run, found: Probe) -> Run:
        """Report what the probe showed, and return the run on the chosen examples, or the run itself."""
        train = run.task.train
        if len(found.prompts) < _FEWEST or len(train) <= self.subset:
            short = f"{len(found.prompts)} candidates for {len(train)} examples"
            why = f"no: {short} are too few to choose {self.subset} by"
            run.step(filter=why, candidates=len(found.prompts), **_rejected(run))
            return run
        parts = components(found.rewards)
        subset, held_out = self.choose(found.rewards), self.held_out(found.rewards)
        why = self._against(parts, subset, held_out)
        certain = parts.noise.estimate == 0
        repeats = 1 if certain else max(1, len(train) // self.subset)  # the paper holds K * M constant, too
        run.step(
            filter=f"no: {why}" if why else "yes",
            candidates=len(found.prompts),
            **_rejected(run),
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
        return run if why or subset is None else run.restricted_to([train[k] for k in subset], repeats)

    def choose(self, rewards: Floats) -> tuple[int, ...] | None:
        """Return the subset that [N, K, M] rewards speak for (algorithm 1), or None where none is aligned."""
        matrix = shrunken_covariance(rewards) if self.noise == "unbiased" else covariance(rewards, "plug-in")
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
    task, seed = run.task, run.task.seed_prompt
    first = (seed, *_asked(run, lambda n: paraphrase(task, seed, n), (count + 1) // 2 - 1, [seed]))
    score = run.score([seed]).mean.item()
    better = _asked(run, lambda n: improve(task, [ScoredPrompt(seed, score)], (), n), count - len(first), first)
    return (*first, *better)


def sampled(run: Run, count: int) -> tuple[Prompt, ...]:
    """Return prompts that the writer gives in answer to one message; the seed prompt, without a score, is not among them.

    Fewer than `count` where the writer's replies are no new prompts.
    """
    task, seed = run.task, run.task.seed_prompt
    return tuple(_asked(run, lambda n: unscored_message(task, [seed], n), count, [seed]))


def _rejected(run: Run) -> dict[str, float | str]:
    """Return what a step reports of the proposals so far that were no use."""
    rejected = run.proposed - Counter(usable=run.proposed["usable"])
    return {"rejected": rejected.total(), "why": by_reason(rejected)}


def _asked(run: Run, message: Callable[[int], Context], count: int, known: Sequence[Prompt]) -> list[Prompt]:
    return ask(run, message, count, each=1, like=run.task.seed_prompt, known=known).prompts if count > 0 else []


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


def probe(run: Run, prompts: Sequence[Prompt], replicates: int, *, planned: bool = True, zeros: bool = False) -> Probe:
    """Score prompts on all training examples, with replicates.

    Args:
        run: whose history takes the prompts.
        prompts: [N].
        replicates: of each cell, at most.
        planned: look at all cells twice; then take as many replicates as measure differences best (M* of the
            components), and none where no candidate and no reply made a difference.
        zeros: replies that were cut off have a reward of 0; they are gaps otherwise.

    Raises:
        BudgetExhaustedError: the budget does not pay for it.
    """
    train = run.task.train
    first = run.score(prompts, replicates=PILOT if planned else replicates)
    rewards, cut = _apart(first, zeros=zeros)
    if not planned or len(prompts) < _FEWEST or len(train) < 2:  # noqa: PLR2004  what examples agree on is of two
        return Probe(tuple(prompts), rewards, cut)
    wanted = components(rewards).replicates
    replicates = int(min(max(wanted, PILOT), replicates))
    open_ = [k for k in range(len(train)) if _differs(rewards[:, k])]
    if replicates == PILOT or not open_:
        return Probe(tuple(prompts), rewards, cut)
    more, cut = _apart(run.score(prompts, [train[k] for k in open_], replicates), zeros=zeros)
    whole = np.full((len(prompts), len(train), replicates), np.nan)
    whole[..., :PILOT] = rewards
    whole[:, open_] = more
    return Probe(tuple(prompts), whole, cut)


def _apart(scores: Scores, *, zeros: bool) -> tuple[Floats, float]:
    """Return rewards with NaN, or 0, for replies that were cut off, and the share of those.

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
    if zeros:
        return np.where(cut, 0.0, scores.rewards), share
    return (scores.rewards if share > _MOST_CUT else np.where(cut, np.nan, scores.rewards)), share


def _differs(rewards: Floats) -> bool:
    """Whether anything made a difference in the cells [N, M] of one example."""
    known = rewards[~np.isnan(rewards)]
    return bool(known.size and np.ptp(known) > 0)


def _named(parts: Components) -> list[tuple[str, list[tuple[str, float]]]]:
    named = (("system", parts.system), ("interaction", parts.interaction), ("noise", parts.noise))
    return [(name, [("", part.estimate), ("_low", part.low), ("_high", part.high)]) for name, part in named]
