"""What a search may start from: other demonstrations for a prompt, and items in an order in which the first few are fair.

Pure functions over prompts and labelled items; knows nothing of models or scores.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from promptopt.prompt import Demonstrations

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from promptopt.prompt import Example, Prompt

_RESERVED = 4  # one in so many items may be shown; the others are left to score on
_TRIES = 10  # draws for each prompt that is wanted, before fewer are given


class Starts(NamedTuple):
    """Prompts to start from, the given one first, and the items that none of the others shows."""

    prompts: list[Prompt]
    items: tuple[Example, ...]


def with_other_demonstrations(prompt: Prompt, items: Sequence[Example], count: int, rng: np.random.Generator) -> Starts:
    """Return the prompt, and the same with other items shown, in any order: as many of each target as it shows.

    A target that no item has, as in generation, is stood in for by any labelled item. What is shown must not be scored
    on: a prompt would be given the answer. A quarter of the items at most is drawn from.

    Args:
        prompt: with written-out demonstrations; without, or with the nearest ones, it is the only start.
        items: labelled ones to draw from.
        count: prompts wanted, the given one among them; fewer where the items do not suffice.
        rng: the chance.
    """
    shown = prompt.demonstrations
    if shown is None or shown.nearest is not None or count < 2:  # noqa: PLR2004  it alone
        return Starts([prompt], tuple(items))
    order = [items[i] for i in rng.permutation(len(items)).tolist() if items[i].target is not None]
    known = {item.target for item in order}
    kinds = [item.target if item.target in known else None for item in shown.items]
    rooms = {kind: len(items) // _RESERVED * kinds.count(kind) // len(kinds) for kind in dict.fromkeys(kinds)}
    drawn: dict[str | None, list[Example]] = {}
    used: set[str] = set()
    for kind, room in rooms.items():
        fitting = [item for item in order if item.id not in used and kind in (None, item.target)]
        drawn[kind] = fitting[:room]
        used |= {item.id for item in drawn[kind]}
    if any(len(drawn[kind]) < kinds.count(kind) for kind in drawn):
        return Starts([prompt], tuple(items))
    out = [prompt]
    for _ in range(_TRIES * count):
        if len(out) == count:
            break
        groups = [(drawn[kind], kinds.count(kind)) for kind in drawn]
        chosen = [group[i] for group, n in groups for i in rng.choice(len(group), size=n, replace=False).tolist()]
        mixed = tuple(chosen[i] for i in rng.permutation(len(chosen)).tolist())
        other = replace(prompt, demonstrations=Demonstrations(mixed))
        if other not in out:
            out.append(other)
    shown_ids = {item.id for start in out[1:] if start.demonstrations for item in start.demonstrations.items}
    return Starts(out, tuple(item for item in items if item.id not in shown_ids))


def balanced(items: Sequence[Example], rng: np.random.Generator) -> tuple[Example, ...]:
    """Return the items shuffled such that among the first of them, however many, each target has about its share.

    Args:
        items: without targets, or each with another, they are only shuffled.
        rng: the chance.
    """
    members: dict[str | None, list[Example]] = {}
    for i in rng.permutation(len(items)).tolist():
        members.setdefault(items[i].target, []).append(items[i])
    places = [(j + float(rng.random())) / len(group) for group in members.values() for j in range(len(group))]
    flat = [item for group in members.values() for item in group]
    return tuple(flat[i] for i in sorted(range(len(flat)), key=places.__getitem__))
