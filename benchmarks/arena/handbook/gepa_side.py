"""GEPA's side: both prompts as components of a candidate. Runs in a Python that has gepa; reads its case from standard input.

Each prompt is the system turn, its inputs are the user turn, as GEPA's default adapter has it; the writer sees inputs, outputs and feedback of one
component at a time, as in its `DSPy` adapter.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import gepa  # type: ignore[import-not-found]
from gepa.core.adapter import EvaluationBatch, GEPAAdapter  # type: ignore[import-not-found]

from ..peers.gepa_side import Quiet, feedback, turns, writer_of
from ..peers.side import THREADS, Case, Gate, Item, prompt, read_case
from ..post import post
from .pipeline import NAMES, NOTHING

if TYPE_CHECKING:
    from collections.abc import Sequence

USER = {"query": "{question}", "answer": "question: {question}\npassages: {passages}"}


class Adapter(GEPAAdapter):  # type: ignore[misc]
    """Runs the pipeline through the gate."""

    def __init__(self, case: Case, gate: Gate) -> None:
        self.case, self.gate = case, gate

    def evaluate(self, batch: Sequence[Item], candidate: dict[str, str], capture_traces: bool = False) -> Any:  # noqa: FBT001, FBT002  GEPA's
        """Return outputs and rewards of a batch."""
        with ThreadPoolExecutor(THREADS) as pool:
            runs = list(pool.map(partial(self._run, candidate), batch))
        scores = [run["reward"] for run in runs]
        return EvaluationBatch(
            outputs=[run["answer"] for run in runs], scores=scores, trajectories=runs if capture_traces else None
        )

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: Any, components_to_update: list[str]
    ) -> dict[str, list[dict[str, Any]]]:
        """Return what the writer sees of each component."""
        _ = candidate
        return {
            name: [
                {"Inputs": run[f"{name} inputs"], "Generated Outputs": run[name], "Feedback": run["feedback"]}
                for run in eval_batch.trajectories
            ]
            for name in components_to_update
        }

    def _run(self, candidate: dict[str, str], item: Item) -> dict[str, Any]:
        ask = partial(self.gate.ask, "task", temperature=0, max_tokens=self.case.max_tokens)
        query = ask(turns(candidate["query"], item.input))
        found = post(f"{self.gate.url}/search", {"query": f"{item.input} {query}"}).json()["passages"]
        passages = "\n\n".join(found) or NOTHING
        user = USER["answer"].format(question=item.input, passages=passages)
        answer = ask(turns(candidate["answer"], user))
        judged = self.gate.reward(item.id, answer)
        return {
            "query": query,
            "answer": answer,
            "query inputs": {"question": item.input},
            "answer inputs": {"question": item.input, "passages": passages},
            "reward": judged.reward,
            "feedback": feedback(judged.reward, judged.target),
        }


def posted(candidate: dict[str, str]) -> dict[str, Any]:
    """Return a candidate as it is posted."""
    return {name: prompt(turns(candidate[name], USER[name])) for name in NAMES}


class Callbacks:
    """Posts GEPA's best candidate so far."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def on_valset_evaluated(self, event: dict[str, Any]) -> None:
        """Post a candidate that is the best on all validation items."""
        if event["is_best_program"]:
            self.gate.best(posted(event["candidate"]), event["average_score"])


def main() -> None:
    """Run `gepa.optimize` until the budget is spent."""
    case = read_case(sys.stdin.read())
    gate = Gate(case.gate)
    with gate.until_spent():
        gepa.optimize(
            seed_candidate=json.loads(case.instruction),
            trainset=list(case.train),
            valset=list(case.validation),
            adapter=Adapter(case, gate),
            reflection_lm=writer_of(gate),
            stop_callbacks=lambda _: gate.spent().over,
            callbacks=[Callbacks(gate)],
            logger=Quiet(),
            seed=case.seed,
        )


if __name__ == "__main__":
    main()
