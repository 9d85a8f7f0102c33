"""`promptopt optimize` and `promptopt score`."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from promptopt.cli.model_options import CallLimits, ModelOptions, read_price
from promptopt.cli.output import say, say_json, say_table
from promptopt.cli.score_table import print_scores, score_prompts
from promptopt.cli.source import PredictOptions, Source, read_prompts
from promptopt.data.user_code import import_named
from promptopt.errors import InputError
from promptopt.evaluation.caller import Caller
from promptopt.evaluation.ledger import Budget, Ledger
from promptopt.evaluation.scorer import Scorer
from promptopt.memo.memo import Memo
from promptopt.models.base import LabelModel
from promptopt.optimization.api import run_job
from promptopt.optimization.estimate import estimate
from promptopt.optimization.job import prepare, read_strategy
from promptopt.optimization.run_folder import PROMPTS
from promptopt.program import DEFAULT_THREADS
from promptopt.results.front import FRONT_HEADS
from promptopt.results.prompt_files import prompt_diff
from promptopt.results.result import CHOSEN, SPENDING
from promptopt.strategies.auto import AUTO
from promptopt.tracking.display import Display

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from promptopt.models.base import Model
    from promptopt.results.result import Result

TaskArgument = Annotated[
    Path | None, typer.Argument(help="Task file (TOML); use instead of --data.", show_default=False)
]
Data = Annotated[
    str | None, typer.Option(help="Data file: CSV, TSV, JSON or JSONL. Rows keep their split when rows are added.")
]
Input = Annotated[list[str] | None, typer.Option(help="Input column (repeatable).")]
Label = Annotated[str | None, typer.Option(help="Column with the correct answer.")]
Labels = Annotated[
    list[str] | None,
    typer.Option(
        help="Allowed labels: a,b or VALUE=WORD,VALUE=WORD. To use labels that contain ',' or '=', repeat the option with one "
        "label or VALUE=WORD each."
    ),
]
DropUnusable = Annotated[
    bool,
    typer.Option("--drop-unusable", help="Skip and list unusable rows instead of stopping with an error."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Overwrite the result of another run in --run-dir.")]
PromptText = Annotated[str | None, typer.Option("--seed-prompt", help="Prompt that the search starts from.")]
PromptFrom = Annotated[
    Path | None,
    typer.Option(help="Start from the prompt of this run (folder), or of this file: text, or exported with --as json."),
]
NoLogprobs = Annotated[
    bool, typer.Option("--no-logprobs", help="Do not request log-probabilities; parse labels from the reply text.")
]
Read = Annotated[
    str | None,
    typer.Option(
        "--read",
        help="How the test reads answers: 'labels' (most likely label), or 'text' to also test the text the model writes.",
        show_default="from the task file, or labels",
    ),
]
Reward = Annotated[str | None, typer.Option(help="Built-in reward, json:SCHEMA.json or MODULE:FUNCTION.")]
SplitSeed = Annotated[int, typer.Option(help="Random seed of the train/validation/test split.")]
SplitColumn = Annotated[str | None, typer.Option(help="Column that names each row's split: train, validation or test.")]
GroupColumn = Annotated[
    str | None, typer.Option(help="Column of groups, such as customers, that are kept in one split each.")
]
ModelName = Annotated[str, typer.Option("--model", help="Task model as KIND:NAME; see `promptopt models`.")]
BaseUrl = Annotated[str | None, typer.Option(help="URL of a hosted model's endpoint, if not the provider's.")]
Tokenizer = Annotated[
    str | None,
    typer.Option(help="Tokenizer of a completions: model (folder, hub name or GGUF file); needed to score chats."),
]
PriceText = Annotated[
    str | None,
    typer.Option(
        "--price", help="INPUT,OUTPUT[,CACHED[,WRITTEN]] in dollars per million tokens; overrides the built-in price."
    ),
]
Concurrency = Annotated[int | None, typer.Option(min=1, help="Maximum concurrent calls to a hosted model.")]
Timeout = Annotated[float | None, typer.Option(help="Timeout per attempt, in seconds (hosted models).")]
Rpm = Annotated[int | None, typer.Option(min=1, help="Maximum requests per minute to a hosted model.")]
Tpm = Annotated[int | None, typer.Option(min=1, help="Maximum tokens per minute to a hosted model.")]
ExtraBody = Annotated[
    str | None,
    typer.Option(
        help="Extra fields for every request to --model, as a JSON object such as "
        '\'{"logit_bias": {"1904": 100}}\'. Shown in the report.'
    ),
]
Batch = Annotated[
    bool, typer.Option("--batch", help="Score through the provider's batch API: half the price, results within a day.")
]
Replicas = Annotated[int | None, typer.Option(min=1, help="Number of copies of a local --model to run as Ray actors.")]
RayAddress = Annotated[
    str | None,
    typer.Option("--ray", help="Ray cluster for --replicas: HOST:PORT or auto. Default: this machine."),
]
Predict = Annotated[
    str | None,
    typer.Option(
        help="Code that asks models by itself, as MODULE:FUNCTION: a Python file beside the task file (with --data, in the "
        "current folder) or an installed module. The function maps {name: prompt} and the example's inputs to an output."
    ),
]
PredictVersion = Annotated[
    str | None, typer.Option(help="Version of --predict, by which the memo knows its outputs; change it with the code.")
]
PredictThreads = Annotated[
    int | None, typer.Option(min=1, help="Maximum concurrent calls of --predict.", show_default=str(DEFAULT_THREADS))
]
PredictTimeout = Annotated[float | None, typer.Option(help="Timeout of one call of --predict, in seconds.")]
PredictPrice = Annotated[
    str | None, typer.Option(help="Price of the tokens that --predict reports, in the format of --price.")
]
PromptFolder = Annotated[
    Path | None,
    typer.Option(help="Folder with the seed prompts of --predict or of the task's program: NAME.txt or NAME.md each."),
]
MemoLocation = Annotated[
    str | None, typer.Option("--memo", help="Memo (store of replies): a folder or redis://HOST:PORT/DB.")
]
Objectives = Annotated[
    str | None,
    typer.Option(
        help="Several objectives: 'reward' and tokens, dollars or names of the reward's numbers, such as 'reward,tokens'. "
        "The result is a front."
    ),
]
Prefer = Annotated[
    str | None,
    typer.Option(
        help="Point of the front to recommend, such as 'reward, tokens <= 300' or 'tokens, reward >= best - 0.01'."
    ),
]
Callbacks = Annotated[
    list[str] | None,
    typer.Option(
        "--callback",
        help="Function to call with each event of the run, as MODULE:FUNCTION: a Python file beside the task file (with --data, "
        "in the current folder) or an installed module (repeatable).",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Do not show progress.")]
Json = Annotated[bool, typer.Option("--json", help="Print only JSON to stdout.")]


def optimize(
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
    concurrency: Concurrency = None,
    timeout: Timeout = None,
    rpm: Rpm = None,
    tpm: Tpm = None,
    extra_body: ExtraBody = None,
    model_option: ModelOptions = None,
    batch: Batch = False,
    replicas: Replicas = None,
    ray: RayAddress = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Strategy setting NAME=VALUE (repeatable).")] = None,
    budget: Annotated[str | None, typer.Option(help="Limit, such as '500 calls', '2 dollars' or '1M tokens'.")] = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    objectives: Objectives = None,
    prefer: Prefer = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(help="Folder for the result and report.", show_default="a new folder in runs/"),
    ] = None,
    overwrite: Overwrite = False,
    memo: MemoLocation = None,
    study: Annotated[
        str | None,
        typer.Option(help="Optuna storage URL to record the run in.", show_default="study.db in --run-dir"),
    ] = None,
    no_study: Annotated[bool, typer.Option("--no-study", help="Do not record an Optuna study.")] = False,
    callback: Callbacks = None,
    quiet: Quiet = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Estimate calls and cost without calling a model.")
    ] = False,
    json_: Json = False,
) -> None:
    """Search for a better prompt, select on validation data, and test it once on held-out data."""
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
    settings = _read_settings(set_ or [])
    loaded_task = source.task()
    loaded_strategy = read_strategy(strategy, source.folder)
    callbacks = [
        import_named(name, source.folder, key="--callback", instead="MODULE:FUNCTION") for name in callback or []
    ]
    limits = CallLimits(concurrency, timeout, rpm, tpm)
    loaded_model = limits.load(model, base_url, price, tokenizer, replicas, ray, extra_body, model_option)
    loaded_model = _with_batches(loaded_model) if batch else loaded_model
    options: dict[str, Any] = {
        "writer": limits.load(writer, writer_base_url, writer_price) if writer else None,
        "budget": budget,
        "seed": seed,
        "settings": settings,
        "objectives": objectives,
        "prefer": prefer,
    }
    if dry_run:
        cost = estimate(loaded_task, loaded_model, loaded_strategy, memo=memo, **options)
        say_json(cost.to_json()) if json_ else say(cost)
        return
    if study is not None and no_study:
        raise InputError("--study and --no-study contradict each other: give one of them")
    job = prepare(loaded_task, loaded_model, loaded_strategy, **options)
    with Display(quiet=quiet) as display, Memo(memo) as store, _redirect_library_output():
        result = run_job(
            job,
            run_dir=run_dir or Path("runs") / job.folder_name,
            memo=store,
            display=display,
            tracking=study or not no_study,
            callbacks=callbacks,
            overwrite=overwrite,
        )
    if json_:
        outcome = {"headline": result.headline, "improved": result.improved, "finished": result.finished}
        say_json({**result.to_json(), **outcome})
    else:
        _print_result(result)
    raise typer.Exit(0 if result.finished else 1)


def score(
    task: TaskArgument = None,
    prompt: Annotated[list[str] | None, typer.Option(help="Prompt to score (repeatable).")] = None,
    prompt_file: Annotated[
        list[Path] | None,
        typer.Option(
            "--prompt-from",
            "--prompt-file",
            help="Folder of a run, or a file with a prompt: text, or exported with --as json (repeatable).",
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Split to score on: train, validation or test.")] = "validation",
    replicates: Annotated[int, typer.Option(min=1, help="Replies per prompt and example.")] = 1,
    model: ModelName = "local:smollm2",
    data: Data = None,
    input: Input = None,  # noqa: A002  the option's name
    label: Label = None,
    labels: Labels = None,
    seed_prompt: PromptText = None,
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
    concurrency: Concurrency = None,
    timeout: Timeout = None,
    rpm: Rpm = None,
    tpm: Tpm = None,
    extra_body: ExtraBody = None,
    model_option: ModelOptions = None,
    batch: Batch = False,
    replicas: Replicas = None,
    ray: RayAddress = None,
    budget: Annotated[str | None, typer.Option(help="Limit, such as '500 calls', '2 dollars' or '1M tokens'.")] = None,
    memo: MemoLocation = None,
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """Score prompts on a task, with 95 % intervals. Without --prompt, the seed prompt is scored."""
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
    )
    loaded_task = source.task()
    splits = {"train": loaded_task.train, "validation": loaded_task.validation, "test": loaded_task.test}
    if split not in splits or not splits[split]:
        raise InputError(
            f"the task has no examples in split {split!r}: use one of {[k for k, v in splits.items() if v]}"
        )
    prompts = read_prompts(prompt or [], prompt_file or [], loaded_task)
    loaded_model = CallLimits(concurrency, timeout, rpm, tpm).load(
        model, base_url, price, tokenizer, replicas, ray, extra_body, model_option
    )
    loaded_model = _with_batches(loaded_model) if batch else loaded_model
    with Display(quiet=quiet) as display, Memo(memo) as store, _redirect_library_output():
        ledger = Ledger(Budget.parse(budget) if budget else Budget())
        caller = Caller(store, ledger, watch=lambda: display.count(ledger))
        scorer = Scorer(loaded_task, loaded_model, caller)
        rows = score_prompts(scorer, prompts or [loaded_task.seed_prompt], split, replicates)
    label_notes = [CHOSEN] if scorer.chooses and not scorer.tests_text else []
    for note in (*loaded_task.notes, *ledger.notes(), *scorer.tally.notes, *label_notes):
        say(f"note: {note}", to_stderr=json_)
    if json_:
        say_json(rows)
    else:
        print_scores(rows)
    raise typer.Exit(1 if any(row["failed"] for row in rows) else 0)


def _redirect_library_output() -> AbstractContextManager[Any]:
    """Redirect what libraries print (such as Ray, when an actor dies) to stderr: stdout is for results."""
    return redirect_stdout(sys.stderr)


def _with_batches(model: Model) -> Model:
    from promptopt.models.loading import batch_model  # noqa: PLC0415  loaded when used

    if isinstance(model, LabelModel):
        raise InputError(f"{model!r} scores labels, which batch endpoints do not support: remove --batch")
    return batch_model(model)


def _print_result(result: Result) -> None:
    say_table(["", "seed prompt", "chosen prompt"], result.rows(), title=result.task)
    if result.points:
        say_table(FRONT_HEADS, result.front_rows(), title="front", left=(0, 1))
        for record in result.front:
            say(f"\ncandidate {record.number}:\n{record.prompt}")
    say_table(["", ""], result.facts(), left=(0, 1), plain=True)
    say_table(SPENDING, result.spending(), plain=True)
    for note in result.notes:
        say(f"note: {note}")
    # Not in a table, which would wrap the prompt's lines.
    say(f"\n{_shown_prompt(result)}\n\n{result.headline}")


def _shown_prompt(result: Result) -> str:
    """Return the chosen prompt; of a program, what changed in the files of its prompts."""
    diff = prompt_diff(result.seed_prompt, result.prompt)
    if not diff:
        return f"chosen prompt:\n{result.prompt}"
    where = f", in {Path(result.run_dir) / PROMPTS}" if result.run_dir else ""
    return f"changes in the prompts{where}:\n{diff}"


def _read_settings(assignments: list[str]) -> dict[str, str]:
    out = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise InputError(f"cannot read --set {assignment!r}: write NAME=VALUE")
        out[name.strip()] = value.strip()
    return out
