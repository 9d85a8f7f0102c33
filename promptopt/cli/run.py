"""`promptopt optimize` and `promptopt score`."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from promptopt.cli.output import say, say_json, say_table
from promptopt.cli.source import Source, read_prompts
from promptopt.errors import InputError
from promptopt.evaluation.caller import Caller
from promptopt.evaluation.ledger import Budget, Ledger
from promptopt.evaluation.scorer import Scorer
from promptopt.evaluation.silence import Silence
from promptopt.memo.memo import Memo
from promptopt.models import HOSTED, load_model
from promptopt.models.base import LabelModel, Price
from promptopt.optimization.api import run_job
from promptopt.optimization.estimate import estimate
from promptopt.optimization.job import prepare
from promptopt.results.outcomes import SAME
from promptopt.results.result import CHOSEN, SPENDING
from promptopt.statistics import mean_interval, paired_interval
from promptopt.tracking.display import Display

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from promptopt.models.base import Model
    from promptopt.prompt import Prompt
    from promptopt.results.result import Result
    from promptopt.statistics import Interval

TaskArgument = Annotated[
    Path | None, typer.Argument(help="A task file (TOML), in place of --data.", show_default=False)
]
Data = Annotated[str | None, typer.Option(help="Data file: CSV, TSV, JSON or JSONL; split by --split-seed.")]
Input = Annotated[list[str] | None, typer.Option(help="Input column; may be given several times.")]
Label = Annotated[str | None, typer.Option(help="Column of the right answer.")]
Labels = Annotated[
    list[str] | None,
    typer.Option(
        help="The labels, as a,b or as VALUE=WORD,VALUE=WORD; or several times, with one label or VALUE=WORD in each."
    ),
]
DropUnusable = Annotated[
    bool,
    typer.Option("--drop-unusable", help="Leave out rows that cannot be used, and say which, in place of refusing."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Write over another run's result in --run-dir.")]
PromptText = Annotated[str | None, typer.Option("--seed-prompt", help="Where the search starts.")]
NoLogprobs = Annotated[
    bool, typer.Option("--no-logprobs", help="Read labels from the reply's text; ask for no log-probabilities.")
]
Read = Annotated[
    str | None,
    typer.Option(
        "--read",
        help="text: test what the model writes, beside its choice among the labels.",
        show_default="the task file's, or labels",
    ),
]
Reward = Annotated[str | None, typer.Option(help="Built-in reward, or MODULE:FUNCTION.")]
SplitSeed = Annotated[int, typer.Option(help="Seed of the split of one data file.")]
ModelName = Annotated[str, typer.Option("--model", help="KIND:NAME, see `promptopt models`.")]
BaseUrl = Annotated[str | None, typer.Option(help="Endpoint of a hosted model, if not the provider's.")]
Tokenizer = Annotated[
    str | None, typer.Option(help="Folder, hub name or GGUF file of a completions: model's tokenizer, to score chats.")
]
PriceText = Annotated[
    str | None,
    typer.Option(
        "--price", help="INPUT,OUTPUT[,CACHED[,WRITTEN]] in dollars per million tokens, if not the known ones."
    ),
]
Concurrency = Annotated[int | None, typer.Option(min=1, help="Most calls in flight at once at a hosted model.")]
Timeout = Annotated[float | None, typer.Option(help="Seconds to wait for a hosted model's reply, each try anew.")]
Rpm = Annotated[int | None, typer.Option(min=1, help="Most requests a minute to a hosted model.")]
Tpm = Annotated[int | None, typer.Option(min=1, help="Most tokens a minute to a hosted model.")]
ExtraBody = Annotated[
    str | None,
    typer.Option(
        help="Further fields of every request to --model, a JSON object such as "
        '\'{"logit_bias": {"1904": 100}}\'; the report repeats them.'
    ),
]
Batch = Annotated[
    bool, typer.Option("--batch", help="Score through the provider's batch endpoint: half the price, within a day.")
]
Replicas = Annotated[int | None, typer.Option(min=1, help="Copies of a local --model, as actors on Ray.")]
RayAddress = Annotated[
    str | None,
    typer.Option("--ray", help="HOST:PORT of the Ray cluster for --replicas, or auto, if not this machine alone."),
]
MemoPlace = Annotated[str | None, typer.Option("--memo", help="Folder of the memo, or redis://HOST:PORT/DB.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON alone on standard output.")]


@dataclass(frozen=True)
class _Pace:
    """How hard hosted models may be pressed; None leaves an adapter's own default."""

    concurrency: int | None
    timeout: float | None
    requests_per_minute: int | None
    tokens_per_minute: int | None

    def load(
        self,
        spec: str,
        base_url: str | None,
        price: str | None,
        tokenizer: str | None = None,
        replicas: int | None = None,
        ray: str | None = None,
        extra_body: str | None = None,
    ) -> Model:
        """Return the model of that name; models that are not hosted have no use for a pace."""
        pace = self if spec.partition(":")[0] in HOSTED else _Pace(None, None, None, None)
        return load_model(
            spec,
            base_url=base_url,
            tokenizer=tokenizer,
            price=_read_price(price),
            replicas=replicas,
            ray_address=ray,
            extra_body=_read_extra_body(extra_body),
            **vars(pace),
        )


def optimize(
    task: TaskArgument = None,
    model: ModelName = "local:smollm2",
    strategy: Annotated[str, typer.Option(help="See `promptopt strategies`.")] = "promptquine",
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
    base_url: BaseUrl = None,
    tokenizer: Tokenizer = None,
    price: PriceText = None,
    writer: Annotated[str | None, typer.Option(help="Model that writes prompts; by default the task model.")] = None,
    writer_base_url: Annotated[str | None, typer.Option(help="Endpoint of the writer.")] = None,
    writer_price: Annotated[str | None, typer.Option(help="Price of the writer, as --price.")] = None,
    concurrency: Concurrency = None,
    timeout: Timeout = None,
    rpm: Rpm = None,
    tpm: Tpm = None,
    extra_body: ExtraBody = None,
    batch: Batch = False,
    replicas: Replicas = None,
    ray: RayAddress = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A setting of the strategy, NAME=VALUE.")] = None,
    budget: Annotated[str | None, typer.Option(help="'500 calls', '2 dollars' or '1M tokens'.")] = None,
    seed: Annotated[int, typer.Option(help="Of all randomness.")] = 0,
    run_dir: Annotated[
        Path | None,
        typer.Option(help="Where the result and the report go.", show_default="runs/ and a name that no other run has"),
    ] = None,
    overwrite: Overwrite = False,
    memo: MemoPlace = None,
    study: Annotated[
        str | None,
        typer.Option(
            help="Where the run is shown as an Optuna study: a storage URL.", show_default="study.db of --run-dir"
        ),
    ] = None,
    no_study: Annotated[bool, typer.Option("--no-study", help="Write no study.")] = False,
    quiet: Quiet = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what the run would need; call no model.")] = False,
    json_: Json = False,
) -> None:
    """Search for a better prompt, choose on validation data, compare once on test data."""
    source = Source(
        task, data, input, label, labels, seed_prompt, reward, split_seed, no_logprobs, drop_unusable, read_as
    )
    settings = _read_settings(set_ or [])
    read = source.task()
    pace = _Pace(concurrency, timeout, rpm, tpm)
    loaded = pace.load(model, base_url, price, tokenizer, replicas, ray, extra_body)
    loaded = _with_batches(loaded) if batch else loaded
    given: dict[str, Any] = {
        "writer": pace.load(writer, writer_base_url, writer_price) if writer else None,
        "budget": budget,
        "seed": seed,
        "settings": settings,
    }
    if dry_run:
        needs = estimate(read, loaded, strategy, memo=memo, **given)
        say_json(needs.to_json()) if json_ else say(needs)
        return
    if study is not None and no_study:
        raise InputError("--study and --no-study contradict each other: give one of them")
    job = prepare(read, loaded, strategy, **given)
    with Display(quiet=quiet) as display, Memo(memo) as store, _libraries_speak_aside():
        result = run_job(
            job,
            run_dir=run_dir or Path("runs") / job.folder_name,
            memo=store,
            display=display,
            tracking=study or not no_study,
            overwrite=overwrite,
        )
    if json_:
        say_json(result.to_json())
    else:
        _print_result(result)
    raise typer.Exit(0 if result.finished else 1)


def score(
    task: TaskArgument = None,
    prompt: Annotated[list[str] | None, typer.Option(help="A prompt; may be given several times.")] = None,
    prompt_file: Annotated[
        list[Path] | None, typer.Option(help="A file that holds a prompt, or the folder of a run.")
    ] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "validation",
    replicates: Annotated[int, typer.Option(min=1, help="Samples of each cell.")] = 1,
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
    base_url: BaseUrl = None,
    tokenizer: Tokenizer = None,
    price: PriceText = None,
    concurrency: Concurrency = None,
    timeout: Timeout = None,
    rpm: Rpm = None,
    tpm: Tpm = None,
    extra_body: ExtraBody = None,
    batch: Batch = False,
    replicas: Replicas = None,
    ray: RayAddress = None,
    budget: Annotated[str | None, typer.Option(help="'500 calls', '2 dollars' or '1M tokens'.")] = None,
    memo: MemoPlace = None,
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """Score prompts on a task, with 95 % intervals; the seed prompt where none is given."""
    source = Source(
        task, data, input, label, labels, seed_prompt, reward, split_seed, no_logprobs, drop_unusable, read_as
    )
    read = source.task()
    splits = {"train": read.train, "validation": read.validation, "test": read.test}
    if split not in splits or not splits[split]:
        raise InputError(f"the task has no items in the split {split!r}: it has {[k for k, v in splits.items() if v]}")
    prompts = read_prompts(prompt or [], prompt_file or [], read)
    loaded = _Pace(concurrency, timeout, rpm, tpm).load(model, base_url, price, tokenizer, replicas, ray, extra_body)
    loaded = _with_batches(loaded) if batch else loaded
    with Display(quiet=quiet) as display, Memo(memo) as store, _libraries_speak_aside():
        ledger = Ledger(Budget.parse(budget) if budget else Budget())
        caller = Caller(store, ledger, watch=lambda: display.count(ledger))
        scorer = Scorer(read, loaded, caller)
        rows = _scored(scorer, prompts or [read.seed_prompt], split, replicates)
    chosen = [CHOSEN] if scorer.chooses and not scorer.tests_text else []
    for note in (*read.notes, *ledger.notes(), *scorer.tally.notes, *chosen):
        say(f"note: {note}", aside=json_)
    if json_:
        say_json(rows)
    else:
        _print_scores(rows)
    raise typer.Exit(1 if any(row["failed"] for row in rows) else 0)


def _libraries_speak_aside() -> AbstractContextManager[Any]:
    """Let what libraries print, as Ray does when an actor dies, go to standard error: standard output is for results."""
    return redirect_stdout(sys.stderr)


def _with_batches(model: Model) -> Model:
    from promptopt.models.loading import batch_model  # noqa: PLC0415  loaded when used

    if isinstance(model, LabelModel):
        raise InputError(f"{model!r} scores labels, which no batch endpoint does: leave out --batch")
    return batch_model(model)


def _scored(scorer: Scorer, prompts: list[Prompt], split: str, replicates: int) -> list[dict[str, Any]]:
    examples = getattr(scorer.task, split)
    scores = scorer.score(prompts, examples, replicates, written=scorer.tests_text)
    first = scores.per_example[0]
    out = []
    for i, prompt in enumerate(prompts):
        row = scores.per_example[i]
        out.append(
            {
                "prompt": prompt.text,
                "reward": _interval(mean_interval(row)),
                "less_first": _interval(SAME if prompt == prompts[0] else paired_interval(row, first)) if i else None,
                "examples": len(examples),
                "failed": sum(bool(failed) for failed in (scores.rewards[i] != scores.rewards[i]).ravel()),
                "notes": Silence.of(reply for column in scores.replies[i] for reply in column).notes(
                    scorer.task.max_tokens
                ),
            }
        )
    return out


def _interval(interval: Interval) -> list[float | None]:
    return [value if abs(value) < float("inf") else None for value in interval]


def _print_result(result: Result) -> None:
    say_table(["", "seed prompt", "chosen prompt"], result.rows(), title=result.task)
    say_table(["", ""], result.facts(), left=(0, 1), plain=True)
    say_table(SPENDING, result.spending(), plain=True)
    for note in result.notes:
        say(f"note: {note}")
    # No table, which would break a prompt's lines.
    say(f"\nchosen prompt:\n{result.prompt}\n\n{result.headline}")


def _print_scores(rows: list[dict[str, Any]]) -> None:
    heads = ["prompt", "reward", "95 % interval", "less the first, paired", "failed"]
    say_table(heads, map(_score_cells, rows), left=range(len(heads)))
    for row in rows:
        for note in row["notes"]:
            say(f"note: {note}")


def _score_cells(row: dict[str, Any]) -> list[str]:
    mean, low, high = row["reward"]
    return [
        row["prompt"],
        "-" if mean is None else f"{mean:.3f}",
        _span(low, high, ""),
        "" if row["less_first"] is None else _difference(*row["less_first"]),
        str(row["failed"]),
    ]


def _difference(mean: float, low: float | None, high: float | None) -> str:
    return f"{mean:+.3f} ({_span(low, high, '+')})"


def _span(low: float | None, high: float | None, sign: str) -> str:
    return f"{'-inf' if low is None else format(low, sign + '.3f')} to {'inf' if high is None else format(high, sign + '.3f')}"


def _read_settings(given: list[str]) -> dict[str, str]:
    out = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not equals:
            raise InputError(f"cannot read the setting {item!r}: write NAME=VALUE")
        out[name.strip()] = value.strip()
    return out


def _read_extra_body(text: str | None) -> dict[str, Any] | None:
    try:
        fields = json.loads(text or "{}")
    except ValueError as error:
        raise InputError(f"--extra-body must be a JSON object: {error}") from None
    if not isinstance(fields, dict):
        raise InputError(f"--extra-body must be a JSON object, not {text}")
    return fields or None


def _read_price(text: str | None) -> Price | None:
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
        price = Price(*numbers)
    except (TypeError, ValueError):
        raise InputError(
            f"cannot read the price {text!r}: write INPUT,OUTPUT[,CACHED[,WRITTEN]] in dollars per million tokens, "
            "such as 0.4,1.6 or 0.4,1.6,0.1"
        ) from None
    if not all(0 <= number < float("inf") for number in numbers):
        raise InputError(f"a price must be 0 or more, and finite: {text!r}")
    return price
