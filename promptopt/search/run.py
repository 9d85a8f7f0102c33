"""What a strategy may do: `Run` is all it sees.

Every prompt that is scored becomes a candidate of the run's history; a strategy picks no winner. Budget, memo, batching
and progress lie below; choosing and claiming lie above.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from promptopt.errors import BudgetExhaustedError, InputError
from promptopt.evaluation.racing import race
from promptopt.models.base import Request, TokenModel
from promptopt.replies import Response
from promptopt.rewards import Judge, named_label, softmax
from promptopt.search.tokens import Tokens, cut, sections, words

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from promptopt.evaluation.racing import Guarantee, Race
    from promptopt.evaluation.scorer import Scorer
    from promptopt.models.base import Model
    from promptopt.prompt import Context, Example, Prompt
    from promptopt.replies import Failure
    from promptopt.rewards import Reward
    from promptopt.scores import Scores
    from promptopt.statistics.arrays import Floats
    from promptopt.task import Task

_UNUSABLE = {"length": "cut off", "refusal": "declined"}
_SEED_BITS = 20  # replicate numbers of a writer's samples: the seed, then the count


@dataclass
class Candidate:
    """A prompt that was scored, and what the search saw of it.

    Args:
        number: in order of first appearance.
        prompt: itself.
        parent: number of the candidate that it was made from, or None.
        step: of the search, at which it was first scored.
        fitness: mean of what the strategy searched by, over the cells seen so far.
        reward: mean of the task's own reward over the same cells; NaN until a judge has seen one of them.
        cells: replies behind the fitness.
        calls: that the run had used when its first scores were there, logically.
        dollars: the same in dollars.
    """

    number: int
    prompt: Prompt
    parent: int | None
    step: int
    fitness: float = math.nan
    reward: float = math.nan
    cells: int = 0
    calls: int = 0
    dollars: float = 0.0
    _seen: set[tuple[str, int]] = field(default_factory=set, repr=False, compare=False)
    _rewarded: set[tuple[str, int]] = field(default_factory=set, repr=False, compare=False)
    _failed: set[tuple[str, int]] = field(default_factory=set, repr=False, compare=False)

    @property
    def items(self) -> int:
        """Examples behind the reward."""
        return len({example for example, _ in self._rewarded})

    @property
    def failed(self) -> int:
        """Cells without a reply, in neither mean."""
        return len(self._failed)

    def add(self, cell: tuple[str, int], fitness: float, reward: float) -> None:
        """Take one (example id, replicate) into the means; a cell seen before is not counted twice.

        `reward` is NaN where the task's judge was not asked, as in a search by another fitness.
        """
        if not math.isnan(fitness) and not math.isnan(reward) and cell not in self._rewarded:
            self._rewarded.add(cell)
            self.reward = _moved(self.reward, reward, len(self._rewarded))
        if cell in self._seen:
            return
        if math.isnan(fitness):
            self._failed.add(cell)
            return
        self._failed.discard(cell)
        self._seen.add(cell)
        self.cells += 1
        self.fitness = _moved(self.fitness, fitness, self.cells)


@dataclass
class Run:
    """One search over one task.

    Args:
        task: the task; a strategy looks at `task.train`, `seed_prompt`, `labels`, `description`.
        rng: the strategy's own random numbers.
        seed: of the run; the writer's samples differ from seed to seed, the scores' do not.
        scorer: scores prompts.
        writer: the model behind `write`, or None.
        watch: called after each step and score, to show progress.
        history: the candidates so far, by prompt.
        steps: the numbers that the strategy reported, one record a step.
        repeats: every cell is sampled so many times as often as a strategy asks for.
        unusable: the writer's replies that `write` left out, counted by reason.
        proposed: the writer's proposals: "usable", or the reason why not, counted.
    """

    task: Task
    rng: np.random.Generator
    seed: int
    scorer: Scorer
    writer: Model | None = None
    watch: Callable[[], None] = lambda: None
    history: dict[Prompt, Candidate] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    repeats: int = 1
    unusable: Counter[str] = field(default_factory=Counter)
    proposed: Counter[str] = field(default_factory=Counter)
    _written: dict[Context, int] = field(default_factory=dict)

    def on(self, examples: Sequence[Example], repeats: int = 1) -> Run:
        """Return the same run, narrowed: its training items are these; history, budget and random numbers stay shared.

        Args:
            examples: the training items.
            repeats: samples of each cell where a strategy asks for one: with few items, as many replies as with all.
        """
        return replace(self, task=replace(self.task, train=tuple(examples)), repeats=self.repeats * repeats)

    def aside(self) -> Run:
        """Return the same run with a history of its own, for measurements not to be ranked among the candidates."""
        return replace(self, history={})

    def score(
        self,
        prompts: Sequence[Prompt],
        examples: Sequence[Example] | None = None,
        replicates: int = 1,
        *,
        reward: Reward | Judge | None = None,
        parents: Sequence[Prompt | None] | None = None,
    ) -> Scores:
        """Score prompts and enter them into the history.

        Args:
            prompts: [P].
            examples: [E]; the training items by default.
            replicates: R.
            reward: what the search goes by, if not the task's reward.
            parents: [P] what each prompt was made from.

        Returns:
            Scores with rewards [P, E, R].

        Raises:
            BudgetExhaustedError: they would overstep the budget. The first prompts, as many as it pays for, are scored
                and in the history all the same, so that the end of a budget is not wasted.
        """
        examples = self.task.train if examples is None else examples
        replicates *= self.repeats
        scores = self._affordable(prompts, examples, replicates, reward)
        rewards = self._task_rewards(scores, reward)
        for p, prompt in enumerate(scores.prompts):
            candidate = self._candidate(prompt, parents[p] if parents else None)
            for e, example in enumerate(examples):
                for r in range(replicates):
                    candidate.add((example.id, r), float(scores.rewards[p, e, r]), float(rewards[p, e, r]))
        self.watch()
        if len(scores.prompts) < len(prompts):
            raise BudgetExhaustedError(f"the budget paid for {len(scores.prompts)} of {len(prompts)} prompts")
        return scores

    def label_probabilities(
        self, prompts: Sequence[Prompt], examples: Sequence[Example] | None = None, replicates: int = 1
    ) -> Floats:
        """Return how likely each label is under each prompt; no target is looked at, and nothing enters the history.

        Args:
            prompts: [P].
            examples: [E]; the training items by default.
            replicates: R votes of each cell, where the model gives no log-probabilities.

        Returns:
            float64 [P, E, L], each row summing to 1: log-probabilities normalised over the labels, else the shares of the
            votes. A text that names no label is a vote for all alike; a cell whose replies all failed is NaN.

        Raises:
            InputError: the task has no labels, or there are no examples.
            BudgetExhaustedError: they would overstep the budget. The first prompts, as many as it pays for, were asked all the
                same: asked again, they cost nothing.
        """
        if not self.task.labels:
            raise InputError("the task has no labels, between which probabilities could be shared out: give labels")
        examples = self.task.train if examples is None else examples
        scores = self._affordable(prompts, examples, replicates * self.repeats, _worthless)
        self.watch()
        if len(scores.prompts) < len(prompts):
            raise BudgetExhaustedError(f"the budget paid for {len(scores.prompts)} of {len(prompts)} prompts")
        return np.array([[label_shares(cell, self.task.labels) for cell in row] for row in scores.replies])

    def _task_rewards(self, scores: Scores, reward: Reward | Judge | None) -> Floats:
        """Return the task's own rewards [P, E, R] of what was scored by `reward`; NaN where only its judge could tell."""
        own = self.task.reward
        if reward is None or own is None or reward is own:
            return scores.rewards
        if isinstance(own, Judge):
            return np.full_like(scores.rewards, np.nan)
        return self.scorer.meet(scores.prompts, scores.examples, scores.replies, own).rewards

    def _affordable(
        self, prompts: Sequence[Prompt], examples: Sequence[Example], replicates: int, reward: Reward | Judge | None
    ) -> Scores:
        """Score all the prompts, or as many of the first ones as the budget pays for."""
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
        places: int = 1,
        parents: Sequence[Prompt | None] | None = None,
    ) -> Race:
        """Score prompts on growing blocks of examples, common to all, and drop those that will not be the best.

        Args:
            prompts: [P].
            examples: [E]; the training items by default. Order is the order of the blocks: not one sorted by label.
            replicates: R.
            confidence: that the prompt with the highest mean over all examples is not dropped, in the whole race.
            guarantee: whether that holds on "average" over races, or "always", whatever the prompts, at a higher price.
            places: how many of the best are wanted.
            parents: [P] what each prompt was made from.

        Raises:
            BudgetExhaustedError: not even the first block fits the budget.
        """
        made_from = dict(zip(prompts, parents, strict=True)) if parents else {}

        def score(prompts: Sequence[Prompt], examples: Sequence[Example]) -> Scores:
            return self.score(prompts, examples, replicates, parents=[made_from.get(prompt) for prompt in prompts])

        examples = self.task.train if examples is None else examples
        return race(score, prompts, examples, confidence, guarantee=guarantee, places=places)

    def write(self, context: Context, *, count: int = 1, max_tokens: int = 512, temperature: float = 1.0) -> list[str]:
        """Ask the prompt writer, and return the texts that came back whole; the others are counted in `unusable`.

        Asked the same again, it gives new samples, so that a search can go on; a repeated run gives the same ones.

        Args:
            context: the message.
            count: samples wanted.
            max_tokens: longest text.
            temperature: of the writer.

        Raises:
            BudgetExhaustedError: they would overstep the budget; what was sent before it ended is in the memo.
        """
        if self.writer is None:
            raise InputError("this strategy writes prompts and needs a writer: give writer=, or --writer")
        start = (self.seed << _SEED_BITS) + self._written.get(context, 0)
        self._written[context] = self._written.get(context, 0) + count
        requests = [
            Request(context=context, max_tokens=max_tokens, temperature=temperature, replicate=start + i)
            for i in range(count)
        ]
        replies = self.scorer.caller.generate("writer", self.writer, requests)
        texts = []
        for reply in replies:
            if isinstance(reply, Response) and reply.finish_reason == "stop":
                texts.append(reply.text)
            else:
                self.unusable[_UNUSABLE[reply.finish_reason] if isinstance(reply, Response) else "failed"] += 1
        return texts

    def tokens(self, prompt: Prompt) -> Tokens:
        """Cut a prompt into the task model's tokens, or into words and punctuation where its tokenizer is not at hand."""
        model = self.scorer.model
        return cut(prompt, self.task.layout, model.pieces if isinstance(model, TokenModel) else words)

    def length(self, prompt: Prompt) -> int:
        """Return the number of tokens (or words) of a prompt as the model would see it."""
        model = self.scorer.model
        pieces = model.pieces if isinstance(model, TokenModel) else words
        texts = [turn.content for turn in sections(prompt, self.task.layout)] if _is_fixed(prompt) else [prompt.text]
        return sum(len(pieces(text)) for text in texts if text)

    def step(self, **facts: float | str) -> None:
        """End one step of the search and report numbers about it, such as `best=0.9, length=31`.

        A number that is not finite is kept as None, as JSON has none.
        """
        self.steps.append({name: _plain(fact) for name, fact in facts.items()})
        self.watch()

    def _candidate(self, prompt: Prompt, parent: Prompt | None) -> Candidate:
        if prompt not in self.history:
            number = None if parent is None or parent not in self.history else self.history[parent].number
            ledger = self.scorer.caller.ledger
            used = ledger.total(ledger.logical)
            self.history[prompt] = Candidate(
                len(self.history), prompt, number, len(self.steps), calls=used.calls, dollars=used.dollars
            )
        return self.history[prompt]


def label_shares(replies: Sequence[Response | Failure], labels: Sequence[str]) -> list[float]:
    """Return one share a label, of the replicates of one cell; NaN where none came back."""
    came = [reply for reply in replies if isinstance(reply, Response)]
    shares = [math.nan] * len(labels) if not came else [0.0] * len(labels)
    for reply in came:
        logprobs = reply.logprobs_of(labels)
        if logprobs is not None:
            vote = softmax(logprobs)
        else:
            said = named_label(reply.text, labels)
            vote = [1.0 / len(labels) if said is None else float(label == said) for label in labels]
        shares = [share + one / len(came) for share, one in zip(shares, vote, strict=True)]
    return shares


def _worthless(example: Example, response: Response) -> float:  # noqa: ARG001  a reward's signature
    return 0.0


def _is_fixed(prompt: Prompt) -> bool:
    return prompt.demonstrations is None or prompt.demonstrations.nearest is None


def _plain(fact: float | str | np.generic) -> Any:
    value = fact.item() if isinstance(fact, np.generic) else fact
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _moved(mean: float, value: float, count: int) -> float:
    """Return the mean after its `count`-th value."""
    return value if count == 1 else mean + (value - mean) / count
