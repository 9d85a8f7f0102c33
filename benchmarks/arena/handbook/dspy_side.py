"""DSPy's side: MIPROv2 over a module of two predictors. Runs in a Python that has dspy and its extra optuna."""

from __future__ import annotations

import json
import sys
from typing import Any

import dspy

from ..peers.dspy_side import BEFORE, PRESETS, Adapter, Watch, language_model
from ..peers.side import THREADS, Case, Gate, Item, prompt, read_case
from ..post import post
from .pipeline import NOTHING


class Pipeline(dspy.Module):  # type: ignore[misc]
    """Write a query, search, answer."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.url = case.gate
        seeds = json.loads(case.instruction)
        self.query = dspy.Predict(dspy.Signature("question -> query", seeds["query"]))
        self.answer = dspy.Predict(dspy.Signature("question, passages -> answer", seeds["answer"]))

    def forward(self, question: str) -> Any:
        """Return the prediction."""
        query = self.query(question=question).query
        found = post(f"{self.url}/search", {"query": f"{question} {query}"}).json()["passages"]
        return self.answer(question=question, passages="\n\n".join(found) or NOTHING)


def posted(program: Pipeline) -> dict[str, Any]:
    """Return the messages that the program sends for an item."""
    out = {}
    for name in ("query", "answer"):
        predict = getattr(program, name)
        inputs = {field: f"{{{field}}}" for field in predict.signature.input_fields}
        messages = dspy.ChatAdapter().format(predict.signature, predict.demos, inputs)
        turns = [{"role": turn["role"], "content": turn["content"]} for turn in messages]
        out[name] = prompt(turns, after=f"[[ ## {name} ## ]]", before=BEFORE)
    return out


class Watching(Watch):
    """Posts the best program by MIPROv2's own evaluations."""

    def offer(self, program: Any, score: float) -> None:
        """Post the program if it is better than those before."""
        if score > self.best:
            self.best = score
            self.gate.best(posted(program), score)


def examples(items: tuple[Item, ...]) -> list[Any]:
    """Return items as DSPy takes them."""
    return [dspy.Example(question=item.input, answer=item.target).with_inputs("question") for item in items]


def main() -> None:
    """Run MIPROv2 with demonstrations and the preset that fits the budget."""
    case = read_case(sys.stdin.read())
    gate = Gate(case.gate)
    id_of = {item.input: item.id for item in case.train + case.validation}

    def metric(example: Any, prediction: Any, trace: Any = None) -> float:  # noqa: ARG001  DSPy's signature
        answer = None if prediction is None else prediction.get("answer")
        return 0.0 if answer is None else gate.reward(id_of[example.question], str(answer)).reward

    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)
    watch = Watching(gate)
    task = language_model(case, "task", temperature=0.0, max_tokens=case.max_tokens)
    dspy.configure(lm=task, adapter=Adapter(), callbacks=[watch], max_errors=sys.maxsize)
    auto = next(name for tokens, name in PRESETS if case.token_budget >= tokens)
    with gate.until_spent():
        optimizer = dspy.MIPROv2(
            metric=metric, prompt_model=language_model(case, "writer"), auto=auto, seed=case.seed, num_threads=THREADS
        )
        found = optimizer.compile(Pipeline(case), trainset=examples(case.train), valset=examples(case.validation))
        gate.best(posted(found), watch.best)


if __name__ == "__main__":
    main()
