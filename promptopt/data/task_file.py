"""Task files: builds the tasks that TOML files describe.

What a file may hold is in `promptopt.data.task_spec`; data is read by `promptopt.data.task_data`. Knows nothing of strategies.
"""

from __future__ import annotations

import inspect
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptopt.data.image_files import image_folder
from promptopt.data.message_list import MessageList, read_messages
from promptopt.data.python_task import is_python_name, python_task
from promptopt.data.rows import ENDINGS, read_text
from promptopt.data.task_data import apply_limit, draw_demonstrations, read_splits
from promptopt.data.task_spec import DataSpec, EnvironmentSpec, TaskSpec, parse_spec
from promptopt.data.user_code import import_named
from promptopt.environments import task as environment_task
from promptopt.errors import InputError
from promptopt.models import load_model
from promptopt.models.base import Price
from promptopt.models.options import read_options
from promptopt.program import DEFAULT_THREADS, as_program
from promptopt.prompt import LABEL, Demonstrations, Message, Prompt, Prompts, default_template
from promptopt.rewards import Judge, reward_named
from promptopt.task import Task

if TYPE_CHECKING:
    from collections.abc import Mapping

    from promptopt.program import Program
    from promptopt.rewards import Reward

_PROMPT_ENDINGS = (".txt", ".md")
FILE_NAME = "task.toml"


def load_task(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Task:
    """Read a task file and the data that it names.

    Args:
        path: the TOML file, or a folder with a `task.toml`. Paths in the file are relative to its folder. Or `module:name`,
            a task that a Python file makes.
        overrides: values that replace the file's, by dotted key, such as `{"data.seed": 3}`.

    Raises:
        InputError: the message names the file, the key, the value and the fix.
    """
    file = Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)
    if is_python_name(file):
        return python_task(file, overrides or {})
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
        images=spec.images,
        image_folder=image_folder(folder, spec.data.sources) if spec.images else Task.image_folder,
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
        what = "image" if spec.images else "text"
        return f"{spec.description or f'Classify the {what}.'} Answer with one of: {', '.join(spec.words)}."
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
