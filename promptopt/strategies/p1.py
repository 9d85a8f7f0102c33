"""p1: choose the few user prompts that best separate system prompts, and run another strategy on those alone.

After Gao et al. 2026, "Better Prompt Optimization with Fewer Prompts" (arXiv 2604.08801), section 4 and algorithm 1,
from the paper's text; no code is released. The paper's "system prompt" is our prompt, its "user prompt" our example.
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
from promptopt.strategies.checks import check_at_least, check_choice
from promptopt.strategies.registry import BUILT_IN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from promptopt.prompt import Context, Prompt
    from promptopt.scores import Scores
    from promptopt.search.run import Run
    from promptopt.statistics.arrays import Floats

PILOT = 2  # replicates of the pilot, which plans the rest; fewer cannot estimate noise

_MIN_CANDIDATES = 4  # two to choose the subset with and two to check it
_DRAWS_PER_PRUNING = 10
_MAX_TRUNCATED = 0.5  # above this share, truncation is normal for the task


class Probe(NamedTuple):
    """The rewards of candidate prompts on all training examples.

    Args:
        prompts: [N]; the seed prompt first.
        rewards: [N, K, M]; NaN for failed replies, replies excluded as truncated, and replicates that were not run.
        truncated_share: share of the replies that were truncated at the length limit.
    """

    prompts: tuple[Prompt, ...]
    rewards: Floats
    truncated_share: float


@dataclass(frozen=True, kw_only=True)
class P1:
    """Choose the few examples that best separate prompts, and let another strategy search on those alone.

    Candidate prompts are scored several times on all training examples. Variance components show whether the candidates
    differ at all; a debiased covariance shows which examples agree about the differences. If the candidates do not differ,
    or the chosen subset does not separate held-out candidates, the inner strategy gets all examples.

    What differs from the paper: the inner strategy searches, not reinforcement learning; the noise term is unbiased (the
    paper's leaves p (1 - p) / M^2 of sampling noise in the score); the covariance is shrunken; a subset must agree with
    the other examples; the reported score comes from candidates that did not choose the subset; the number of replicates
    is planned. The probe costs up to systems x examples x replicates calls before the search begins. If replies vary, the
    search samples each prompt about as often as it would with all examples; otherwise once per chosen example.

    Not for deterministic replies with rewards of 0 and 1 unless `subset` is raised: with two examples such a search sees
    only three values. Not for homogeneous data and a large budget: there the paper's own filter lost to using all examples
    (IFBench). Failed replies count as missing; a reply that the reward cannot parse gets whatever the reward returns.

    It needs a writer, or labels, exactly when the inner strategy does. An inner strategy that uses no labels always gets
    all examples, because examples are chosen by their rewards.

    Args:
        inner: the strategy that searches, or its name, such as "hillclimb" or "promptquine.paper".
        systems: candidate prompts of the probe (paper: 16), by the writer, or, if the inner strategy uses no writer, the
            seed prompt and random prunings of it.
        candidates: how the writer makes them. "varied": the seed prompt, paraphrases (half), and improvements on the seed
            prompt given its score (half). "one message": all in reply to one message, which shows the task and the seed
            prompt without a score (paper; its meta-prompt, of one or a few sentences, is not published).
        replicates: most samples per cell; fewer if more would not reduce the error. At least 2, to estimate noise.
        subset: examples to choose (paper: 2). It cannot be tuned by the score: smaller subsets always score higher.
        aligned: choose only a subset that agrees with the other examples overall.
        noise: "unbiased" or the paper's "plug-in", which needs rewards of 0 and 1, takes all replicates, and does not
            shrink.
        cut_off: how to treat a reply truncated at the length limit: "gap" as missing, "zero" as a reward of 0 (paper, on
            AIME). With "gap", rewards are kept if most replies are truncated, because truncation is then normal.
        worth: smallest standard deviation of prompt quality, in units of the reward, that is worth filtering for. If its
            confidence interval is entirely below, the inner strategy gets all examples. 0 always filters.
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
        if self.systems < _MIN_CANDIDATES:
            raise InputError(
                f"systems must be at least {_MIN_CANDIDATES} (two to choose the subset, two to check it), not {self.systems}"
            )
        if self.replicates < PILOT:
            raise InputError(
                f"replicates must be at least {PILOT}, not {self.replicates}: a single reply cannot separate a better "
                "prompt from luck"
            )
        check_at_least(self, 1, "subset")
        check_choice(self, "noise", "unbiased", "plug-in")
        check_choice(self, "candidates", "varied", "one message")
        check_choice(self, "cut_off", "gap", "zero")
        if not 0 <= self.worth < math.inf:
            raise InputError(f"worth must be 0 or more, not {self.worth}")
        self.strategy()

    @classmethod
    def paper(cls) -> P1:
        """Return the paper's filter: 16 system prompts, 128 replies per cell (as in its analyses), 2 user prompts, eq. 5."""
        return cls(replicates=128, candidates="one message", aligned=False, cut_off="zero", noise="plug-in", worth=0.0)

    @property
    def writes(self) -> bool:
        """Whether the inner strategy uses a writer; the writer then also writes the probe's candidates."""
        return self.strategy().writes

    @property
    def unlabelled(self) -> bool:
        """Whether the inner strategy uses no training labels; then there is no probe."""
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
        """Probe the examples, choose a subset, and search on it."""
        inner, probe_run, seed = self.strategy(), run.with_own_archive(), run.task.seed_prompt
        if self.unlabelled:
            run.step(filter="no: the inner strategy uses no labels, and examples are chosen by their rewards")
            inner.search(run)
            return
        try:
            prompts = self._candidates(probe_run)
            probed = probe(
                probe_run, prompts, self.replicates, planned=self.noise == "unbiased", zeros=self.cut_off == "zero"
            )
        except BudgetExhaustedError:
            # The scored prompts are candidates too; scoring them again is free.
            run.score(list(dict.fromkeys([seed, *probe_run.archive])))
            raise
        narrowed = self.narrowed(run, probed)
        others = [prompt for prompt in prompts if prompt != seed]
        narrowed.score([seed, *others], parents=[None, *[seed] * len(others)])
        inner.search(narrowed)

    def _candidates(self, run: Run) -> tuple[Prompt, ...]:
        if not self.writes:
            return pruned_candidates(run, self.systems)
        if self.candidates == "varied":
            return varied_candidates(run, self.systems)
        return one_message_candidates(run, self.systems)

    def narrowed(self, run: Run, probed: Probe) -> Run:
        """Record the result of the probe as a step; return the run on the chosen examples, or the run itself."""
        train = run.task.train
        if len(probed.prompts) < _MIN_CANDIDATES or len(train) <= self.subset:
            counts = f"{len(probed.prompts)} candidates for {len(train)} examples"
            reason = f"no: {counts} are too few to choose {self.subset} by"
            run.step(filter=reason, candidates=len(probed.prompts), **_rejected(run))
            return run
        parts = components(probed.rewards)
        subset, held_out = self.choose(probed.rewards), self.held_out(probed.rewards)
        objection = self._reason_not_to_filter(parts, subset, held_out)
        deterministic = parts.noise.estimate == 0
        repeats = 1 if deterministic else max(1, len(train) // self.subset)  # the paper holds K * M constant, too
        run.step(
            filter=f"no: {objection}" if objection else "yes",
            candidates=len(probed.prompts),
            **_rejected(run),
            chosen=" ".join(train[k].id for k in subset or ()),
            repeats=repeats,
            held_out=held_out,
            replies="the same in every replicate, so luck on an example looks like a better prompt"
            if deterministic
            else "vary",
            cut=probed.truncated_share,
            **{f"{name}{end}": value for name, interval in _named(parts) for end, value in interval},
            best_replicates=parts.replicates,
        )
        return run if objection or subset is None else run.restricted_to([train[k] for k in subset], repeats)

    def choose(self, rewards: Floats) -> tuple[int, ...] | None:
        """Return the best subset by rewards [N, K, M] (algorithm 1), or None if no subset is aligned."""
        matrix = shrunken_covariance(rewards) if self.noise == "unbiased" else covariance(rewards, "plug-in")
        measured = int(np.isfinite(np.diag(matrix)).sum())
        return best_subset(matrix, self.subset, aligned=self.aligned) if measured >= self.subset else None

    def held_out(self, rewards: Floats) -> float:
        """Return the variance between candidates on subsets that other candidates chose; unbiased or slightly too low."""
        return held_out_score(rewards, self.choose)

    def _reason_not_to_filter(self, parts: Components, subset: tuple[int, ...] | None, held_out: float) -> str:
        """Return why the inner strategy should get all examples, or "" if it should get the subset."""
        if self.worth and parts.system.high < self.worth**2:
            return f"candidates differ by less than {self.worth:g} (95 % confidence): try other prompts, not fewer examples"
        if subset is None:
            return "no subset agrees with the other examples"
        if self.worth and not held_out > 0:
            return "the chosen examples do not separate held-out candidates"
        return ""


def varied_candidates(run: Run, count: int) -> tuple[Prompt, ...]:
    """Return the seed prompt and prompts by the writer: half paraphrases, half attempts to improve on it.

    Fewer than `count` if too many of the writer's proposals are rejected.
    """
    task, seed = run.task, run.task.seed_prompt
    paraphrases = (seed, *_proposals(run, lambda n: paraphrase(task, seed, n), (count + 1) // 2 - 1, [seed]))
    score = run.score([seed]).mean.item()
    improvements = _proposals(
        run, lambda n: improve(task, [ScoredPrompt(seed, score)], (), n), count - len(paraphrases), paraphrases
    )
    return (*paraphrases, *improvements)


def one_message_candidates(run: Run, count: int) -> tuple[Prompt, ...]:
    """Return prompts that the writer gives in reply to one message, which shows the seed prompt without a score.

    The seed prompt is not among them. Fewer than `count` if too many of the writer's proposals are rejected.
    """
    task, seed = run.task, run.task.seed_prompt
    return tuple(_proposals(run, lambda n: unscored_message(task, [seed], n), count, [seed]))


def _rejected(run: Run) -> dict[str, float | str]:
    """Return the fields of a step that report the rejected proposals so far."""
    rejected = run.proposed - Counter(usable=run.proposed["usable"])
    return {"rejected": rejected.total(), "why": by_reason(rejected)}


def _proposals(run: Run, message: Callable[[int], Context], count: int, known: Sequence[Prompt]) -> list[Prompt]:
    return ask(run, message, count, each=1, like=run.task.seed_prompt, known=known).prompts if count > 0 else []


def pruned_candidates(run: Run, count: int) -> tuple[Prompt, ...]:
    """Return the seed prompt and random prunings of it that keep at least half of its tokens.

    Fewer than `count` if the prompt has too few tokens.
    """
    tokens = run.tokens(run.task.seed_prompt)
    candidates = dict.fromkeys([run.task.seed_prompt])
    max_deletions = tokens.prunable.size // 2
    for _ in range(_DRAWS_PER_PRUNING * count if max_deletions else 0):
        if len(candidates) == count:
            break
        mask = tokens.full()
        deletions = int(run.rng.integers(1, max_deletions + 1))
        mask[run.rng.choice(tokens.prunable, size=deletions, replace=False)] = False
        candidates[tokens.prompt(mask)] = None
    return tuple(candidates)


def probe(run: Run, prompts: Sequence[Prompt], replicates: int, *, planned: bool = True, zeros: bool = False) -> Probe:
    """Score prompts on all training examples, with replicates.

    Args:
        run: scores the prompts; they enter its archive.
        prompts: [N].
        replicates: most replicates per cell.
        planned: first run a pilot of two replicates per cell; then the optimal number of replicates (M* of the components),
            skipping examples on which all rewards were equal.
        zeros: give truncated replies a reward of 0; otherwise they count as missing.

    Returns:
        The rewards [N, K, M] and the share of truncated replies.

    Raises:
        BudgetExhaustedError: the budget does not cover the probe.
    """
    train = run.task.train
    pilot = run.score(prompts, replicates=PILOT if planned else replicates)
    rewards, truncated_share = _handle_truncated(pilot, zeros=zeros)
    if not planned or len(prompts) < _MIN_CANDIDATES or len(train) < 2:  # noqa: PLR2004  a covariance needs two examples
        return Probe(tuple(prompts), rewards, truncated_share)
    optimal = components(rewards).replicates
    replicates = int(min(max(optimal, PILOT), replicates))
    varying = [k for k in range(len(train)) if _varies(rewards[:, k])]
    if replicates == PILOT or not varying:
        return Probe(tuple(prompts), rewards, truncated_share)
    scores = run.score(prompts, [train[k] for k in varying], replicates)
    varying_rewards, truncated_share = _handle_truncated(scores, zeros=zeros)
    all_rewards = np.full((len(prompts), len(train), replicates), np.nan)
    all_rewards[..., :PILOT] = rewards
    all_rewards[:, varying] = varying_rewards
    return Probe(tuple(prompts), all_rewards, truncated_share)


def _handle_truncated(scores: Scores, *, zeros: bool) -> tuple[Floats, float]:
    """Return rewards with NaN, or 0, for truncated replies, and the share of those.

    NaN, because a prompt that makes replies long does not make them wrong. If most replies are truncated, truncation is
    normal for the task, and all rewards are kept.
    """
    truncated = np.array(
        [
            [[isinstance(reply, Response) and reply.finish_reason == "length" for reply in cell] for cell in row]
            for row in scores.replies
        ]
    )
    share = float(truncated.mean())
    if zeros:
        return np.where(truncated, 0.0, scores.rewards), share
    return (scores.rewards if share > _MAX_TRUNCATED else np.where(truncated, np.nan, scores.rewards)), share


def _varies(rewards: Floats) -> bool:
    """Tell whether the rewards [N, M] of one example differ."""
    finite = rewards[~np.isnan(rewards)]
    return bool(finite.size and np.ptp(finite) > 0)


def _named(parts: Components) -> list[tuple[str, list[tuple[str, float]]]]:
    named = (("system", parts.system), ("interaction", parts.interaction), ("noise", parts.noise))
    return [(name, [("", part.estimate), ("_low", part.low), ("_high", part.high)]) for name, part in named]
