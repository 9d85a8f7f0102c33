"""The scorer: prompts x examples x replicates -> Scores, in one batch per call.

Labels are scored by log-probability if the model supports it, else by the text that it writes (one vote per replicate).
Knows nothing of strategies; memo, budget and dispatch belong to the caller.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np

from promptopt.errors import InputError
from promptopt.evaluation.caller import label_keys, request_keys
from promptopt.evaluation.image_checks import check_images
from promptopt.evaluation.programs import Replays, run_programs
from promptopt.evaluation.rollouts import roll_out
from promptopt.evaluation.silence import Silence
from promptopt.evaluation.tally import Tally
from promptopt.evaluation.verdicts import Verdict, verdict
from promptopt.models import HOSTED
from promptopt.models.base import CaptionModel, LabelModel, LabelReader, OptionsModel, Request, without_batches
from promptopt.prompt import Message
from promptopt.replies import Failure, Response
from promptopt.rewards import Judge
from promptopt.scores import Scores

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from promptopt.evaluation.caller import Caller
    from promptopt.models.base import Model
    from promptopt.prompt import Context, Example, Prompt
    from promptopt.replies import Reply
    from promptopt.rewards import Reward
    from promptopt.task import Task

_JUDGE_TOKENS = 256  # a sentence and a score


@dataclass
class Scorer:
    """Scores prompts on a task with one model.

    Args:
        task: supplies layout, sampling settings and reward.
        model: the task model.
        caller: sends requests to models.
        first_failure: the first example whose reply failed, and why; "" if none has.
        refused: ids of examples whose request was refused because of its content.
        tally: counts of replies that name no label.
        silence: counts of replies without text.
        replays: what programs asked.
        observe: receives all scores by the task's own reward.
    """

    task: Task
    model: Model
    caller: Caller
    first_failure: str = ""
    refused: set[str] = field(default_factory=set)
    tally: Tally = field(init=False)
    silence: Silence = field(default_factory=Silence)
    replays: Replays = field(default_factory=Replays)
    observe: Callable[[Scores], None] = lambda _: None

    def __post_init__(self) -> None:
        check_options(self.task, self.model)
        check_images(self.task, self.model)
        self.tally = Tally.of(self.task)

    def score(
        self,
        prompts: Sequence[Prompt],
        examples: Sequence[Example],
        replicates: int = 1,
        reward: Reward | Judge | None = None,
        *,
        written: bool = False,
    ) -> Scores:
        """Score every prompt on every example.

        Args:
            prompts: [P].
            examples: [E].
            replicates: R samples per prompt and example; log-probabilities are the same in each.
            reward: replaces the task's own reward.
            written: whether the model writes its replies even if labels could be scored.

        Returns:
            Scores with rewards [P, E, R].

        Raises:
            InputError: nothing to score, or (as RewardError) a reward that raised or returned no number.
            BudgetExhaustedError, PermanentModelError, StoppedError: as `Caller.generate`.
        """
        if not prompts or not examples or replicates < 1:
            raise InputError(
                f"nothing to score: {len(prompts)} prompts, {len(examples)} examples, {replicates} replicates"
            )
        cells = self._replies(prompts, examples, replicates, written=written)
        flat = [cell for row in cells for column in row for cell in column]
        self.tally.add(prompts, examples, cells)
        self.silence += Silence.of(flat)
        own = cast("Reward | Judge", self.task.reward)  # `Task` sets a default reward
        return self.apply_reward(prompts, examples, cells, own if reward is None else reward)

    def affordable(
        self,
        prompts: Sequence[Prompt],
        examples: Sequence[Example],
        replicates: int = 1,
        reward: Reward | Judge | None = None,
    ) -> int:
        """Return how many of the first prompts the budget covers, or all where this cannot be known before they are scored.

        It is known if only calls are limited and each cell takes one. What a call uses in tokens, how long an episode lasts
        and which replies a judge must read is known only afterwards.

        Args: as of `score`.
        """
        ledger, cells = self.caller.ledger, len(examples) * replicates
        unknown = ledger.meters_tokens or not self._one_call_per_cell(replicates, reward)
        if unknown or len(prompts) * cells <= ledger.calls_left:
            return len(prompts)
        keys = self._keys(prompts, examples, replicates)
        return ledger.affordable(keys) * len(prompts) // len(keys)

    def apply_reward(
        self,
        prompts: Sequence[Prompt],
        examples: Sequence[Example],
        cells: Sequence[Sequence[Sequence[Reply]]],
        reward: Reward | Judge,
    ) -> Scores:
        """Return the scores of replies [P][E][R] under `reward`, without asking the task model."""
        flat = [(e, cell) for row in cells for e, column in zip(examples, row, strict=True) for cell in column]
        failures = (f"example {e.id!r}: {cell.reason}" for e, cell in flat if isinstance(cell, Failure))
        self.first_failure = self.first_failure or next(failures, "")
        self.refused |= {e.id for e, cell in flat if isinstance(cell, Failure) and cell.refused}
        verdicts = self._judged(flat, reward) if isinstance(reward, Judge) else [verdict(reward, *c) for c in flat]
        shape = (len(prompts), len(examples), len(cells[0][0]))
        rewards = np.array([each.reward for each in verdicts], dtype=np.float64).reshape(shape)
        reasons = np.array([each.reason for each in verdicts], dtype=object).reshape(shape).tolist()
        named = {
            name: np.array([each.named.get(name, np.nan) for each in verdicts], dtype=np.float64).reshape(shape)
            for name in dict.fromkeys(name for each in verdicts for name in each.named)
        }
        scores = Scores(tuple(prompts), tuple(examples), rewards, cells, reasons, named)
        if reward is self.task.reward:
            self.observe(scores)
        return scores

    def replies_so_far(self, prompt: Prompt, examples: Sequence[Example]) -> list[tuple[Example, Reply]]:
        """Return the examples to which this run has a reply under the prompt, each with its reply. Costs nothing."""
        keys = self._keys([prompt], examples, 1)
        answered = [e for e, key in zip(examples, keys, strict=True) if self.caller.ledger.has_reply(key)]
        if not answered:
            return []
        row = self._replies([prompt], answered, 1, written=False)[0]
        return [(example, cell[0]) for example, cell in zip(answered, row, strict=True)]

    @property
    def chooses(self) -> bool:
        """`chooses_labels` for this task and model."""
        return chooses_labels(self.task, self.model)

    @property
    def tests_text(self) -> bool:
        """Whether the test reads text although the search chooses among the labels."""
        return self.chooses and self.task.read == "text"

    @property
    def _scored_labels(self) -> tuple[str, ...]:
        """The labels whose log-probabilities are requested."""
        return self.task.labels if self.task.logprobs else ()

    @cached_property
    def _read_labels(self) -> tuple[str, ...]:
        """The labels whose log-probabilities may come with a reply; kept, as checking a protocol for each request is slow."""
        return self._scored_labels if isinstance(self.model, LabelReader) else ()

    def _replies(
        self, prompts: Sequence[Prompt], examples: Sequence[Example], replicates: int, *, written: bool
    ) -> list[list[list[Reply]]]:
        if self.task.environment is not None:
            cells = [(p, e, r) for p in prompts for e in examples for r in range(replicates)]
            flat = roll_out(self.task, self.task.environment, self.model, self.caller, cells)
            return _reshaped(flat, len(examples), replicates)
        if self.task.program is not None:
            cells = [(p, e, r) for p in prompts for e in examples for r in range(replicates)]
            flat = run_programs(self.task, self.model, self.caller, cells, self.replays)
            return _reshaped(flat, len(examples), replicates)
        if isinstance(self.model, CaptionModel) != (self.task.format == "caption"):
            raise InputError(
                "format = 'caption' and models that compare images with captions (local-clip:NAME) only work together: "
                "change the task's format or the model"
            )
        contexts = self._contexts(prompts, examples)
        if self.chooses and isinstance(self.model, LabelModel) and not written:
            per_context = self.caller.label_logprobs("task", self.model, contexts, self._scored_labels)
            flat = [reply for reply in per_context for _ in range(replicates)]
        else:
            flat = self._sampled(contexts, replicates)
        return _reshaped(flat, len(examples), replicates)

    def _contexts(self, prompts: Sequence[Prompt], examples: Sequence[Example]) -> list[Context]:
        return [self.task.layout.render(prompt, example) for prompt in prompts for example in examples]

    def _one_call_per_cell(self, replicates: int, reward: Reward | Judge | None) -> bool:
        """Whether the task model is called once for each cell, and no other model is called."""
        judged = isinstance(self.task.reward if reward is None else reward, Judge)
        asks_twice = self._read_labels and replicates > 1
        return not self.task.takes_several_calls and not judged and not asks_twice

    def _keys(self, prompts: Sequence[Prompt], examples: Sequence[Example], replicates: int) -> list[str]:
        """Return the keys of the calls that score prompts, in their order."""
        contexts = self._contexts(prompts, examples)
        if self.chooses and isinstance(self.model, LabelModel):
            return label_keys(self.model, contexts, self._scored_labels)
        return request_keys(self.model, (self._request(context, r) for context in contexts for r in range(replicates)))

    def _sampled(self, contexts: Sequence[Context], replicates: int) -> list[Reply]:
        """Return replies [contexts * replicates]; at temperature 0, one reply with log-probabilities serves all replicates."""
        first: list[Reply] = []
        if self._read_labels:
            first = self.caller.generate("task", self.model, [self._request(c, 0) for c in contexts])
        cells = [(i, r) for i in range(len(contexts)) for r in range(replicates)]
        deterministic = [
            isinstance(reply, Response) and reply.label_logprobs is not None and not self.task.temperature
            for reply in first
        ]
        known = {(i, r): first[i] for i, r in cells if first and (r == 0 or deterministic[i])}
        unknown = [cell for cell in cells if cell not in known]
        rest = self.caller.generate("task", self.model, [self._request(contexts[i], r) for i, r in unknown])
        known |= dict(zip(unknown, rest, strict=True))
        return [known[cell] for cell in cells]

    def _request(self, context: Context, replicate: int) -> Request:
        task = self.task
        return Request(
            context=context,
            max_tokens=task.max_tokens,
            temperature=task.temperature,
            top_p=task.top_p,
            top_k=task.top_k,
            stop=task.stop,
            replicate=replicate,
            labels=self._read_labels,
            options=task.request,
        )

    def _judged(self, cells: Sequence[tuple[Example, Reply]], judge: Judge) -> list[Verdict]:
        to_judge = [(i, example, reply) for i, (example, reply) in enumerate(cells) if isinstance(reply, Response)]
        requests = [judge_request(judge, example, reply) for _, example, reply in to_judge]
        out = [Verdict(np.nan, reply.reason if isinstance(reply, Failure) else "") for _, reply in cells]
        for (i, _, _), opinion in zip(to_judge, self.caller.generate("judge", judge.model, requests), strict=True):
            parsed = judge.read(opinion.text) if isinstance(opinion, Response) else None
            no_score = opinion.reason if isinstance(opinion, Failure) else f"no score in: {opinion.text[:200]}"
            out[i] = Verdict(*parsed) if parsed else Verdict(np.nan, no_score)
        return out


def judge_request(judge: Judge, example: Example, response: Response) -> Request:
    """Return the request for a judge's verdict on a reply."""
    return Request(context=judge.context(example, response), max_tokens=_JUDGE_TOKENS)


def chooses_labels(task: Task, model: Model) -> bool:
    """Whether answers are chosen among the labels by log-probability, not read from text."""
    return isinstance(model, LabelModel) and bool(task.labels) and task.logprobs and not task.takes_several_calls


def check_options(task: Task, model: Model) -> None:
    """Refuse request options of a task that its model does not take.

    Raises:
        InputError: the message names the option and says what to change.
    """
    if not task.request:
        return
    names, asked = ", ".join(task.request.to_json()), without_batches(model)
    name = asked.fingerprint.get("model", asked)
    if not isinstance(asked, OptionsModel):
        raise InputError(
            f"the task sets {names} in its request, which the model {name!r} does not take: remove it, or use a hosted model "
            f"({', '.join(HOSTED)})"
        )
    if chooses_labels(task, asked):
        raise InputError(
            f"the task sets {names} in its request, but {name!r} chooses among the labels by log-probability and sends no "
            "request of this kind: remove it, or set logprobs = false"
        )
    context: Context = (Message("user", ""),) if task.format == "chat" else ""
    sample = Request(context=context, max_tokens=task.max_tokens, top_k=task.top_k, options=task.request)
    asked.check_request(sample)


def _reshaped(flat: list[Reply], examples: int, replicates: int) -> list[list[list[Reply]]]:
    """Reshape flat replies to [P][E][R]."""
    return [
        [flat[start + e * replicates : start + (e + 1) * replicates] for e in range(examples)]
        for start in range(0, len(flat), examples * replicates)
    ]
