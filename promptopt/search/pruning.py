"""What the searches over a prompt's tokens share: parents, children, and how they rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from promptopt.errors import InputError
from promptopt.statistics.arrays import nanmean

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from promptopt.prompt import Prompt
    from promptopt.search.run import Run
    from promptopt.search.tokens import Mask, Tokens
    from promptopt.statistics.arrays import Floats

_MUTATION_TRIES = 10  # draws before a child is given up (PromptQuine, code)


class Genome(NamedTuple):
    """A mask, its prompt, and its mean fitness; -inf if all replies failed, so that it ranks last."""

    mask: Mask
    prompt: Prompt
    fitness: float


class Child(NamedTuple):
    """A mask to be scored, its prompt, and its parent's prompt."""

    mask: Mask
    prompt: Prompt
    parent: Prompt | None = None


def seed_tokens(run: Run) -> Tokens:
    """Tokenize the seed prompt.

    Raises:
        InputError: there is nothing to prune.
    """
    tokens = run.tokens(run.task.seed_prompt)
    if not tokens.prunable.size:
        raise InputError("the seed prompt has nothing to prune, only slots: add text or demonstrations")
    return tokens


def ranking_fitness(rewards: Floats) -> list[float]:
    """Return the row means of [P, E] as a population ranks by them: -inf where all replies failed."""
    means = nanmean(rewards, axis=1)
    fitness: list[float] = np.where(np.isnan(means), -np.inf, means).tolist()
    return fitness


def mean_length(run: Run, population: Sequence[Genome]) -> float:
    """Return the mean length of a population's prompts, in tokens."""
    return sum(run.length(genome.prompt) for genome in population) / len(population)


def tournament(population: Sequence[Genome], share: float, rng: np.random.Generator) -> Genome:
    """Return the best of a share of the population, drawn with replacement."""
    contestants = rng.integers(len(population), size=max(1, int(share * len(population))))
    return population[min(contestants.tolist(), key=lambda i: (-population[i].fitness, i))]


def mutated(move: Callable[[int], Mask | None], max_tokens: int, rng: np.random.Generator) -> Mask | None:
    """Return the mask after a move of 1 to `max_tokens` tokens, or None if ten draws gave no valid one."""
    for _ in range(_MUTATION_TRIES):
        child = move(int(rng.integers(1, max_tokens + 1)))
        if child is not None:
            return child
    return None


def new_children(tokens: Tokens, draws: Iterable[tuple[Genome, Mask | None]], known: Collection[Prompt]) -> list[Child]:
    """Return the children that are neither known nor duplicates.

    Args:
        tokens: what the masks are of.
        draws: each parent with the mask of its child, None if there is none.
        known: prompts to leave out.
    """
    children: dict[Prompt, Child] = {}
    for parent, mask in draws:
        if mask is not None and (prompt := tokens.prompt(mask)) not in known:
            children.setdefault(prompt, Child(mask, prompt, parent.prompt))
    return list(children.values())
