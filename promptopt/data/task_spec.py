"""What a task file may hold: its sections and keys, validated, with a message for each error.

Reads no data and builds no task. Like sweep files, task files are validated by pydantic.
"""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from promptopt.data.splits import DEFAULT_SHARES
from promptopt.errors import InputError, nearest
from promptopt.prompt import PromptRole  # noqa: TC001  pydantic reads annotations when it runs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic_core import ErrorDetails


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

    @property
    def sources(self) -> tuple[str, ...]:
        """The data files."""
        return tuple(name for name in (self.file, self.train, self.validation, self.test) if name is not None)

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
        for key in keys if self.file is None else ():
            if key != "group_column":
                raise ValueError(f"has {key} but no file to split: remove {key}, or give file")
        others = [key for key in keys if key not in ("split_column", "group_column")]
        if self.split_column is not None and others:
            raise ValueError(f"has both split_column, which names each row's split, and {others[0]}: remove one")
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
    images: _Texts = ()
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
        excluded = (
            ("seed_prompt", "message", "template", "demonstrations", "environment", "images") if self.prompts else ()
        )
        conflicts = [key for key in excluded if getattr(self, key)]
        if conflicts:
            reason = "takes texts only" if conflicts == ["images"] else "has prompts of its own"
            raise ValueError(f"it has both {conflicts[0]} and a program, which {reason}: remove one")
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
            excluded = ("data", "labels", "template", "demonstrations", "message", "images")
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
