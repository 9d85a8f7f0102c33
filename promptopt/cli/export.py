"""`promptopt export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from promptopt.cli.output import say, say_lines
from promptopt.data.rows import read_rows, read_text
from promptopt.errors import InputError
from promptopt.prompt import Prompts
from promptopt.results.export import BATCH, FORMS, export, form_named, openai_batch
from promptopt.results.portable import PortablePrompt, is_portable
from promptopt.results.prompt_files import file_names
from promptopt.results.result import FILE, Result
from promptopt.utils.files import make_private_folder, write_private

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def export_prompt(
    run: Annotated[Path, typer.Argument(help="Folder of a run, its result.json, or a file written with `--as json`.")],
    form: Annotated[str, typer.Option("--as", help=f"Form: {', '.join((*FORMS, BATCH))}.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="File to write; for all prompts of a program, a folder.", show_default="stdout"
        ),
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Name of the prompt of a program.")] = None,
    candidate: Annotated[
        str, typer.Option(help="chosen, seed, predictor (the prompt with the label bias), or a candidate's number.")
    ] = "chosen",
    data: Annotated[
        str | None, typer.Option(help="Data file with the fields of the task, for --as openai-batch.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model of --as openai-batch. Default: that of the run.")] = None,
) -> None:
    """Write a run's prompt in the form that another tool reads. Every form holds the request that the run tested."""
    _check_options(form, data, model)
    rows = [row.values for row in read_rows(data)] if data is not None else []
    prompts = _prompts(run, prompt or "", candidate)
    folder = Path(data).parent if data is not None else Path()
    texts = {name: _written(portable, form, rows, model or "", folder) for name, portable in prompts.items()}
    if output is None:
        say_lines([next(iter(texts.values())).encode()] if len(texts) == 1 else _needs_folder(texts))
    elif list(texts) == [""]:
        _write(output, texts[""])
    else:
        ending = ".jsonl" if form == BATCH else form_named(form).ending
        for name, text in zip(file_names(texts), texts.values(), strict=True):
            _write(output / f"{name}{ending}", text)


def _check_options(form: str, data: str | None, model: str | None) -> None:
    """Refuse an unknown form, and options that the form does not use or lacks."""
    if form == BATCH and data is None:
        raise InputError(f"--as {BATCH} needs the inputs: give --data FILE with the fields of the task as columns")
    if form != BATCH:
        form_named(form)
        unused = {"--data": data, "--model": model}
        given = next((option for option, value in unused.items() if value is not None), None)
        if given is not None:
            raise InputError(f"{given} belongs to --as {BATCH}, and --as {form} does not use it: remove it")


def _prompts(run: Path, name: str, candidate: str) -> dict[str, PortablePrompt]:
    """Return the prompts to export by name; one without a name if it is no program's, or was named."""
    if run.is_file() and run.name != FILE and is_portable(read_text(run)):
        if name or candidate != "chosen":
            raise InputError(f"{run} holds one prompt: --prompt and --candidate are for the folder of a run")
        return {"": PortablePrompt.load(run)}
    result = Result.load(run)
    if isinstance(result.prompt, Prompts) and not name:
        return {part: result.portable(part, candidate=candidate) for part in result.prompt.names}
    exported = result.portable(name, candidate=candidate)
    if result.predictor is not None and exported.predictor is None and candidate == "chosen":
        say(
            f"note: the run's label bias belongs to {result.predictor_prompt}: export it with --candidate predictor",
            to_stderr=True,
        )
    return {"": exported}


def _written(portable: PortablePrompt, form: str, rows: Sequence[Mapping[str, str]], model: str, folder: Path) -> str:
    return openai_batch(portable, rows, model, folder) if form == BATCH else export(portable, form)


def _needs_folder(texts: Mapping[str, str]) -> list[bytes]:
    raise InputError(
        f"the run has {len(texts)} prompts ({', '.join(texts)}): give --output FOLDER for a file each, or --prompt NAME for one"
    )


def _write(path: Path, text: str) -> None:
    try:
        make_private_folder(path.parent)
        write_private(path, text)
    except OSError as error:
        raise InputError(
            f"--output: {path} cannot be written ({error.strerror or error}): name another file"
        ) from error
    say(path)
