"""A DSPy module of two predictors, optimised by promptopt: `python examples/dspy_module/dspy_desk.py`.

Without options, a scripted language model answers and writes: that shows that the parts work together, and nothing about models.
"""

import argparse
import csv
import re
from pathlib import Path
from typing import Any

import dspy  # pyright: ignore[reportMissingImports]
from dspy import lm15  # pyright: ignore[reportMissingImports]
from dspy_adapter import Promptopt

from promptopt import FakeModel, Request, load_model

TICKETS = Path(__file__).parent.parent / "tickets" / "tickets.csv"
TEAM = "Which team is it for: billing, technical, delivery or account?"


class Desk(dspy.Module):  # type: ignore[misc]
    """Sum up a message, and say which team it is for."""

    def __init__(self) -> None:
        super().__init__()
        self.sum_up = dspy.Predict("message -> summary")
        self.route = dspy.Predict(dspy.Signature("summary -> team", TEAM))

    def forward(self, message: str) -> Any:
        """Route a message."""
        return self.route(summary=self.sum_up(message=message).summary)


def right(example: Any, prediction: Any, trace: Any = None) -> Any:  # noqa: ARG001  DSPy passes the trace
    """Whether the team is the right one, in one word."""
    said = str(prediction.get("team", "")).strip().lower()
    return dspy.Prediction(score=float(said == example.team), feedback=f"the team is {example.team}, not {said!r}")


class ScriptedEngine:
    """Knows the team of a whole message. Cuts summaries short unless told to keep details, and talks unless told not to."""

    def __init__(self) -> None:
        self._teams = {example.message: example.team for example in tickets()}

    def complete(self, request: Any) -> Any:
        """Answer one request in the format of `dspy.ChatAdapter`."""
        rules, asked = str(request.system), request.messages[-1].text
        demonstrations = sum(message.role == "assistant" for message in request.messages)
        value = re.split(r"\[\[ ## \w+ ## \]\]", asked)[1].partition("\n\nRespond")[0].strip()
        if "`[[ ## summary ## ]]`" in asked:
            text = f"[[ ## summary ## ]]\n{value if 'details' in rules else ' '.join(value.split()[:5])}"
        else:
            team = self._teams.get(value, "billing")
            brief = "one word" in rules or demonstrations > 1
            text = f"[[ ## team ## ]]\n{team if brief else f'That is for the {team} team.'}"
        usage = lm15.Usage(input_tokens=len(rules + asked) // 4, output_tokens=len(text) // 4, total_tokens=0)
        message = lm15.Message.assistant([lm15.TextPart(f"{text}\n\n[[ ## completed ## ]]")])
        return lm15.Response(id=None, model="scripted", message=message, finish_reason="stop", usage=usage)

    def stream(self, request: Any) -> Any:
        """Stream a reply."""
        return lm15.response_to_events(self.complete(request))

    def close(self) -> None:
        """Do nothing."""


def write(request: Request) -> str:
    """Propose the shown prompt with one more sentence, as a writer would."""
    ideas = ("Keep all details.", "Answer in one word.", "Be friendly.", "Think like an expert.")
    message = "\n".join(str(turn[1]) for turn in request.context)
    shown = [text for text in re.findall(r"<prompt>(.*?)</prompt>", message, re.DOTALL) if len(text) > len(" and ")]
    return "".join(f"<prompt>{shown[0]} {idea}</prompt>" for idea in ideas) if shown else "ready"


def tickets() -> list[Any]:
    """Read the messages, in an order that mixes the teams."""
    with TICKETS.open(encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["text"][::-1])
    return [dspy.Example(message=row["text"], team=row["team"]).with_inputs("message") for row in rows]


def main() -> None:
    """Optimise the module, and test it on messages that the search did not see."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--lm", help="a language model of DSPy, such as openai/gpt-4.1-mini; default: scripted")
    options.add_argument("--api-base", help="URL of the endpoint of both, if not the provider's")
    options.add_argument(
        "--writer", help="a model of promptopt that writes prompts, such as openai:gpt-4.1; default: scripted"
    )
    options.add_argument("--budget", default="2000 calls")
    options.add_argument("--run-dir", type=Path, default=Path("runs/dspy_module"))
    chosen = options.parse_args()
    local = {"api_base": chosen.api_base, "api_key": "none"} if chosen.api_base else {}
    real = {"cache": False, "temperature": 0.0, "max_tokens": 60}
    lm = dspy.LM(chosen.lm, **local, **real) if chosen.lm else dspy.LM("scripted", engine=ScriptedEngine(), cache=False)
    dspy.configure(lm=lm)

    examples, student = tickets(), Desk()
    train, validation, test = examples[:24], examples[24:48], examples[48:]
    settings = {"budget": chosen.budget, "run_dir": chosen.run_dir, "memo": chosen.run_dir / "memo"}
    optimizer = Promptopt(
        right,
        writer=load_model(chosen.writer, base_url=chosen.api_base) if chosen.writer else FakeModel(write, "writer"),
        version=f"dspy {dspy.__version__}, {lm.model}, 1",
        timeout=600,
        settings=settings,
    )
    compiled = optimizer.compile(student, trainset=train, valset=validation)
    evaluate = dspy.Evaluate(devset=test, metric=right, num_threads=4, display_progress=False)
    print(f"test messages routed right: {evaluate(student).score:.1f} % before, {evaluate(compiled).score:.1f} % after")
    for name, predictor in compiled.named_predictors():
        print(f"{name}: {predictor.signature.instructions!r}, {len(predictor.demos)} demonstrations")
    compiled.save(str(chosen.run_dir / "desk.json"))
    if optimizer.result is not None:
        print(optimizer.result.headline)


if __name__ == "__main__":
    main()
