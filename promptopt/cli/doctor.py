"""`promptopt doctor`: what a run would need, do and show, before it is started."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from promptopt.cli.model_options import CallLimits, ModelOptions, read_price
from promptopt.cli.output import say, say_json
from promptopt.cli.run import (
    BaseUrl,
    Data,
    DropUnusable,
    ExtraBody,
    GroupColumn,
    Input,
    Json,
    Label,
    Labels,
    MemoLocation,
    ModelName,
    NoLogprobs,
    Objectives,
    Predict,
    PredictPrice,
    PredictThreads,
    PredictTimeout,
    PredictVersion,
    Prefer,
    PriceText,
    PromptFolder,
    PromptFrom,
    PromptText,
    Read,
    Reward,
    SplitColumn,
    SplitSeed,
    TaskArgument,
    Tokenizer,
    _read_settings,
)
from promptopt.cli.source import PredictOptions, Source
from promptopt.optimization.checkup import examine
from promptopt.optimization.job import read_strategy
from promptopt.strategies.auto import AUTO

if TYPE_CHECKING:
    from promptopt.optimization.checkup import Checkup

_MARKS = {"ok": "ok", "note": "-", "problem": "no"}


def doctor(
    task: TaskArgument = None,
    model: ModelName = "local:smollm2",
    strategy: Annotated[
        str, typer.Option(help="Search strategy (see `promptopt strategies`), or one of your own as MODULE:CLASS.")
    ] = AUTO,
    data: Data = None,
    input: Input = None,  # noqa: A002  the option's name
    label: Label = None,
    labels: Labels = None,
    seed_prompt: PromptText = None,
    prompt_from: PromptFrom = None,
    predict: Predict = None,
    predict_version: PredictVersion = None,
    predict_threads: PredictThreads = None,
    predict_timeout: PredictTimeout = None,
    predict_price: PredictPrice = None,
    prompts: PromptFolder = None,
    reward: Reward = None,
    no_logprobs: NoLogprobs = False,
    read_as: Read = None,
    drop_unusable: DropUnusable = False,
    split_seed: SplitSeed = 0,
    split_column: SplitColumn = None,
    group_column: GroupColumn = None,
    base_url: BaseUrl = None,
    tokenizer: Tokenizer = None,
    price: PriceText = None,
    writer: Annotated[str | None, typer.Option(help="Model that writes new prompts. Default: the task model.")] = None,
    writer_base_url: Annotated[str | None, typer.Option(help="URL of the writer's endpoint.")] = None,
    writer_price: Annotated[str | None, typer.Option(help="Price of the writer, in the format of --price.")] = None,
    model_option: ModelOptions = None,
    extra_body: ExtraBody = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Strategy setting NAME=VALUE (repeatable).")] = None,
    budget: Annotated[str | None, typer.Option(help="Limit, such as '500 calls', '2 dollars' or '1M tokens'.")] = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    objectives: Objectives = None,
    prefer: Prefer = None,
    memo: MemoLocation = None,
    json_: Json = False,
) -> None:
    """Check data, models, strategy, budget and what the test can show, without calling a model.

    Takes the options of `promptopt optimize`. Exit codes: 0 a run can start, 1 it cannot.
    """
    predicts = PredictOptions(
        predict=predict,
        version=predict_version,
        threads=predict_threads,
        timeout=predict_timeout,
        price=read_price(predict_price, "--predict-price"),
        prompts=prompts,
    )
    source = Source(
        file=task,
        data=data,
        inputs=input,
        label=label,
        labels=labels,
        seed_prompt=seed_prompt,
        reward=reward,
        split_seed=split_seed,
        split_column=split_column,
        group_column=group_column,
        no_logprobs=no_logprobs,
        drop_unusable=drop_unusable,
        read=read_as,
        predict=predicts,
        prompt_from=prompt_from,
    )
    limits = CallLimits(None, None, None, None)
    checkup = examine(
        source.task,
        lambda: limits.load(model, base_url, price, tokenizer, extra_body=extra_body, model_options=model_option),
        lambda: read_strategy(strategy, source.folder),
        read_writer=lambda: limits.load(writer, writer_base_url, writer_price) if writer else None,
        memo=memo,
        budget=budget,
        seed=seed,
        settings=_read_settings(set_ or []),
        objectives=objectives,
        prefer=prefer,
    )
    words = sys.argv[sys.argv.index("doctor") + 1 :]
    command = ["promptopt", "optimize", *(word for word in words if word != "--json")]
    if json_:
        say_json({**checkup.to_json(), "command": command if checkup.ready else None})
    else:
        _print(checkup, command)
    raise typer.Exit(0 if checkup.ready else 1)


def _print(checkup: Checkup, command: list[str]) -> None:
    for topic, state, text in checkup.findings:
        say(f"{_MARKS[state]:4}{topic:10}{text}")
    say(f"\nrun it: {shlex.join(command)}" if checkup.ready else "\nnot ready: see the lines marked 'no'")
