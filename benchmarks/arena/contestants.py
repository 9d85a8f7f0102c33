"""The arena's methods: baselines without a search, our strategies, and the peers. All ask the models through the gate."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, TypeAlias

from promptopt import Demonstrations, HillClimb, Joint, Prompt, PromptQuine, load_model, optimize
from promptopt.errors import STOPPED
from promptopt.randomness import named_generator
from promptopt.rewards import target_of
from promptopt.strategies import P1, RandomSearch
from promptopt.tracking import StepFinished

from .examination import RefusedError, examine
from .peers.methods import PEERS_BY_METHOD, ROOT, command_of
from .peers.side import Case, Item

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from promptopt import Example, Result, Strategy
    from promptopt.tracking import Event

    from .gate import Gate
    from .tasks import Splits

SHOTS = (0, 1, 2, 4, 8, 16)  # numbers of demonstrations that the baselines choose from by validation
_CLOCK = 4 * 3600  # seconds after which a hanging peer is stopped; what it posted counts
_TIMEOUT = 1800.0  # seconds for a reply: cells may share a slow server


@dataclass(frozen=True)
class Bout:
    """One contestant's turn.

    Args:
        splits: of the task.
        gate: its gate, which counts its requests.
        url: of the gate, without /v1.
        seed: of the method.
        folder: for what the contestant writes.
        peers: folder of the peers' environments.
    """

    splits: Splits
    gate: Gate
    url: str
    seed: int
    folder: Path
    peers: Path


Contestant: TypeAlias = Callable[[Bout], None]
"""Spends the gate's budget. The prompt it posted last is tested."""


def seed_prompt(bout: Bout) -> None:
    """Keep the seed prompt."""
    _post(bout, bout.splits.seed_prompt)


def demonstrations(bout: Bout, *, nearest: bool) -> None:
    """Add demonstrations to the seed prompt; their number is chosen on the validation examples.

    Args:
        bout: the turn.
        nearest: show the training examples most similar to the input; otherwise random ones, taking turns among the labels.
    """
    seed_prompt(bout)
    best = -1.0
    for count in SHOTS:
        prompt = Prompt(bout.splits.seed_prompt.text, shown(bout.splits, bout.seed, count, nearest=nearest))
        chosen = {"prompt": prompt.to_json()}
        try:
            rewards = examine(chosen, bout.splits, bout.splits.validation, (f"{bout.url}/v1", "task"))
        except RefusedError:
            return
        mean = sum(rewards) / len(rewards)
        if mean > best:
            best = mean
            _post(bout, prompt, mean)


def shown(splits: Splits, seed: int, count: int, *, nearest: bool) -> Demonstrations | None:
    """Return `count` demonstrations, as `demonstrations` has them."""
    if not count:
        return None
    if nearest:
        return Demonstrations(splits.train, nearest=count)
    return Demonstrations(shuffled(splits, seed)[:count])


def shuffled(splits: Splits, seed: int) -> tuple[Example, ...]:
    """Return the training examples in random order, taking turns among the labels."""
    order = named_generator(seed, "arena demonstrations").permutation(len(splits.train))
    examples = [splits.train[i] for i in order]
    groups = [[example for example in examples if example.target == label] for label in splits.source.labels]
    in_turn = chain.from_iterable(zip_longest(*(groups or [examples])))
    return tuple(example for example in in_turn if example is not None)


def ours(bout: Bout, *, strategy: Strategy) -> None:
    """Run one of our strategies as a user would: `optimize` over an OpenAI-compatible endpoint.

    Raises:
        KeyboardInterrupt: the run was stopped.
        RuntimeError: it ended unfinished while there was budget left, for example because the server did not answer.
    """
    seed_prompt(bout)
    task, writer = (
        load_model(f"openai:{role}", base_url=f"{bout.url}/v1", timeout=_TIMEOUT) for role in ("task", "writer")
    )
    best = -1.0

    def follow(event: Event) -> None:
        nonlocal best
        for record in event.candidates if isinstance(event, StepFinished) else ():
            if record.fitness is not None and record.fitness > best:
                best = record.fitness
                _post(bout, record.prompt)

    result = optimize(
        bout.splits.task(),
        task,
        strategy,
        writer=writer,
        budget=f"{bout.gate.budget} tokens",
        seed=bout.seed,
        memo=bout.folder / "memo",  # its own: replies that another cell paid for would be free
        run_dir=bout.folder / "run",
        tracking=False,
        callbacks=[follow],
    )
    chosen = choice(result)
    if result.unfinished and not bout.gate.refused:
        raise RuntimeError(f"the run ended while there was budget left: {result.unfinished}")
    _post(bout, chosen)


def choice(result: Result) -> Prompt:
    """Return the prompt that a run chose.

    Raises:
        KeyboardInterrupt: the run was stopped, so that there is no cell.
    """
    if result.unfinished == STOPPED:
        raise KeyboardInterrupt
    return result.prompt


def _post(bout: Bout, prompt: Prompt, validation: float | None = None) -> None:
    bout.gate.post_best({"prompt": prompt.to_json()}, validation)


def peer(bout: Bout, *, method: str) -> None:
    """Run a peer's script in its own environment.

    Raises:
        RuntimeError: it failed while there was budget left.
    """
    run_script(bout, method, command_of(method, bout.peers))
    if not bout.gate.best:
        seed_prompt(bout)


def run_script(bout: Bout, method: str, command: Sequence[str]) -> None:
    """Run a command that reads its case from standard input and posts what it finds.

    Raises:
        RuntimeError: it failed while there was budget left.
    """
    source = bout.splits.source
    case = Case(
        method=method,
        task=bout.splits.name,
        seed=bout.seed,
        gate=bout.url,
        description=source.description,
        instruction=source.instruction,
        labels=source.labels,
        train=_items(bout.splits.train),
        validation=_items(bout.splits.validation),
        max_tokens=source.max_tokens,
        token_budget=bout.gate.budget,
    )
    bout.folder.mkdir(parents=True)
    # A home directory of its own: replies cached in it by another cell would be free.
    settings = os.environ | {"OPENAI_API_KEY": "none", "HOME": str(bout.folder), "PYTHONPATH": str(ROOT)}
    with (bout.folder / "log.txt").open("w", encoding="utf-8") as log, suppress(subprocess.TimeoutExpired):
        ended = subprocess.run(  # noqa: S603  our own scripts
            command,
            input=case.to_json(),
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=bout.folder,
            env=settings,
            timeout=_CLOCK,
            check=False,
        )
        if ended.returncode and not bout.gate.refused:
            raise RuntimeError(f"{method} failed before its budget was spent: see {bout.folder / 'log.txt'}")


def _items(examples: Sequence[Example]) -> tuple[Item, ...]:
    return tuple(Item(example.id, example.inputs["input"], target_of(example)) for example in examples)


OURS: dict[str, Strategy] = {
    "random": RandomSearch(),
    "paraphrase": HillClimb(control="paraphrase"),
    "hillclimb": HillClimb(),
    "promptquine": PromptQuine(),
    "promptquine.paper": PromptQuine.paper(),
    "p1": P1(inner=HillClimb()),
    "joint": Joint(),
    "joint, demonstrations alone": Joint(instructions=1),
}
METHODS: dict[str, Contestant] = {
    "seed": seed_prompt,
    "random demonstrations": partial(demonstrations, nearest=False),
    "nearest demonstrations": partial(demonstrations, nearest=True),
    **{name: partial(ours, strategy=strategy) for name, strategy in OURS.items()},
    **{name: partial(peer, method=name) for name in PEERS_BY_METHOD},
}
"""Name in the tables -> what it does."""
