"""A task: examples in three splits, a seed prompt and a reward.

Pure values; `promptopt.data.rows` reads data files, and `promptopt.data.task_file` reads task files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING

from promptopt.errors import InputError, nearest
from promptopt.models.options import NO_OPTIONS, RequestOptions
from promptopt.parsing.labels import check_labels
from promptopt.parsing.slots import check_slots
from promptopt.prompt import (
    IMAGE,
    LABEL,
    Demonstrations,
    Example,
    Format,
    Layout,
    Message,
    Prompt,
    PromptRole,
    Prompts,
    default_template,
)
from promptopt.replies import TOOL
from promptopt.rewards import LABEL_REWARDS, Exact, JsonFields, Judge, Label, Number, Progress, Reward
from promptopt.utils import notebook
from promptopt.utils.characters import character_fault

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from promptopt.environment import Environment
    from promptopt.models.base import Model
    from promptopt.program import Program

ROLES = ("task", "writer", "judge")
"""The models of a run, as results name them."""

_NO_PROMPT = Prompt("\0")  # the default, which is no prompt


@dataclass(frozen=True, kw_only=True)
class Task:
    """The problem to optimize a prompt for.

    Args:
        train: examples for the search.
        validation: examples for the choice among the search's best prompts.
        test: held-out examples, used only once, for the final comparison.
        seed_prompt: the initial prompt of the search and the baseline of the result.
        reward: scores replies; by default `Label` if there are labels, `Progress` if there is an environment, else
            `Exact`. A default reward follows the labels in `dataclasses.replace(task, labels=...)`.
        labels: the words that the model chooses among, or () for free text.
        read: "labels" scores test replies as the search does. "text" parses the text that the model writes in the test,
            even if the search scores labels by log-probability; the log-probability result is then reported in addition.
        logprobs: whether labels may be scored by log-probabilities if the model provides them; False always parses the
            text that the model writes.
        template: how an example is rendered if the prompt has no slot; by default its only field.
        prompt_role: "auto" makes a prompt with a slot the whole message, and one without the system prompt. "system", for chats,
            makes every prompt the system prompt, with its slots filled; the template follows as the user's turn.
        turns: sent verbatim after a system prompt, before the example; only with `prompt_role="system"`.
        images: for chats, fields with references to images, made by `promptopt.images.reference(path, image_folder)`. Only these
            are ever read as files. An image is sent where the user's turn has its slot; without a slot, before the text.
        image_folder: where the paths of images start; they stay inside it, also by links.
        format: "chat", "completion" or "caption". A caption is a prompt such as `a photo of a {label}` for a model that
            compares images with texts; examples then have a field `image`, made by `promptopt.images.reference`.
        description: one or two sentences on the task, for the writer model.
        name: a short name, for folders and reports.
        max_tokens: maximum length of a reply, in tokens.
        temperature: of the task model; above 0, replicates differ.
        top_p: nucleus sampling of the task model: the smallest set of tokens with at least this probability.
        top_k: sampling from this many most likely tokens; 0 means all.
        stop: a reply ends before the first of these strings.
        request: further options of the task model's requests, such as a JSON schema for its replies.
        environment: creates the environment of an episode, for multi-step tasks. Examples then have one field,
            `instance`, in JSON; prompts have one slot, `{observation}`; and a reply is an entire episode. Budgets reserve
            the maximum cost of validation and test episodes: `cap` rounds if instances have that key, or `max_rounds`.
        max_rounds: the most rounds of an episode, which then ends with its score so far; None leaves the end to the
            environment, and an episode of 1,000 rounds is a failure.
        history: number of past rounds shown before the observation.
        program: for tasks that take several prompts, `async def program(ask, prompts, example)`. The seed prompt is then `Prompts`,
            and the reply to an example is what the program returns.
        seed_prompts: name -> prompt of a program, in place of `seed_prompt`.
        max_calls: the most calls of a program for one example.
        models: name -> model, for the prompts of a program that another model than the task model answers.
        notes: remarks on the data for readers of the result.

    Raises:
        InputError: there are no training examples, ids are not unique, a target is not among the labels (or not one number,
            for `Number`, or not JSON of the schema, for `JsonFields`), labels cannot be told apart, the reward has other labels, a slot has no field, an image has
            no reference or is outside the folder, or a setting is out of range.
    """

    train: tuple[Example, ...]
    validation: tuple[Example, ...] = ()
    test: tuple[Example, ...] = ()
    seed_prompt: Prompt = _NO_PROMPT
    reward: Reward | Judge | None = None
    labels: tuple[str, ...] = ()
    logprobs: bool = True
    read: str = "labels"
    template: str = ""
    format: Format = "chat"
    prompt_role: PromptRole = "auto"
    turns: tuple[Message, ...] = ()
    images: tuple[str, ...] = ()
    image_folder: str | Path = "."
    description: str = ""
    name: str = "task"
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    request: RequestOptions = NO_OPTIONS
    environment: Callable[[], Environment] | None = None
    history: int = 3
    max_rounds: int | None = None
    program: Program | None = None
    seed_prompts: InitVar[Mapping[str, Prompt] | None] = None
    max_calls: int = 100
    models: Mapping[str, Model] | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)
    layout: Layout = field(init=False, repr=False, compare=False)
    # The reward if it is a default; an argument so that `dataclasses.replace` passes it on.
    _default_reward: Reward | None = field(default=None, repr=False, compare=False)

    def __post_init__(self, seed_prompts: Mapping[str, Prompt] | None) -> None:
        if seed_prompts is not None:
            if self.seed_prompt is not _NO_PROMPT:
                raise InputError("the task has both seed_prompt and seed_prompts: give seed_prompts for a program only")
            object.__setattr__(self, "seed_prompt", Prompts(seed_prompts))
        if not self.train:
            raise InputError("the task has no training examples: give at least one")
        self._check_kinds()
        for name in ("train", "validation", "test", "labels", "stop", "notes", "images"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        fields = tuple(self.train[0].inputs) if self.environment is None else ("observation",)
        if self.format == "caption":
            fields = (LABEL,)
        if not fields:
            raise InputError(f"the example {self.train[0].id!r} has no input fields: give at least one")
        template = self.template or default_template([name for name in fields if name not in self.images] or fields)
        object.__setattr__(self, "template", template)
        object.__setattr__(self, "layout", self._layout(fields, template))
        if self.reward is None or self.reward is self._default_reward:
            self._set_default_reward()
        self._check_program()
        self._check_images()
        self._check()
        self._check_prompt_role()
        self._check_sampling()
        if self.format == "caption":
            self._check_captions()
        if self.environment is not None:
            self._check_episodes()

    @property
    def fields(self) -> tuple[str, ...]:
        """The names that slots may have."""
        return self.layout.fields

    @property
    def takes_several_calls(self) -> bool:
        """Whether a reply may take several calls, whose number only the run shows: an episode, or a program."""
        return self.environment is not None or self.program is not None

    def _repr_html_(self) -> str:
        """Return what a notebook shows: sizes and labels of the splits, notes, and the seed prompt."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        rows = [
            (name, f"{len(examples):,}", *(f"{sum(e.target == label for e in examples):,}" for label in self.labels))
            for name, examples in splits.items()
        ]
        counts = notebook.table(("", "examples", *self.labels), rows)
        notes = "".join(notebook.paragraph(f"note: {note}") for note in self.notes)
        return f"<b>{notebook.paragraph(self.name)}</b>{counts}{notes}{notebook.block(str(self.seed_prompt))}"

    def _layout(self, fields: tuple[str, ...], template: str) -> Layout:
        turns, folder = tuple(self.turns), str(self.image_folder)
        return Layout(fields, template, self.format, self.prompt_role, turns, self.images, folder)

    def _check_program(self) -> None:
        several = isinstance(self.seed_prompt, Prompts)
        if self.program is None:
            if several:
                raise InputError("the task has several prompts, but no program that uses them: give program=")
            if self.models:
                raise InputError("the task has models by name, but no program that asks them: give program=")
            check_slots(self.seed_prompt.text, self.fields, "the seed prompt", self.template)
            return
        if not several:
            raise InputError("a program needs its prompts by name: give seed_prompts={'answer': Prompt('...')}")
        if not callable(self.program):
            raise InputError(f"program must be an `async def program(ask, prompts, example)`, not {self.program!r}")
        if self.environment is not None or self.format == "caption":
            raise InputError("a program cannot have an environment or captions: ask the model in the program")
        taken = next((name for name in self.models or () if name in (*ROLES, TOOL)), None)
        if taken is not None:
            raise InputError(f"the name {taken!r} of a model is reserved in results: rename it")
        if self.max_calls < 1:
            raise InputError(f"max_calls must be at least 1, not {self.max_calls}")

    def _set_default_reward(self) -> None:
        plain = Exact() if self.environment is None else Progress()
        default = Label(self.labels) if self.labels else plain
        object.__setattr__(self, "reward", default)
        object.__setattr__(self, "_default_reward", default)

    def _check_kinds(self) -> None:
        """Refuse values of wrong types, for users without a type checker."""
        if self.seed_prompt is _NO_PROMPT:
            raise InputError(
                "the task has no seed prompt: give seed_prompt=Prompt('...'), or seed_prompts= for a program"
            )
        if not isinstance(self.seed_prompt, Prompt):
            raise InputError(f"seed_prompt must be a Prompt, such as Prompt('...'), not {self.seed_prompt!r}")
        demonstrations = self.seed_prompt.demonstrations
        if not isinstance(demonstrations, Demonstrations | None):
            raise InputError(f"demonstrations must be Demonstrations((example, ...)), not {demonstrations!r}")
        for name in ("labels", "stop", "images"):
            texts = getattr(self, name)
            invalid = texts if isinstance(texts, str) else next((t for t in texts if not isinstance(t, str)), None)
            if invalid is not None:
                raise InputError(f"{name} must be several texts, such as ('yes', 'no'), not {invalid!r}")
        for text in (self.name, self.description, *self.labels, *self.stop):
            _refuse_fault(text, f"the task's text {text!r}")
        if isinstance(self.reward, str):
            raise InputError(f"reward must be a reward such as Exact(), or a function, not {self.reward!r}")
        shown = demonstrations.items if demonstrations else ()
        self._check_examples((*self.train, *self.validation, *self.test, *shown))

    @staticmethod
    def _check_examples(examples: Sequence[Example]) -> None:
        for example in examples:
            if not isinstance(example, Example):
                raise InputError(
                    f"every example must be an Example, such as Example({{'text': '...'}}, 'yes', '1'), not {example!r}"
                )
            if not isinstance(example.inputs, Mapping):
                raise InputError(
                    f"the inputs of example {example.id!r} must be {{field: text}}, not {example.inputs!r}"
                )
            values = [*example.inputs.values(), example.id, *([] if example.target is None else [example.target])]
            invalid = next((value for value in values if not isinstance(value, str)), None)
            if invalid is not None:
                raise InputError(
                    f"example {example.id!r} holds {invalid!r}: inputs, target and id must be texts, such as {str(invalid)!r}"
                )
            for value in values:
                _refuse_fault(value, f"example {example.id!r}")

    def _check(self) -> None:
        if self.format not in ("chat", "completion", "caption"):
            raise InputError(
                f"format must be 'chat', 'completion' or (for a model that compares images with texts) 'caption', not "
                f"{self.format!r}"
            )
        if len(set(self.labels)) < len(self.labels):
            raise InputError(f"the labels {list(self.labels)} contain a label twice: remove one")
        check_labels(self.labels)
        if len(self.labels) == 1:
            raise InputError(f"give two or more labels, or none for free text, not {list(self.labels)}")
        if isinstance(self.reward, LABEL_REWARDS) and self.labels and set(self.reward.labels) != set(self.labels):
            raise InputError(
                f"the reward {type(self.reward).__name__} has the labels {list(self.reward.labels)}, but the task has "
                f"{list(self.labels)}: give both the same labels"
            )
        check_slots(self.template, self.fields, "the template")
        if not self.layout.has_slot(self.template):
            raise InputError(f"the template {self.template!r} has no slot: name a field, such as {{{self.fields[0]}}}")
        split_of: dict[str, str] = {}
        for split in ("train", "validation", "test"):
            for example in getattr(self, split):
                if example.id in split_of:
                    raise InputError(
                        f"the id {example.id!r} is used in {split_of[example.id]} and in {split}: ids must be unique"
                    )
                split_of[example.id] = split
                self._check_fit(example, f"{split} example")
        for example in self.seed_prompt.demonstrations.items if self.seed_prompt.demonstrations else ():
            self._check_fit(example, "demonstration")

    def _check_prompt_role(self) -> None:
        if self.prompt_role not in ("auto", "system"):
            raise InputError(f"prompt_role must be 'auto' or 'system', not {self.prompt_role!r}")
        if self.turns and self.prompt_role != "system":
            raise InputError("the task has turns, which follow a system prompt: set prompt_role='system'")
        if any(turn.role == "system" for turn in self.turns):
            raise InputError(
                "the task's turns contain a system message, but the prompt is the system message: put its text into the prompt"
            )
        if self.prompt_role == "system" and (self.format != "chat" or self.takes_several_calls):
            raise InputError(
                "prompt_role = 'system' is for chats of one call: remove it for other formats, programs and environments"
            )

    def _check_images(self) -> None:
        unknown = next((name for name in self.images if name not in self.fields), None)
        if unknown is not None:
            raise InputError(
                f"images names {unknown!r}, which is no field of the examples{nearest(unknown, self.fields)}; fields: "
                f"{', '.join(self.fields)}"
            )
        if self.images and (self.format != "chat" or self.takes_several_calls):
            raise InputError(
                "images are for chats of one call: remove them for programs and environments, and for other formats (a caption's "
                "image needs no declaration)"
            )
        slot = next((f"{{{name}}}" for name in self.images if f"{{{name}}}" in self.seed_prompt.text), None)
        if slot is not None and self.prompt_role == "system":
            raise InputError(
                f"the seed prompt has the slot {slot} of an image, but it is the system's turn, which holds no images: remove the slot, "
                "or put it into the template"
            )

    def _check_sampling(self) -> None:
        if self.read not in ("labels", "text"):
            raise InputError(f"read must be 'labels' or 'text', not {self.read!r}")
        if self.seed_prompt.turns and self.format != "chat":
            raise InputError(f"prompts with turns need the task's format 'chat', not {self.format!r}")
        if not self.temperature >= 0:
            raise InputError(f"temperature must be 0 or more, not {self.temperature}")
        if self.max_tokens < 1:
            raise InputError(f"max_tokens must be at least 1, not {self.max_tokens}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p must be above 0 and at most 1 (all tokens), not {self.top_p}")
        if self.top_k < 0:
            raise InputError(f"top_k must be 1 or more, or 0 for all tokens, not {self.top_k}")
        if not isinstance(self.request, RequestOptions):
            raise InputError(f"request must be RequestOptions, such as RequestOptions(seed=1), not {self.request!r}")

    def _check_captions(self) -> None:
        if not self.labels or self.environment is not None:
            raise InputError("captions are compared with images label by label: give labels, and no environment")
        if not self.logprobs:
            raise InputError("captions can only be scored by log-probabilities: remove logprobs = false")
        if not self.layout.has_slot(self.seed_prompt.text) or self.seed_prompt.demonstrations is not None:
            raise InputError(
                f"the seed prompt {str(self.seed_prompt)[:60]!r} is not a caption: it needs the slot {{label}} and no demonstrations"
            )

    def _check_episodes(self) -> None:
        if self.labels:
            raise InputError("a task with an environment cannot have labels: the environment defines the actions")
        if self.seed_prompt.demonstrations is not None:
            raise InputError("a task with an environment cannot have demonstrations: put advice into the prompt text")
        if self.history < 0:
            raise InputError(f"history must be 0 or more rounds, not {self.history}")
        if self.max_rounds is not None and (self.environment is None or self.max_rounds < 1):
            raise InputError(f"max_rounds is 1 or more rounds of an environment's episode, not {self.max_rounds}")

    def _check_fit(self, example: Example, kind: str) -> None:
        fields = self.fields if self.environment is None else ("instance",)
        if self.format == "caption":
            fields = (IMAGE,)
        missing = [name for name in fields if name not in example.inputs]
        if missing:
            raise InputError(f"{kind} {example.id!r} has no field {missing[0]!r}, which other examples have")
        for name in self.images:
            self._check_reference(name, example, kind)
        if self.environment is not None and not _is_object(example.inputs["instance"]):
            raise InputError(f"{kind} {example.id!r} has no JSON object in its field 'instance'")
        if isinstance(self.reward, Number) and example.target is not None:
            self.reward.target_number(example)
        if isinstance(self.reward, JsonFields) and example.target is not None:
            self.reward.target_value(example)
        if self.labels and example.target is not None and example.target not in self.labels:
            raise InputError(
                f"{kind} {example.id!r} has the label {example.target!r}, which is not one of {list(self.labels)}"
                f"{nearest(example.target, self.labels)}"
            )

    def _check_reference(self, name: str, example: Example, kind: str) -> None:
        try:
            self.layout.image(name, example)
        except InputError as error:
            raise InputError(f"{kind} {example.id!r}, field {name!r}: {error}") from None


def _refuse_fault(text: str, what: str) -> None:
    fault = character_fault(text)
    if fault:
        raise InputError(f"{what} holds {fault}")


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
