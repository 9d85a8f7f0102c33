"""A DSPy module as a program of promptopt, and promptopt as a teleprompter of DSPy. Copy this file into your project.

Prompts are the module's predictors by name: the text is the instruction of the signature, the demonstrations are `predictor.demos`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dspy  # pyright: ignore[reportMissingImports]
from dspy.teleprompt import Teleprompter  # pyright: ignore[reportMissingImports]

from promptopt import (
    Ask,
    Call,
    Demonstrations,
    Example,
    InputError,
    Model,
    Program,
    Prompt,
    Prompts,
    Response,
    Result,
    Task,
    Usage,
    optimize,
    tool,
)

Demo = tuple[dict[str, str], str]
"""The inputs of a predictor, and its outputs in JSON."""

UNPARSED = "unparsed"
"""The output field of a reply that DSPy could not parse."""


def seed_prompts(module: Any) -> dict[str, Prompt]:
    """Return the instruction and the demonstrations of each predictor of a module, by its name."""
    prompts = {}
    for name, predictor in module.named_predictors():
        inputs, outputs = predictor.signature.input_fields, predictor.signature.output_fields
        items = tuple(
            Example({key: as_text(demo.get(key, "")) for key in inputs}, in_json(demo, outputs), f"demo {number}")
            for number, demo in enumerate(predictor.demos)
        )
        prompts[name] = Prompt(predictor.signature.instructions, Demonstrations(items) if items else None)
    return prompts


def with_prompts(module: Any, prompts: Prompts) -> Any:
    """Return a copy of a module with the prompts written back into its predictors."""
    return _changed(module, {name: (prompt.text, _demos(prompt)) for name, prompt in prompts.components})


def as_program(module: Any, *, version: str, threads: int = 8, timeout: float | None = None) -> Program:
    """Return a program that runs a DSPy module under each candidate's prompts.

    Its output is the prediction in JSON. A reply that DSPy cannot parse is a prediction too, because the prompt may be to blame: the
    reply as the field `unparsed`. Other exceptions fail the example.

    Args:
        module: runs with the language model that `dspy.configure` or `dspy.context` set.
        version: change it when the module or the language model changes: the memo keeps outputs under it.
        threads: calls of the module at once.
        timeout: seconds after which a call of the module counts as failed.
    """

    @tool(version=version, threads=threads, timeout=timeout)
    def dspy_module(prompts: dict[str, tuple[str, list[Demo]]], inputs: dict[str, str]) -> Response:
        candidate = _changed(module, prompts)
        with dspy.context(trace=[]), dspy.track_usage() as tracker:
            try:
                outputs = candidate(**inputs).toDict()
            except dspy.AdapterParseError as error:
                outputs = {UNPARSED: error.lm_response}
            names = {id(predictor): name for name, predictor in candidate.named_predictors()}
            calls = [
                (names[id(predictor)], {key: as_text(value) for key, value in given.items()}, in_json(said, said))
                for predictor, given, said in dspy.settings.trace
                if id(predictor) in names
            ]
            used = tracker.get_total_tokens().values()
        usage = Usage(
            input=sum(one.get("prompt_tokens") or 0 for one in used),
            output=sum(one.get("completion_tokens") or 0 for one in used),
        )
        return Response(json.dumps({"outputs": in_json(outputs, outputs), "calls": calls}), usage=usage)

    async def program(ask: Ask, prompts: Prompts, example: Example) -> Response:
        texts = {name: (prompt.text, _demos(prompt, example)) for name, prompt in prompts.components}
        ran = json.loads(await ask.tool(dspy_module, texts, dict(example.inputs)))
        trace = tuple(Call(name, tuple(given.items()), said) for name, given, said in ran["calls"])
        return Response(ran["outputs"], trace=trace)

    return program


class Promptopt(Teleprompter):  # type: ignore[misc]
    """An optimizer for DSPy modules that searches instructions and demonstrations with promptopt.

    Args:
        metric: as for other optimizers of DSPy, (example, prediction, trace) -> a number, or a prediction with `score` and
            `feedback`; the writer reads the feedback.
        writer: the model that writes instructions, as in `promptopt.optimize`.
        version: change it when the module or the language model changes.
        threads: calls of the module at once.
        timeout: seconds after which a call of the module counts as failed.
        settings: further arguments of `promptopt.optimize`, such as `{"budget": "500 calls"}`.
    """

    def __init__(
        self,
        metric: Callable[..., Any],
        *,
        writer: Model | str,
        version: str,
        threads: int = 8,
        timeout: float | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.metric, self.writer, self.version = metric, writer, version
        self.threads, self.timeout, self.settings = threads, timeout, dict(settings or {})
        self.result: Result | None = None

    def compile(
        self,
        student: Any,
        *,
        trainset: Sequence[Any],
        teacher: Any = None,
        valset: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return a copy of the student with the best prompts found; `self.result` is what the search measured.

        Without a `valset`, every third training example is held out for the choice among the best candidates.
        """
        if teacher is not None or kwargs:
            raise InputError(f"Promptopt.compile takes no {', '.join(['teacher'] * (teacher is not None) + [*kwargs])}")
        if valset is None:
            valset, trainset = trainset[2::3], [one for number, one in enumerate(trainset) if number % 3 < 2]
        known = {
            f"{kind} {i}": one for kind, given in (("train", trainset), ("val", valset)) for i, one in enumerate(given)
        }
        task = Task(
            train=tuple(_example(one, name) for name, one in known.items() if name.startswith("train")),
            validation=tuple(_example(one, name) for name, one in known.items() if name.startswith("val")),
            program=as_program(student, version=self.version, threads=self.threads, timeout=self.timeout),
            seed_prompts=seed_prompts(student),
            reward=_Metric(self.metric, known),
            name=type(student).__name__,
        )
        self.result = optimize(task, self.writer, "components", **self.settings)
        if not isinstance(self.result.prompt, Prompts):
            raise TypeError("a program's result has prompts")
        compiled = with_prompts(student, self.result.prompt)
        compiled._compiled = True  # noqa: SLF001  as DSPy's own optimizers do
        return compiled


@dataclass(frozen=True)
class _Metric:
    """A metric of DSPy as a reward."""

    metric: Callable[..., Any]
    examples: Mapping[str, Any]

    def __call__(self, example: Example, response: Response) -> float | tuple[float, str]:
        outputs = json.loads(response.text)
        if UNPARSED in outputs:
            return 0.0, "the reply did not have the fields that the signature asks for"
        score = self.metric(self.examples[example.id], dspy.Prediction(**outputs))
        if isinstance(score, dspy.Prediction):
            return float(score["score"]), str(score.get("feedback", ""))
        return float(score)


def as_text(value: Any) -> str:
    """Return a field's value as text."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def in_json(values: Any, fields: Any) -> str:
    """Return the named fields that there are, as JSON."""
    return json.dumps({key: values[key] for key in fields if key in values}, default=str, ensure_ascii=False)


def _example(one: Any, name: str) -> Example:
    inputs, labels = one.inputs().toDict(), one.labels().toDict()
    return Example({key: as_text(value) for key, value in inputs.items()}, in_json(labels, labels), name)


def _demos(prompt: Prompt, example: Example | None = None) -> list[Demo]:
    """Return a prompt's demonstrations, without the example that is to be answered."""
    if prompt.demonstrations is None:
        return []
    items = prompt.demonstrations.items if example is None else prompt.demonstrations.for_example(example)
    return [(dict(item.inputs), str(item.target)) for item in items]


def _changed(module: Any, prompts: Mapping[str, tuple[str, Sequence[Demo]]]) -> Any:
    """Return a copy of a module with other instructions and demonstrations."""
    changed = module.deepcopy()
    for name, predictor in changed.named_predictors():
        instruction, demos = prompts[name]
        predictor.signature = predictor.signature.with_instructions(instruction)
        predictor.demos = [dspy.Example(augmented=True, **inputs, **json.loads(outputs)) for inputs, outputs in demos]
    return changed
