"""Starting points of a search: prompts with other demonstrations, and examples in a stratified random order.

Pure functions over prompts and labelled examples; knows nothing of models or scores.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from promptopt.prompt import Demonstrations

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from promptopt.prompt import Example, Prompt

_DEMONSTRATION_SHARE = 4  # one example in four may be a demonstration; the others are for scoring
_DRAWS_PER_PROMPT = 10  # random draws per requested prompt before fewer are returned


class StartingPrompts(NamedTuple):
    """Prompts to start from, the original first, and the examples that none of the new ones shows."""

    prompts: list[Prompt]
    examples: tuple[Example, ...]


class _Pool(NamedTuple):
    """Examples that may replace the demonstrations of one target, and how many of them a prompt shows."""

    examples: list[Example]
    shots: int


def with_other_demonstrations(
    prompt: Prompt, examples: Sequence[Example], count: int, rng: np.random.Generator
) -> StartingPrompts:
    """Return the prompt and variants with other demonstrations, in random order, with as many of each target.

    If no example has a demonstration's target, as in generation, any labelled example replaces it. Examples that are shown
    must not be used for scoring, because the prompt would contain the answer. At most a quarter of the examples is drawn from.

    Args:
        prompt: a prompt with written-out demonstrations; without them, or with nearest ones, it is the only one returned.
        examples: labelled examples to draw from.
        count: number of prompts, including the original; fewer are returned if there are too few examples.
        rng: random number generator.
    """
    demonstrations = prompt.demonstrations
    if demonstrations is None or demonstrations.nearest is not None or count < 2:  # noqa: PLR2004  it alone
        return StartingPrompts([prompt], tuple(examples))
    pools = _pools(demonstrations, examples, rng)
    if any(len(pool.examples) < pool.shots for pool in pools):
        return StartingPrompts([prompt], tuple(examples))
    distinct = {demonstrations: None}
    for _ in range(_DRAWS_PER_PROMPT * count):
        if len(distinct) == count:
            break
        distinct[_draw(pools, rng)] = None
    prompts = [replace(prompt, demonstrations=each) for each in distinct]
    shown = {example.id for each in list(distinct)[1:] for example in each.items}
    return StartingPrompts(prompts, tuple(example for example in examples if example.id not in shown))


def _pools(demonstrations: Demonstrations, examples: Sequence[Example], rng: np.random.Generator) -> list[_Pool]:
    """Return the pool of each target; no example is in two. Targets that no example has share the pool of any target."""
    order = [examples[i] for i in rng.permutation(len(examples)).tolist() if examples[i].target is not None]
    available = {example.target for example in order}
    targets = Counter(shown.target if shown.target in available else None for shown in demonstrations.items)
    pools, used = list[_Pool](), set[str]()
    for target, shots in targets.items():
        quota = len(examples) // _DEMONSTRATION_SHARE * shots // targets.total()
        matching = [example for example in order if example.id not in used and target in (None, example.target)]
        pools.append(_Pool(matching[:quota], shots))
        used |= {example.id for example in matching[:quota]}
    return pools


def _draw(pools: Sequence[_Pool], rng: np.random.Generator) -> Demonstrations:
    """Return random demonstrations, in random order."""
    chosen = [
        pool.examples[i]
        for pool in pools
        for i in rng.choice(len(pool.examples), size=pool.shots, replace=False).tolist()
    ]
    return Demonstrations(tuple(chosen[i] for i in rng.permutation(len(chosen)).tolist()))


def stratified_shuffle(examples: Sequence[Example], rng: np.random.Generator) -> tuple[Example, ...]:
    """Return the examples in a random order in which every prefix has about the overall shares of the targets.

    Args:
        examples: to shuffle; without targets, or with all targets different, they are only shuffled.
        rng: random number generator.
    """
    members: dict[str | None, list[Example]] = {}
    for i in rng.permutation(len(examples)).tolist():
        members.setdefault(examples[i].target, []).append(examples[i])
    positions = [(j + float(rng.random())) / len(group) for group in members.values() for j in range(len(group))]
    flat = [example for group in members.values() for example in group]
    return tuple(flat[i] for i in sorted(range(len(flat)), key=positions.__getitem__))
