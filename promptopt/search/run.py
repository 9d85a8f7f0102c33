"""What a strategy may do: `Run` is all it sees.

Every prompt that is scored becomes a candidate in the run's archive; a strategy picks no winner. Budget, memo, batching
and progress are handled by lower layers; selection and the test are handled by higher ones.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from promptopt.errors import BudgetExhaustedError, InputError
from promptopt.evaluation.objectives import REWARD, measure
from promptopt.evaluation.racing import race
from promptopt.models.base import Request, TokenModel
from promptopt.prompt import Layout, Prompts, default_template
from promptopt.replies import Response
from promptopt.rewards import Judge, named_label, softmax
from promptopt.search.archive import Archive
from promptopt.search.component import ComponentScorer, component_task
from promptopt.search.tokens import Tokens, sections, tokenize, words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from promptopt.evaluation.caller import Caller
    from promptopt.evaluation.ledger import Ledger
    from promptopt.evaluation.racing import Guarantee, Race
    from promptopt.evaluation.scorer import Scorer
    from promptopt.models.base import Model
    from promptopt.prompt import Context, Example, Prompt
    from promptopt.replies import Failure
    from promptopt.rewards import Reward
    from promptopt.scores import Scores
    from promptopt.search.archive import Candidate
    from promptopt.statistics.arrays import Floats
    from promptopt.task import Task

_UNUSABLE = {"length": "cut off", "refusal": "declined"}
_SEED_BITS = 20  # a writer's replicate number is (seed << 20) + count


@dataclass
class Run:
    """One search over one task.

    Args:
        task: the task; a strategy uses its `train`, `seed_prompt`, `labels` and `description`.
        rng: the strategy's random number generator.
        seed: the run's seed; the writer's samples depend on it, the task model's replies do not.
        scorer: scores prompts.
        writer: the model used by `write`, or None.
        watch: called with the run after each step and score, to show progress.
        archive: what was measured of each candidate so far.
        steps: the facts that the strategy reported, one record per step.
        repeats: multiplies the replicates that a strategy asks for.
        unusable: counts, by reason, of the writer's replies that `write` left out.
        proposed: counts of the writer's proposals: "usable", or the reason for rejection.
    """

    task: Task
    rng: np.random.Generator
    seed: int
    scorer: Scorer
    writer: Model | None = None
    watch: Callable[[Run], None] = lambda _: None
    archive: Archive = field(default_factory=Archive)
    steps: list[dict[str, Any]] = field(default_factory=list)
    repeats: int = 1
    unusable: Counter[str] = field(default_factory=Counter)
    proposed: Counter[str] = field(default_factory=Counter)
    _written: dict[Context, int] = field(default_factory=dict)

    @property
    def caller(self) -> Caller:
        """Sends the run's requests to its models."""
        return self.scorer.caller

    @property
    def ledger(self) -> Ledger:
        """The usage of the run so far, and its limit."""
        return self.caller.ledger

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of what the run optimizes, "reward" first."""
        return (REWARD, *self.archive.objectives)

    def restricted_to(self, examples: Sequence[Example], repeats: int = 1) -> Run:
        """Return the same run with fewer training examples; archive, budget and random numbers stay shared.

        Args:
            examples: the training examples to keep.
            repeats: replicates for each one that a strategy asks for, to get as many replies from fewer examples.
        """
        return replace(self, task=replace(self.task, train=tuple(examples)), repeats=self.repeats * repeats)

    def component(self, name: str, held: Prompts | None = None) -> Run:
        """Return the same run with one prompt of a program to search, the others held; budget and random numbers stay shared.

        Its seed prompt and candidates are prompts under that name, its examples hold what the program filled in, and its replies are
        what the model said to that prompt. It has an archive of its own; each candidate is in this run's too, with the others.

        Args:
            name: of the prompt.
            held: the other prompts, and the seed prompt under that name; the task's seed prompt by default.

        Raises:
            InputError: the task has no program, or its program no such prompt, or never asks it.
            BudgetExhaustedError: the budget does not cover the held prompts on the training examples.
        """
        held = self.task.seed_prompt if held is None else held  # type: ignore[assignment]
        if not isinstance(held, Prompts):
            raise InputError("only a program has components: give the task a program")
        task = component_task(self, held, name)
        scorer = ComponentScorer(task, self.scorer.model, self.caller, outer=self, held=held, name=name)
        archive = Archive(self.archive.objectives)
        return replace(self, task=task, scorer=scorer, archive=archive, repeats=1, watch=lambda _: None)

    def with_own_archive(self) -> Run:
        """Return the same run with an empty archive, for measurements that must not become candidates."""
        return replace(self, archive=Archive(self.archive.objectives), watch=lambda _: self.watch(self))

    def on(self, examples: Sequence[Example], repeats: int = 1) -> Run:
        """Return `restricted_to(examples, repeats)`; deprecated."""
        _warn_renamed("Run.on", "Run.restricted_to")
        return self.restricted_to(examples, repeats)

    def aside(self) -> Run:
        """Return `with_own_archive()`; deprecated."""
        _warn_renamed("Run.aside", "Run.with_own_archive")
        return self.with_own_archive()

    @property
    def history(self) -> Mapping[Prompt, Candidate]:
        """The archive; deprecated."""
        _warn_renamed("Run.history", "Run.archive")
        return self.archive

    def score(
        self,
        prompts: Sequence[Prompt],
        examples: Sequence[Example] | None = None,
        replicates: int = 1,
        *,
        reward: Reward | Judge | None = None,
        parents: Sequence[Prompt | None] | None = None,
    ) -> Scores:
        """Score prompts and add them to the archive.

        Args:
            prompts: [P].
            examples: [E]; the training examples by default.
            replicates: R.
            reward: the fitness, if it is not the task's reward.
            parents: [P] the prompt that each one was made from.

        Returns:
            Scores with rewards [P, E, R].

        Raises:
            BudgetExhaustedError: the budget does not cover all prompts. The first ones, as many as it covers, are still
                scored and added to the archive, so that the rest of the budget is not wasted.
        """
        examples = self.task.train if examples is None else examples
        replicates *= self.repeats
        scores = self._affordable(prompts, examples, replicates, reward)
        self._enter(scores.prompts, parents or [None] * len(prompts))
        by_task = self._task_scores(scores, reward)
        objectives = (
            measure(by_task, self.archive.objectives, self.scorer.model.price) if self.archive.objectives else None
        )
        fitness = None if by_task is scores else scores.rewards
        self.archive.add(scores.prompts, examples, by_task.rewards, fitness, objectives)
        self.watch(self)
        if len(scores.prompts) < len(prompts):
            raise BudgetExhaustedError(f"budget exhausted: {len(scores.prompts)} of {len(prompts)} prompts scored")
        return scores

    def label_probabilities(
        self, prompts: Sequence[Prompt], examples: Sequence[Example] | None = None, replicates: int = 1
    ) -> Floats:
        """Return the label probabilities under each prompt. Targets are not used, and the archive does not change.

        Args:
            prompts: [P].
            examples: [E]; the training examples by default.
            replicates: R votes per prompt and example, if the model gives no log-probabilities.

        Returns:
            float64 [P, E, L], each row summing to 1: log-probabilities normalized over the labels, else shares of votes. A
            text that names no label votes for all labels equally; a row whose replies all failed is NaN.

        Raises:
            InputError: the task has no labels, or there are no examples.
            BudgetExhaustedError: the budget does not cover all prompts. The first ones, as many as it covers, were still
                run; asking for them again costs nothing.
        """
        if not self.task.labels:
            raise InputError("label probabilities need a task with labels: give labels")
        examples = self.task.train if examples is None else examples
        scores = self._affordable(prompts, examples, replicates * self.repeats, zero_reward)
        self.watch(self)
        if len(scores.prompts) < len(prompts):
            raise BudgetExhaustedError(f"budget exhausted: {len(scores.prompts)} of {len(prompts)} prompts scored")
        return np.array([[label_shares(cell, self.task.labels) for cell in row] for row in scores.replies])

    def _task_scores(self, scores: Scores, reward: Reward | Judge | None) -> Scores:
        """Return replies scored by `reward` with the task's own rewards; NaN if they would need the task's judge."""
        task_reward = self.task.reward
        if reward is None or task_reward is None or reward is task_reward:
            return scores
        if isinstance(task_reward, Judge):
            return replace(scores, rewards=np.full_like(scores.rewards, np.nan))
        return self.scorer.apply_reward(scores.prompts, scores.examples, scores.replies, task_reward)

    def _affordable(
        self, prompts: Sequence[Prompt], examples: Sequence[Example], replicates: int, reward: Reward | Judge | None
    ) -> Scores:
        """Score all prompts, or as many of the first ones as the budget covers.

        Where only trying shows how many that are (see `Scorer.affordable`), halves are tried.
        """
        prompts = prompts[: max(self.scorer.affordable(prompts, examples, replicates, reward), 1)]
        try:
            return self.scorer.score(prompts, examples, replicates, reward)
        except BudgetExhaustedError:
            if len(prompts) == 1:
                raise
        half = len(prompts) // 2
        first = self._affordable(prompts[:half], examples, replicates, reward)
        if len(first.prompts) < half:
            return first
        try:
            return first.joined(self._affordable(prompts[half:], examples, replicates, reward))
        except BudgetExhaustedError:
            return first

    def race(
        self,
        prompts: Sequence[Prompt],
        examples: Sequence[Example] | None = None,
        replicates: int = 1,
        *,
        confidence: float = 0.95,
        guarantee: Guarantee = "average",
        top_k: int = 1,
        places: int | None = None,
        parents: Sequence[Prompt | None] | None = None,
    ) -> Race:
        """Score prompts on growing blocks of shared examples, and drop those that are unlikely to be the best.

        Args:
            prompts: [P].
            examples: [E]; the training examples by default. Blocks follow their order, which must not be sorted by label.
            replicates: R.
            confidence: probability that the prompt with the highest mean over all examples survives the whole race.
            guarantee: whether that holds on "average" over races, or "always", for any set of prompts, at a higher cost.
            top_k: number of best prompts to keep.
            places: former name of `top_k`, deprecated.
            parents: [P] the prompt that each one was made from.

        Returns:
            The surviving prompts and their scores.

        Raises:
            BudgetExhaustedError: the budget does not cover the first block.
        """
        if places is not None:
            _warn_renamed("Run.race(places=...)", "Run.race(top_k=...)")
            top_k = places
        made_from = dict(zip(prompts, parents, strict=True)) if parents else {}

        def score(prompts: Sequence[Prompt], examples: Sequence[Example]) -> Scores:
            return self.score(prompts, examples, replicates, parents=[made_from.get(prompt) for prompt in prompts])

        examples = self.task.train if examples is None else examples
        return race(score, prompts, examples, confidence, guarantee=guarantee, top_k=top_k)

    def write(self, context: Context, *, count: int = 1, max_tokens: int = 512, temperature: float = 1.0) -> list[str]:
        """Ask the prompt writer, and return its complete replies; the others are counted in `unusable`.

        Calling it again with the same message gives new samples; repeating the run gives the same ones.

        Args:
            context: the message.
            count: number of samples.
            max_tokens: length limit of a reply.
            temperature: sampling temperature.

        Returns:
            The texts of the complete replies, at most `count`.

        Raises:
            BudgetExhaustedError: the budget does not cover them; replies received before it ended are in the memo.
            InputError: the run has no writer.
        """
        if self.writer is None:
            raise InputError("this strategy needs a writer model: give writer=, or --writer")
        start = (self.seed << _SEED_BITS) + self._written.get(context, 0)
        self._written[context] = self._written.get(context, 0) + count
        requests = [
            Request(context=context, max_tokens=max_tokens, temperature=temperature, replicate=start + i)
            for i in range(count)
        ]
        replies = self.caller.generate("writer", self.writer, requests)
        texts = []
        for reply in replies:
            if isinstance(reply, Response) and reply.finish_reason == "stop":
                texts.append(reply.text)
            else:
                self.unusable[_UNUSABLE[reply.finish_reason] if isinstance(reply, Response) else "failed"] += 1
        return texts

    def tokens(self, prompt: Prompt) -> Tokens:
        """Split a prompt into the task model's tokens, or into words and punctuation if its tokenizer is not available."""
        return tokenize(prompt, self.task.layout, self._pieces)

    @cached_property
    def _pieces(self) -> Callable[[str], list[str]]:
        """Splits text; kept, as checking a protocol for each prompt is slow."""
        model = self.scorer.model
        return model.pieces if isinstance(model, TokenModel) else words

    def length(self, prompt: Prompt) -> int:
        """Return the length of a prompt in tokens (or words), as the model sees it.

        That of nearest demonstrations, which differ from example to example, is estimated from the mean of all that may be shown.
        """
        if isinstance(prompt, Prompts):
            return sum(self._length(part, _layout_of(part, self.task.layout)) for _, part in prompt.components)
        return self._length(prompt, self.task.layout)

    def _length(self, prompt: Prompt, layout: Layout) -> int:
        pool = prompt.demonstrations
        if pool is None or pool.nearest is None or not pool.items:
            return self._fixed_length(prompt, layout)
        plain = self._fixed_length(replace(prompt, demonstrations=None), layout)
        whole = self._fixed_length(replace(prompt, demonstrations=replace(pool, nearest=None)), layout)
        return round(plain + (whole - plain) * min(pool.nearest / len(pool.items), 1))

    def _fixed_length(self, prompt: Prompt, layout: Layout) -> int:
        return sum(len(self._pieces(turn.content)) for turn in sections(prompt, layout) if turn.content)

    def step(self, **facts: float | str) -> None:
        """End one step of the search and report facts about it, such as `best=0.9, length=31`.

        Numbers that are not finite are stored as None, because JSON cannot represent them.
        """
        self.steps.append({name: _plain(fact) for name, fact in facts.items()})
        self.watch(self)

    def _enter(self, prompts: Sequence[Prompt], parents: Sequence[Prompt | None]) -> None:
        used = self.ledger.total(self.ledger.logical)
        for prompt, parent in zip(prompts, parents, strict=False):  # a budget may end before the last parents
            self.archive.enter(prompt, parent, step=len(self.steps), calls=used.calls, dollars=used.dollars)


def _layout_of(component: Prompt, layout: Layout) -> Layout:
    """Return the layout of one prompt of a program: its demonstrations may lack fields of the program's examples."""
    items = component.demonstrations.items if component.demonstrations else ()
    if not items or set(layout.fields) <= set(items[0].inputs):
        return layout
    fields = tuple(items[0].inputs)
    return Layout(fields, default_template(fields), layout.format)


def label_shares(replies: Sequence[Response | Failure], labels: Sequence[str]) -> list[float]:
    """Return the share of votes for each label, over the replicates of one prompt and example; NaN if all replies failed."""
    responses = [reply for reply in replies if isinstance(reply, Response)]
    shares = [math.nan] * len(labels) if not responses else [0.0] * len(labels)
    for reply in responses:
        logprobs = reply.logprobs_of(labels)
        if logprobs is not None:
            vote = softmax(logprobs)
        else:
            named = named_label(reply.text, labels)
            vote = [1.0 / len(labels) if named is None else float(label == named) for label in labels]
        shares = [share + weight / len(responses) for share, weight in zip(shares, vote, strict=True)]
    return shares


def zero_reward(example: Example, response: Response) -> float:  # noqa: ARG001  a reward's signature
    """Return 0: for replies whose reward is not needed."""
    return 0.0


def _plain(fact: float | str | np.generic) -> Any:
    value = fact.item() if isinstance(fact, np.generic) else fact
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _warn_renamed(old: str, new: str) -> None:
    warnings.warn(
        f"{old} is now {new}; the old name will be removed in the next release", DeprecationWarning, stacklevel=3
    )
