"""DSPy's side of the arena: methods `miprov2`, `bootstrap` and `simba`. Runs in a Python that has dspy and its extra optuna.

The program is one `dspy.Predict` from `input` to `answer` with the seed prompt as its instructions; where there are few
answers, their type is a `Literal`, as DSPy's page on signatures has it. Its default adapter puts it into messages.
"""

from __future__ import annotations

import random
import sys
import threading
from typing import Any, Literal

import dspy
from dspy.utils.callback import BaseCallback
from dspy.utils.exceptions import (
    AdapterParseError,
    LMBillingError,
    LMRateLimitError,
)

from .side import INPUT, THREADS, BudgetSpent, Case, Gate, Item, prompt, read_case

AFTER, BEFORE = "[[ ## answer ## ]]", "[[ ##"
PRESETS = ((800_000, "heavy"), (500_000, "medium"), (0, "light"))  # of MIPROv2: the first that the budget reaches
STEP_TOKENS = 250_000  # of SIMBA: about 416 runs of the program a step, and its choice among the winners at the end


class Answer(dspy.Module):  # type: ignore[misc]
    """Answer an input."""

    def __init__(self, signature: Any) -> None:
        super().__init__()
        self.predict = dspy.Predict(signature)

    def forward(self, input: str) -> Any:  # noqa: A002  the field's name
        """Return the prediction."""
        return self.predict(input=input)


class Adapter(dspy.ChatAdapter):  # type: ignore[misc]
    """DSPy's default adapter, with two differences.

    The task model is never asked again in JSON, because the test sends one request per item. And if a writer's reply cannot be
    parsed in either format, it becomes the value of the only output field; otherwise MIPROv2 would end with an error.
    """

    def __call__(self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any) -> Any:
        """Ask, and read the replies."""
        if lm.model.endswith("/task"):
            return dspy.Adapter.__call__(self, lm, lm_kwargs, signature, demos, inputs)
        try:
            return super().__call__(lm, lm_kwargs, signature, demos, inputs)
        except AdapterParseError as error:
            if len(signature.output_fields) != 1:
                raise
            return [dict.fromkeys(signature.output_fields, error.lm_response)]


class Watch(BaseCallback):  # type: ignore[misc]
    """Posts the best program by the optimizer's own evaluations, and ends the run with the budget.

    Args:
        gate: where it is posted.
        batch: runs of one program on different items after which its mean reward counts, for an optimizer that does not use
            `dspy.Evaluate`; 0 where it does.
    """

    def __init__(self, gate: Gate, batch: int = 0) -> None:
        self.gate, self.batch = gate, batch
        self.best = -1.0
        self.evaluated: dict[str, Any] = {}
        self.rewards: dict[int, list[float]] = {}
        self.programs: dict[int, Any] = {}
        self.running = threading.local()
        self.lock = threading.Lock()

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:  # noqa: ARG002
        """Leave the library once the budget is spent."""
        if isinstance(exception, (LMBillingError, LMRateLimitError)):  # the gate's only reason for either
            raise BudgetSpent from exception

    def on_evaluate_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:  # noqa: ARG002
        """Note the program."""
        if (inputs["callback_metadata"] or {}).get("metric_key") != "eval_minibatch":
            self.evaluated[call_id] = inputs["program"]

    def on_evaluate_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """Post the program if it is the best on all validation items."""
        program = self.evaluated.pop(call_id, None)
        if program is not None and exception is None:
            self.offer(program, outputs.score / 100)

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:  # noqa: ARG002
        """Note which program runs in this thread."""
        if isinstance(instance, Answer):
            self.running.program = instance

    def count(self, reward: float) -> None:
        """Add the reward of the program that ran last in this thread."""
        if not self.batch:
            return
        program = self.running.program
        with self.lock:
            rewards = self.rewards.setdefault(id(program), [])
            rewards.append(reward)
            self.programs[id(program)] = program  # so that no other object gets its id
            if len(rewards) == self.batch:
                self.offer(program, sum(rewards) / self.batch)

    def offer(self, program: Any, score: float) -> None:
        """Post the program if it is better than those before."""
        if score > self.best:
            self.best = score
            self.gate.best(posted(program), score)


def signature(case: Case) -> Any:
    """Return the task as DSPy declares it."""
    answer = Literal[case.labels] if case.labels else str
    fields = {"input": (str, dspy.InputField()), "answer": (answer, dspy.OutputField())}
    return dspy.Signature(fields, case.instruction)


def posted(program: Answer) -> dict[str, Any]:
    """Return the messages that the program sends for an item."""
    predict = program.predict
    messages = dspy.ChatAdapter().format(predict.signature, predict.demos, {"input": INPUT})
    return prompt([{"role": turn["role"], "content": turn["content"]} for turn in messages], after=AFTER, before=BEFORE)


def examples(items: tuple[Item, ...]) -> list[Any]:
    """Return items as DSPy takes them, without their ids, which MIPROv2 and SIMBA would show to the writer."""
    return [dspy.Example(input=item.input, answer=item.target).with_inputs("input") for item in items]


def metric_of(case: Case, gate: Gate, watch: Watch) -> Any:
    """Return the gate's metric of the field `answer`; 0 where DSPy could read none."""
    id_of = {item.input: item.id for item in case.train + case.validation}

    def metric(example: Any, prediction: Any, trace: Any = None) -> float:  # noqa: ARG001  DSPy's signature
        answer = None if prediction is None else prediction.get("answer")
        reward = 0.0 if answer is None else gate.reward(id_of[example.input], str(answer)).reward
        watch.count(reward)
        return reward

    return metric


def miprov2(case: Case, program: Answer, metric: Any, writer: Any) -> Any:
    """Run MIPROv2 with demonstrations and the preset that fits the budget."""
    auto = next(name for tokens, name in PRESETS if case.token_budget >= tokens)
    optimizer = dspy.MIPROv2(metric=metric, prompt_model=writer, auto=auto, seed=case.seed, num_threads=THREADS)
    return optimizer.compile(program, trainset=examples(case.train), valset=examples(case.validation))


def bootstrap(case: Case, program: Answer, metric: Any, writer: Any) -> Any:  # noqa: ARG001  it writes nothing
    """Run BootstrapFewShotWithRandomSearch; it has no seed but the order of the training items."""
    optimizer = dspy.BootstrapFewShotWithRandomSearch(
        metric=metric,
        max_bootstrapped_demos=4,
        max_labeled_demos=4,
        num_candidate_programs=10,
        num_threads=THREADS,
    )
    train = examples(case.train)
    random.Random(case.seed).shuffle(train)  # noqa: S311
    return optimizer.compile(program, trainset=train, valset=examples(case.validation))


def simba(case: Case, program: Answer, metric: Any, writer: Any) -> Any:
    """Run SIMBA on all items, because it takes no validation set."""
    steps = min(8, max(1, case.token_budget // STEP_TOKENS))
    optimizer = dspy.SIMBA(metric=metric, prompt_model=writer, max_steps=steps, num_threads=THREADS)
    return optimizer.compile(program, trainset=examples(case.train + case.validation), seed=case.seed)


METHODS = {"miprov2": miprov2, "bootstrap": bootstrap, "simba": simba}
BATCH = {"simba": 32}  # SIMBA's default bsize


def language_model(case: Case, model: str, **settings: Any) -> Any:
    """Return DSPy's client of one of the gate's models."""
    return dspy.LM(f"openai/{model}", api_base=f"{case.gate}/v1", api_key="none", num_retries=0, **settings)


def run(case: Case, gate: Gate) -> None:
    """Run a method until it ends, or the budget is spent."""
    watch = Watch(gate, BATCH.get(case.method, 0))
    program = Answer(signature(case))
    gate.best(posted(program))
    # Its cache in memory is DSPy's default; the one on disk would answer the next run's requests.
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)
    task = language_model(case, "task", temperature=0.0, max_tokens=case.max_tokens)
    # Replies that cannot be read are wrong answers; with the default, the tenth would cancel an evaluation.
    dspy.configure(lm=task, adapter=Adapter(), callbacks=[watch], max_errors=sys.maxsize)
    with gate.until_spent():
        found = METHODS[case.method](case, program, metric_of(case, gate, watch), language_model(case, "writer"))
        gate.best(posted(found), found.candidate_programs[0]["score"] if watch.batch else watch.best)


if __name__ == "__main__":
    case = read_case(sys.stdin.read())
    run(case, Gate(case.gate))
