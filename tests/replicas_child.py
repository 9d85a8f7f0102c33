"""A run on replicas in a process of its own, to be killed: python replicas_child.py SPEC FOLDER CPUS ADDRESS.

The folder gets the memo, the result, and a log of the batches that the replicas were asked for.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kill_child
import toys

from promptopt import Memo, Prompt, PromptQuine, optimize
from promptopt.models.replicas import RayModel

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from promptopt import Arrival
    from promptopt.prompt import Context


class Logged(RayModel):
    """Logs each batch before it is asked for."""

    folder: Path

    def _replies(self, contexts: Sequence[Context], *others: Any) -> Iterator[Arrival]:
        kill_child.log(str(self.folder / "log"), [dict(self.fingerprint), list(contexts), list(toys.TASK.labels)])
        yield from super()._replies(contexts, *others)


def main(spec: str, folder: str, cpus: str, address: str) -> None:
    text = "Review: {text}\nIn one word, the sentiment of this item, as a careful reader would put it, is:"
    task = replace(toys.TASK, seed_prompt=Prompt(text), format="completion", template="")
    model = Logged(spec, replicas=2, resources={"CPU": float(cpus)}, address=address)
    model.folder = Path(folder)
    strategy = replace(PromptQuine.paper(), population=10, offspring=20, recent=20, shortest=8)
    with Memo(Path(folder) / "memo") as store:
        optimize(task, model, strategy, memo=store, budget="6000 calls").save(Path(folder) / "result.json")


if __name__ == "__main__":
    main(*sys.argv[1:])
