"""Task files: validates TOML task files and builds the tasks that they describe.

The only module that uses pydantic. Data is read by `promptopt.data.task_data`. Knows nothing of models or strategies.
"""

from __future__ import annotations

import inspect
import reprlib
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from promptopt.data.message_list import MessageList, read_messages
from promptopt.data.rows import ENDINGS, read_text
from promptopt.data.splits import DEFAULT_SHARES
from promptopt.data.task_data import apply_limit, draw_demonstrations, read_splits
from promptopt.data.user_code import import_named
from promptopt.environments import task as environment_task
from promptopt.errors import InputError, nearest
from promptopt.models import load_model
from promptopt.models.base import Price
from promptopt.models.options import read_options
from promptopt.program import DEFAULT_THREADS, as_program
from promptopt.prompt import LABEL, Demonstrations, Message, Prompt, PromptRole, Prompts, default_template
from promptopt.rewards import Judge, reward_named
from promptopt.task import Task

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic_core import ErrorDetails

    from promptopt.program import Program
    from promptopt.rewards import Reward

_PROMPT_ENDINGS = (".txt", ".md")
FILE_NAME = "task.toml"


def _as_label_table(value: object) -> object:
    """Turn a list of label words into a table that maps each word to itself."""
    if not isinstance(value, list | tuple):
        return value
    if not all(isinstance(word, str) for word in value):
        raise ValueError('must be texts: write ["0", "1"], or a table { 0 = "word", 1 = "word" }')
    if len(set(value)) < len(value):
        raise ValueError(f"contain a word twice: {', '.join(value)}")
    return {word: word for word in value}


def _as_column_table(value: object) -> object:
    """Turn column names into the table field -> accepted columns."""
    if isinstance(value, str):
        return {value: (value,)}
    if isinstance(value, list | tuple):
        if not all(isinstance(name, str) for name in value):
            raise ValueError('must be column names, such as ["text"]')
        return {name: (name,) for name in value}
    if isinstance(value, dict):
        return {field: (names,) if isinstance(names, str) else names for field, names in value.items()}
    return value


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


_Texts = Annotated[tuple[str, ...], Field(strict=False)]  # TOML has lists
_Count = Annotated[int, Field(ge=1)]


class LimitSpec(_Section):
    """Maximum size of each split; larger splits are sampled at random, stratified by target."""

    train: _Count | None = None
    validation: _Count | None = None
    test: _Count | None = None


class DataSpec(_Section):
    """Data sources: either one file, which is split, or one file per split."""

    file: str | None = None
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    inputs: Annotated[
        dict[str, Annotated[tuple[str, ...], Field(strict=False, min_length=1)]],
        BeforeValidator(_as_column_table),
        Field(min_length=1),
    ]
    label: str | None = None
    id: str | None = None
    quoting: bool | None = None
    drop_unusable: bool = False
    seed: Annotated[int, Field(ge=0)] = 0
    shares: Annotated[tuple[float, ...], Field(strict=False)] = DEFAULT_SHARES
    split: Literal["hash", "shuffle"] = "hash"
    split_column: str | None = None
    group_column: str | None = None
    limit: LimitSpec = LimitSpec()

    @model_validator(mode="after")
    def _one_file_or_three(self) -> DataSpec:
        named = [key for key in ("train", "validation", "test") if getattr(self, key) is not None]
        if self.file is not None and named:
            raise ValueError(
                f"names both file and {named[0]}: keep file (split by shares), or train, validation and test"
            )
        if self.file is None and self.train is None:
            raise ValueError("names no file: give file (split by shares), or train, validation and test")
        return self

    @model_validator(mode="after")
    def _one_way_to_split(self) -> DataSpec:
        settings = ("shares", "split", "group_column", "split_column")
        keys = [key for key in settings if key in self.model_fields_set and getattr(self, key) is not None]
        if self.file is None and keys:
            raise ValueError(f"has {keys[0]} but no file to split: remove {keys[0]}, or give file")
        if self.split_column is not None and len(keys) > 1:
            raise ValueError(f"has both split_column, which names each row's split, and {keys[0]}: remove one")
        if self.group_column is not None and self.split == "shuffle":
            raise ValueError("has a group_column, and split = 'shuffle', which divides groups: remove one")
        return self


class EnvironmentSpec(_Section):
    """A built-in environment, used in place of data."""

    name: str
    train: _Count = 12
    validation: _Count = 12
    test: _Count = 24
    seed: Annotated[int, Field(ge=0)] = 0
    preset: Literal["small", "paper"] = "small"
    size: dict[str, _Count] = Field(default_factory=dict)
    history: Annotated[int, Field(ge=0)] = 3


class MessageSpec(_Section):
    """One message of a list."""

    role: Literal["system", "user", "assistant"]
    content: str


class JudgeSpec(_Section):
    """A model that scores replies, used in place of a reward."""

    model: str
    criteria: Annotated[str, Field(min_length=1)]
    scale: Annotated[tuple[int, int], Field(strict=False)] = (0, 10)


class TaskSpec(_Section):
    """The contents of a task file."""

    name: str = "task"
    description: str = ""
    format: Literal["chat", "completion", "caption"] = "chat"
    template: str = ""
    seed_prompt: str | None = None
    message: Annotated[tuple[MessageSpec, ...], Field(strict=False)] = ()
    prompt_role: PromptRole = "auto"
    labels: Annotated[dict[str, str], BeforeValidator(_as_label_table)] = Field(default_factory=dict)
    reward: str | None = None
    judge: JudgeSpec | None = None
    logprobs: bool = True
    read: Literal["labels", "text"] = "labels"
    max_tokens: _Count = 256
    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    stop: _Texts = ()
    request: dict[str, Any] = Field(default_factory=dict)
    demonstrations: Annotated[int, Field(ge=0)] = 0
    program: str | None = None
    predict: str | None = None
    version: str | None = None
    threads: _Count | None = None
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    price: (
        Annotated[
            tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...],
            Field(strict=False, min_length=2, max_length=4),
        ]
        | None
    ) = None
    prompts: dict[str, str] | str = Field(default_factory=dict)
    max_calls: _Count = 100
    models: dict[str, str] = Field(default_factory=dict)
    data: DataSpec | None = None
    environment: EnvironmentSpec | None = None

    @model_validator(mode="after")
    def _program_and_prompts(self) -> TaskSpec:
        if self.program is not None and self.predict is not None:
            raise ValueError(
                "it has both program and predict: a program asks the model, predict asks models by itself; remove one"
            )
        if self.predict is not None and self.version is None:
            raise ValueError(
                "it has predict, but no version, which identifies its code in the memo: add version = '1', and raise it when the code changes"
            )
        alone = [key for key in ("version", "threads", "timeout", "price") if getattr(self, key) is not None]
        if self.predict is None and alone:
            raise ValueError(f"it has {alone[0]}, but no predict that it belongs to: remove it")
        if (self.program is None and self.predict is None) != (not self.prompts):
            raise ValueError(
                "it has prompts, but no program that asks them: add program = 'module:function', or predict = 'module:function' "
                "with a version"
                if self.prompts
                else "it has a program, but no prompts: add a section [prompts] with name = 'text', or prompts = 'FOLDER'"
            )
        excluded = ("seed_prompt", "message", "template", "demonstrations", "environment") if self.prompts else ()
        conflicts = [key for key in excluded if getattr(self, key)]
        if conflicts:
            raise ValueError(f"it has both {conflicts[0]} and a program, which has prompts of its own: remove one")
        return self

    @model_validator(mode="after")
    def _messages_alone(self) -> TaskSpec:
        conflicts = [key for key in ("seed_prompt", "template") if getattr(self, key)]
        if self.message and conflicts:
            raise ValueError(f"it has both {conflicts[0]} and [[message]], which holds it too: remove one")
        return self

    @model_validator(mode="after")
    def _reward_or_judge(self) -> TaskSpec:
        if self.reward is not None and self.judge is not None:
            raise ValueError("it has both reward and [judge], which scores replies in its place: remove one")
        return self

    @model_validator(mode="after")
    def _data_or_environment(self) -> TaskSpec:
        if self.data is None and self.environment is None:
            raise ValueError("it has no data: add a section [data], or [environment] for a multi-step task")
        if self.environment is not None:
            excluded = ("data", "labels", "template", "demonstrations", "message")
            conflicts = [key for key in excluded if key in self.model_fields_set and getattr(self, key)]
            if conflicts:
                raise ValueError(
                    f"it has both {conflicts[0]} and [environment], which makes its own examples: remove one"
                )
        return self

    @property
    def words(self) -> tuple[str, ...]:
        """The distinct label words, in order."""
        return tuple(dict.fromkeys(self.labels.values()))


_EXPLANATIONS = {
    "bool_type": "must be true or false",
    "dict_type": "must be a list or a table",
    "int_type": "must be a whole number",
    "model_type": "must be a table",
    "string_too_short": "must not be empty",
    "string_type": "must be text",
    "too_short": "must not be empty",
    "tuple_type": "must be a list",
}
_SECTIONS: dict[tuple[str, ...], type[_Section]] = {
    (): TaskSpec,
    ("message",): MessageSpec,
    ("data",): DataSpec,
    ("data", "limit"): LimitSpec,
    ("environment",): EnvironmentSpec,
    ("judge",): JudgeSpec,
}


def load_task(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Task:
    """Read a task file and the data that it names.

    Args:
        path: the TOML file, or a folder with a `task.toml`. Paths in the file are relative to its folder.
        overrides: values that replace the file's, by dotted key, such as `{"data.seed": 3}`.

    Raises:
        InputError: the message names the file, the key, the value and the fix.
    """
    file = Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)
    try:
        values = tomllib.loads(read_text(file))
    except tomllib.TOMLDecodeError as error:
        if file.suffix.lower() in ENDINGS:
            raise InputError(
                f"{file} is a data file, not a task file: use --data with --input and --label, or name it under [data] in a "
                "task file"
            ) from error
        raise InputError(f"{file} is not valid TOML: {error}") from error
    values.setdefault("name", file.resolve().parent.name if file.name == FILE_NAME else file.stem)
    for key, value in (overrides or {}).items():
        _override(values, key, value, str(file))
    spec = parse_spec(values, str(file))
    try:
        return build_task(spec, file.parent)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def parse_spec(values: Mapping[str, Any], where: str) -> TaskSpec:
    """Validate the values of a task file.

    Args:
        values: the parsed TOML.
        where: name of the source, for messages.

    Raises:
        InputError: lists all errors, one per line.
    """
    try:
        return TaskSpec.model_validate(values)
    except ValidationError as error:
        raise InputError("\n".join(f"{where}: {_explain(item)}" for item in error.errors())) from error


def build_task(spec: TaskSpec, folder: Path) -> Task:
    """Read the data of a specification and build the task.

    Demonstrations are drawn at random from train, `spec.demonstrations` per label (in total, for free text), and removed
    from it, so that a search does not score prompts on their own demonstrations. Limits are applied afterwards.

    Args:
        spec: the contents of the task file.
        folder: base of relative paths.

    Raises:
        InputError: the data, the reward or the prompts cannot be used.
    """
    if spec.environment is not None:
        return _environment_task(spec, spec.environment, folder)
    if spec.data is None:
        raise InputError("the task has no data")  # unreachable: TaskSpec has checked this
    notes: list[str] = []
    splits = read_splits(spec, spec.data, folder, notes)
    demonstrations = draw_demonstrations(splits.train, spec, spec.data.seed)
    if len(demonstrations) == len(splits.train):
        raise InputError(
            f"demonstrations = {spec.demonstrations} takes all {len(demonstrations)} training examples: give more examples"
        )
    taken = {example.id for example in demonstrations}
    splits = splits._replace(train=tuple(example for example in splits.train if example.id not in taken))
    limited = {name: apply_limit(examples, name, spec.data) for name, examples in splits._asdict().items()}
    if spec.message:
        messages = read_messages([Message(each.role, each.content) for each in spec.message], tuple(spec.data.inputs))
    else:
        text = spec.seed_prompt if spec.seed_prompt is not None else _default_prompt(spec, spec.data)
        messages = MessageList(text, (), spec.template)
    prompt = Prompt(messages.prompt, Demonstrations(demonstrations) if demonstrations else None)
    return Task(
        train=limited["train"],
        validation=limited["validation"],
        test=limited["test"],
        seed_prompt=_prompts(spec.prompts, folder) if spec.prompts else prompt,
        program=_program(spec, folder) if spec.prompts else None,
        max_calls=spec.max_calls,
        models={name: load_model(model) for name, model in spec.models.items()} or None,
        reward=_reward(spec, folder),
        labels=spec.words,
        logprobs=spec.logprobs,
        read=spec.read,
        template=messages.template,
        prompt_role="system" if spec.message else spec.prompt_role,
        turns=messages.turns,
        format=spec.format,
        description=spec.description,
        name=spec.name,
        max_tokens=spec.max_tokens,
        temperature=spec.temperature,
        top_p=spec.top_p,
        top_k=spec.top_k,
        stop=spec.stop,
        request=read_options(spec.request, "[request]", folder),
        notes=tuple(notes),
    )


def _environment_task(spec: TaskSpec, world: EnvironmentSpec, folder: Path) -> Task:
    """Return the task of a built-in environment, with the file's settings in place of the environment's defaults."""
    counts = {"train": world.train, "validation": world.validation, "test": world.test}
    task = environment_task(world.name, **counts, seed=world.seed, preset=world.preset, **world.size)
    return replace(
        task,
        seed_prompt=task.seed_prompt if spec.seed_prompt is None else Prompt(spec.seed_prompt),
        reward=_reward(spec, folder) or task.reward,
        description=spec.description or task.description,
        format=spec.format,
        name=spec.name,
        max_tokens=spec.max_tokens,
        temperature=spec.temperature,
        top_p=spec.top_p,
        top_k=spec.top_k,
        stop=spec.stop,
        request=read_options(spec.request, "[request]", folder),
        history=world.history,
    )


def _default_prompt(spec: TaskSpec, data: DataSpec) -> str:
    """Return the default seed prompt: an instruction or, for completions, the example and a cue."""
    if spec.format == "caption":
        return f"a photo of a {{{LABEL}}}"
    if spec.format == "completion":
        template = spec.template or default_template(tuple(data.inputs))
        return f"{template}\n{'Label' if spec.labels else 'Answer'}:"
    if spec.labels:
        return f"{spec.description or 'Classify the text.'} Answer with one of: {', '.join(spec.words)}."
    return spec.description or "Answer the question."


def _reward(spec: TaskSpec, folder: Path) -> Reward | Judge | None:
    if spec.judge is not None:
        return Judge(load_model(spec.judge.model), spec.judge.criteria, spec.judge.scale)
    if spec.reward is None:
        return None
    name = spec.reward
    module, colon, _ = name.partition(":")
    # A name without the ending may be a function in a json.py beside the task file.
    if not colon or module == "regex" or (module == "json" and name.endswith(".json")):
        return reward_named(name, spec.words, folder)
    reward: Reward = import_named(
        name, folder, key="reward", instead="the name of a built-in reward, or module:function"
    )
    _check_signature(reward, name)
    return reward


def _prompts(given: dict[str, str] | str, folder: Path) -> Prompts:
    """Return the prompts of a program: as given, or the files of a folder by their names without ending."""
    if isinstance(given, dict):
        return Prompts({name: Prompt(text) for name, text in given.items()})
    place = folder / given
    files = sorted(file for file in place.glob("*") if file.suffix in _PROMPT_ENDINGS)
    if not files:
        raise InputError(f"prompts = {given!r}: there is no folder {place} with files such as answer.txt or answer.md")
    names = [file.stem for file in files]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"prompts = {given!r}: {place} has two files for the prompt {twice!r}: remove one")
    return Prompts({file.stem: Prompt(read_text(file).replace("\r\n", "\n").rstrip("\n")) for file in files})


def _program(spec: TaskSpec, folder: Path) -> Program:
    if spec.predict is not None:
        predict = import_named(spec.predict, folder, key="predict", instead="module:function")
        return as_program(
            predict,
            version=str(spec.version),
            name=spec.predict,
            threads=spec.threads or DEFAULT_THREADS,
            timeout=spec.timeout,
            price=None if spec.price is None else Price(*spec.price),
        )
    name = str(spec.program)
    program: Program = import_named(name, folder, key="program", instead="module:function")
    if not inspect.iscoroutinefunction(program):
        raise InputError(f"program = {name!r} must be written `async def program(ask, prompts, example)`")
    return program


def _check_signature(reward: Reward, name: str) -> None:
    """Refuse callables that cannot be called as a reward, such as classes and functions of one argument."""
    if isinstance(reward, type):
        raise InputError(f"reward = {name!r} is a class: name a function, or an instance of the class")
    try:
        inspect.signature(reward).bind(None, None)
    except (TypeError, ValueError) as error:
        signature = f"takes {inspect.signature(reward)}" if isinstance(error, TypeError) else "has no known signature"
        raise InputError(
            f"reward = {name!r} cannot be used: it {signature}, but a reward must be a function of (example, response)"
        ) from error


def _override(values: dict[str, Any], key: str, value: Any, where: str) -> None:
    *sections, last = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise InputError(f"{where}: {key} cannot be set because {section} is not a table")
    values[last] = value


def _explain(error: ErrorDetails) -> str:
    """Translate one of pydantic's errors: the key, the value and what is allowed."""
    path = tuple(str(part) for part in error["loc"])
    key = ".".join(path)
    if error["type"] == "extra_forbidden":
        return _unknown_key(path)
    if error["type"] == "missing":
        return f"the key {key!r} is missing"
    if error["type"] == "value_error":
        return f"{key} {error['msg'].removeprefix('Value error, ')}".strip()
    explanation = _EXPLANATIONS.get(error["type"], error["msg"].replace("Input should", "must"))
    return f"{key} = {reprlib.repr(error['input'])}: {explanation}"


def _unknown_key(path: tuple[str, ...]) -> str:
    section, key = tuple(part for part in path[:-1] if not part.isdecimal()), path[-1]
    known = _SECTIONS[section].model_fields
    elsewhere = [other for other, model in _SECTIONS.items() if other != section and key in model.model_fields]
    location = f" in [{'.'.join(section)}]" if section else ""
    if elsewhere:
        home = f"in [{'.'.join(elsewhere[0])}]" if elsewhere[0] else "above the first [section]"
        return f"unknown key {key!r}{location}; it belongs {home}"
    return f"unknown key {key!r}{location}{nearest(key, known)}; known keys: {', '.join(known)}"
