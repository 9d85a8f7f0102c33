"""Starting points of a search: prompts with other demonstrations, and examples in a stratified random order.

Pure functions over prompts and labelled examples; knows nothing of models or scores.
"""

from __future__ import annotations

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
    items: tuple[Example, ...]


def with_other_demonstrations(
    prompt: Prompt, items: Sequence[Example], count: int, rng: np.random.Generator
) -> StartingPrompts:
    """Return the prompt and variants with other demonstrations, in random order, with as many of each target.

    If no example has a demonstration's target, as in generation, any labelled example replaces it. Examples that are shown
    must not be used for scoring, because the prompt would contain the answer. At most a quarter of the examples is drawn from.

    Args:
        prompt: a prompt with written-out demonstrations; without them, or with nearest ones, it is the only one returned.
        items: labelled examples to draw from.
        count: number of prompts, including the original; fewer are returned if there are too few examples.
        rng: random number generator.
    """
    shown = prompt.demonstrations
    if shown is None or shown.nearest is not None or count < 2:  # noqa: PLR2004  it alone
        return StartingPrompts([prompt], tuple(items))
    order = [items[i] for i in rng.permutation(len(items)).tolist() if items[i].target is not None]
    available = {item.target for item in order}
    targets = [item.target if item.target in available else None for item in shown.items]
    quotas = {
        target: len(items) // _DEMONSTRATION_SHARE * targets.count(target) // len(targets)
        for target in dict.fromkeys(targets)
    }
    drawn: dict[str | None, list[Example]] = {}
    used: set[str] = set()
    for target, quota in quotas.items():
        matching = [item for item in order if item.id not in used and target in (None, item.target)]
        drawn[target] = matching[:quota]
        used |= {item.id for item in drawn[target]}
    if any(len(drawn[target]) < targets.count(target) for target in drawn):
        return StartingPrompts([prompt], tuple(items))
    out = [prompt]
    for _ in range(_DRAWS_PER_PROMPT * count):
        if len(out) == count:
            break
        groups = [(drawn[target], targets.count(target)) for target in drawn]
        chosen = [group[i] for group, n in groups for i in rng.choice(len(group), size=n, replace=False).tolist()]
        shuffled = tuple(chosen[i] for i in rng.permutation(len(chosen)).tolist())
        variant = replace(prompt, demonstrations=Demonstrations(shuffled))
        if variant not in out:
            out.append(variant)
    shown_ids = {item.id for start in out[1:] if start.demonstrations for item in start.demonstrations.items}
    return StartingPrompts(out, tuple(item for item in items if item.id not in shown_ids))


def stratified_shuffle(items: Sequence[Example], rng: np.random.Generator) -> tuple[Example, ...]:
    """Return the examples in a random order in which every prefix has about the overall shares of the targets.

    Args:
        items: the examples; without targets, or with all targets different, they are only shuffled.
        rng: random number generator.
    """
    members: dict[str | None, list[Example]] = {}
    for i in rng.permutation(len(items)).tolist():
        members.setdefault(items[i].target, []).append(items[i])
    positions = [(j + float(rng.random())) / len(group) for group in members.values() for j in range(len(group))]
    flat = [item for group in members.values() for item in group]
    return tuple(flat[i] for i in sorted(range(len(flat)), key=positions.__getitem__))
