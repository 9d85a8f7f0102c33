"""A task: labelled (or unlabelled) items in three splits, a seed prompt, and what a good reply is.

Pure values; reading files is `promptopt.data.rows`, reading task files is `promptopt.data.task_file`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from promptopt.errors import InputError, nearest
from promptopt.parsing.labels import check_labels
from promptopt.parsing.slots import check_slots
from promptopt.prompt import IMAGE, LABEL, Demonstrations, Example, Format, Layout, Prompt
from promptopt.rewards import Exact, Judge, Label, LabelMargin, Number, Progress, Reward
from promptopt.utils.characters import character_fault

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from promptopt.environment import Environment


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to find a better prompt for.

    Args:
        train: items that the search may look at.
        validation: items by which the harness chooses among the search's best.
        test: items that nothing sees until the one final comparison.
        seed_prompt: where the search starts, and what the result is compared with.
        reward: what a reply is worth; by default `Label` where there are labels, `Progress` where there is an
            environment, else `Exact`. A default follows the labels in `dataclasses.replace(task, labels=...)`.
        labels: the words that the model chooses among, or () for free text.
        read: "text" lets the test read what the model writes, where the search scores labels by log-probability; what
            choosing among the labels gives is then said beside it. "labels" tests as the search scores.
        logprobs: whether labels may be scored by log-probabilities, where the model gives them; False reads them from the
            text that the model writes.
        template: how an example is written where a prompt has no slot; by default its only field.
        format: "chat", "completion", or "caption": the prompt is a caption such as `a photo of a {label}`, for a model that
            compares images with texts. Items then have a field `image`, made by `promptopt.images.reference`.
        description: one or two sentences on the task, for prompt writers.
        name: short, for folders and reports.
        max_tokens: longest reply, in tokens, where the model writes text.
        temperature: of the task model; above 0 replicates differ.
        top_p: of the task model: it samples from the fewest of the likeliest tokens whose probability reaches this.
        top_k: of the task model: it samples from so many of the likeliest tokens; 0 for all.
        stop: a reply ends before the first of these.
        environment: makes the environment of an episode, for tasks of several steps. Items then have one field,
            `instance`, in JSON, and prompts one slot, `{observation}`; a reply is a whole episode. Budgets hold back
            what episodes may take for validation and test: `cap` rounds, where instances say so.
        history: rounds of the episode that are shown before the observation.
        notes: what a reader of the result should know of the data.

    Raises:
        InputError: no training items, duplicate ids, a target outside the labels or without one number for `Number`, labels
            that no reply can tell apart, a reward for other labels, a slot without a field, a setting out of its range.
    """

    train: tuple[Example, ...]
    validation: tuple[Example, ...] = ()
    test: tuple[Example, ...] = ()
    seed_prompt: Prompt
    reward: Reward | Judge | None = None
    labels: tuple[str, ...] = ()
    logprobs: bool = True
    read: str = "labels"
    template: str = ""
    format: Format = "chat"
    description: str = ""
    name: str = "task"
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    environment: Callable[[], Environment] | None = None
    history: int = 3
    notes: tuple[str, ...] = field(default=(), compare=False)
    layout: Layout = field(init=False, repr=False, compare=False)
    # The reward, if it is a default; an argument so that `dataclasses.replace` hands it on.
    _default_reward: Reward | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.train:
            raise InputError("the task has no training items: give at least one")
        self._check_kinds()
        for name in ("train", "validation", "test", "labels", "stop", "notes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        fields = tuple(self.train[0].inputs) if self.environment is None else ("observation",)
        if self.format == "caption":
            fields = (LABEL,)
        if not fields:
            raise InputError(f"the item {self.train[0].id!r} has no input fields: give at least one")
        template = self.template or default_template(fields)
        object.__setattr__(self, "template", template)
        object.__setattr__(self, "layout", Layout(fields, template, self.format))
        if self.reward is None or self.reward is self._default_reward:
            self._set_default_reward()
        self._check()
        self._check_sampling()
        if self.format == "caption":
            self._check_captions()
        if self.environment is not None:
            self._check_episodes()

    @property
    def fields(self) -> tuple[str, ...]:
        """Names that slots may have."""
        return self.layout.fields

    def _set_default_reward(self) -> None:
        plain = Exact() if self.environment is None else Progress()
        default = Label(self.labels) if self.labels else plain
        object.__setattr__(self, "reward", default)
        object.__setattr__(self, "_default_reward", default)

    def _check_kinds(self) -> None:
        """Refuse values of another type, for those who have no type checker."""
        if not isinstance(self.seed_prompt, Prompt):
            raise InputError(f"seed_prompt must be a Prompt, such as Prompt('...'), not {self.seed_prompt!r}")
        shown = self.seed_prompt.demonstrations
        if not isinstance(shown, Demonstrations | None):
            raise InputError(f"demonstrations must be Demonstrations((example, ...)), not {shown!r}")
        for name in ("labels", "stop"):
            texts = getattr(self, name)
            odd = texts if isinstance(texts, str) else next((t for t in texts if not isinstance(t, str)), None)
            if odd is not None:
                raise InputError(f"{name} must be several texts, such as ('yes', 'no'), not {odd!r}")
        for text in (self.name, self.description, *self.labels, *self.stop):
            _refuse_fault(text, f"the task's text {text!r}")
        if isinstance(self.reward, str):
            raise InputError(f"reward must be a reward such as Exact(), or a function, not {self.reward!r}")
        self._check_items((*self.train, *self.validation, *self.test, *(shown.items if shown else ())))

    @staticmethod
    def _check_items(items: Sequence[Example]) -> None:
        for item in items:
            if not isinstance(item, Example):
                raise InputError(
                    f"items must be Examples, such as Example({{'text': '...'}}, 'yes', '1'), not {item!r}"
                )
            if not isinstance(item.inputs, Mapping):
                raise InputError(f"the inputs of item {item.id!r} must be {{field: text}}, not {item.inputs!r}")
            values = [*item.inputs.values(), item.id, *([] if item.target is None else [item.target])]
            odd = next((value for value in values if not isinstance(value, str)), None)
            if odd is not None:
                raise InputError(
                    f"item {item.id!r} holds {odd!r}: inputs, target and id must be texts, such as {str(odd)!r}"
                )
            for value in values:
                _refuse_fault(value, f"item {item.id!r}")

    def _check(self) -> None:
        if self.format not in ("chat", "completion", "caption"):
            raise InputError(
                f"format must be 'chat' or 'completion', not {self.format!r}; or 'caption', for a model that compares images "
                "with texts"
            )
        if len(set(self.labels)) < len(self.labels):
            raise InputError(f"the labels {list(self.labels)} name one label twice")
        check_labels(self.labels)
        if len(self.labels) == 1:
            raise InputError(f"labels must be two or more, or none for free text, not {list(self.labels)}")
        if isinstance(self.reward, Label | LabelMargin) and self.labels and set(self.reward.labels) != set(self.labels):
            raise InputError(
                f"the reward {type(self.reward).__name__} has the labels {list(self.reward.labels)}, but the task has "
                f"{list(self.labels)}: give both the same labels"
            )
        check_slots(self.template, self.fields, "the template")
        if not self.layout.has_slot(self.template):
            raise InputError(f"the template {self.template!r} has no slot: name a field, such as {{{self.fields[0]}}}")
        check_slots(self.seed_prompt.text, self.fields, "the seed prompt", self.template)
        seen: dict[str, str] = {}
        for split in ("train", "validation", "test"):
            for example in getattr(self, split):
                if example.id in seen:
                    raise InputError(
                        f"the id {example.id!r} stands in {seen[example.id]} and in {split}: ids must be unique"
                    )
                seen[example.id] = split
                self._check_fit(example, f"{split} item")
        for example in self.seed_prompt.demonstrations.items if self.seed_prompt.demonstrations else ():
            self._check_fit(example, "demonstration")

    def _check_sampling(self) -> None:
        if self.read not in ("labels", "text"):
            raise InputError(f"read must be 'labels' or 'text', not {self.read!r}")
        if self.seed_prompt.turns and self.format != "chat":
            raise InputError(f"only a chat has turns: set the task's format to 'chat', not {self.format!r}")
        if not self.temperature >= 0:
            raise InputError(f"temperature must be 0 or more, not {self.temperature}")
        if self.max_tokens < 1:
            raise InputError(f"max_tokens must be at least 1, not {self.max_tokens}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p must be above 0 and at most 1, which takes all tokens, not {self.top_p}")
        if self.top_k < 0:
            raise InputError(f"top_k must be 1 or more, or 0 for all tokens, not {self.top_k}")

    def _check_captions(self) -> None:
        if not self.labels or self.environment is not None:
            raise InputError("captions are compared with images label by label: give the task labels, no environment")
        if not self.logprobs:
            raise InputError("captions are scored by log-probabilities alone: leave out logprobs = false")
        if not self.layout.has_slot(self.seed_prompt.text) or self.seed_prompt.demonstrations is not None:
            raise InputError(
                f"the seed prompt {str(self.seed_prompt)[:60]!r} is no caption: give it the slot {{label}}, and no demonstrations"
            )

    def _check_episodes(self) -> None:
        if self.labels:
            raise InputError("a task with an environment has no labels: the environment says which actions there are")
        if self.seed_prompt.demonstrations is not None:
            raise InputError("a task with an environment shows no demonstrations: write what helps into the prompt")
        if self.history < 0:
            raise InputError(f"history must be 0 or more rounds, not {self.history}")

    def _check_fit(self, example: Example, kind: str) -> None:
        fields = self.fields if self.environment is None else ("instance",)
        if self.format == "caption":
            fields = (IMAGE,)
        missing = [name for name in fields if name not in example.inputs]
        if missing:
            raise InputError(f"{kind} {example.id!r} has no field {missing[0]!r}, which other items have")
        if self.environment is not None and not _is_object(example.inputs["instance"]):
            raise InputError(f"{kind} {example.id!r} has no JSON object in its field 'instance'")
        if isinstance(self.reward, Number) and example.target is not None:
            self.reward.wanted(example)
        if self.labels and example.target is not None and example.target not in self.labels:
            raise InputError(
                f"{kind} {example.id!r} has the label {example.target!r}, which is none of {list(self.labels)}"
                f"{nearest(example.target, self.labels)}"
            )


def _refuse_fault(text: str, what: str) -> None:
    fault = character_fault(text)
    if fault:
        raise InputError(f"{what} holds {fault}")


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def default_template(fields: Sequence[str]) -> str:
    """Return how an example is written where a task says nothing: the only field, or `name: value` lines."""
    if len(fields) == 1:
        return f"{{{fields[0]}}}"
    return "\n".join(f"{name}: {{{name}}}" for name in fields)
