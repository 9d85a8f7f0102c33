"""Two registered prompts, searched together and registered again: `python examples/mlflow_prompts/mlflow_desk.py`.

Without options, a scripted model answers and writes: that shows that the parts work together, and nothing about models.
"""

import argparse
import csv
import re
from functools import cache
from pathlib import Path

import mlflow
import mlflow.genai
from mlflow_registry import load_prompts, register_prompts

from promptopt import Ask, Example, FakeModel, Prompts, Request, Response, Task, load_model, optimize

TICKETS = Path(__file__).parent.parent / "tickets" / "tickets.csv"
REGISTERED = {"summary": "desk.summary", "team": "desk.team"}
FIRST = {
    "summary": "Sum up this message to a help desk.\n{{text}}",
    "team": "{{summary}}\nWhich team is it for: billing, technical, delivery or account?",
}
IDEAS = ("Keep all details.", "Answer in one word.", "Be friendly.", "Think like an expert.")


async def route(ask: Ask, prompts: Prompts, example: Example) -> Response:  # noqa: ARG001  a program's signature
    """Sum up a message, and say which team it is for."""
    summary = await ask("summary", example)
    return await ask("team", example, summary=summary.text)


def scripted(request: Request) -> str:
    """Reply as `reply` does."""
    return reply("\n".join(str(turn[1]) for turn in request.context))


def reply(text: str) -> str:
    """Know the team of a whole message. Cut summaries short unless told to keep details, and talk unless told not to."""
    if "<prompt>" in text:
        return write(text)
    if "Which team" not in text:
        message = next(example.inputs["text"] for example in tickets() if example.inputs["text"] in text)
        return message if "details" in text else " ".join(message.split()[:5])
    team = next((example.target for example in tickets() if example.inputs["text"] in text), "billing")
    return f"{team}" if "one word" in text else f"That is for the {team} team."


def write(message: str) -> str:
    """Propose the shown prompt with one more sentence, as a writer would."""
    shown = [text for text in re.findall(r"<prompt>(.*?)</prompt>", message, re.DOTALL) if len(text) > len(" and ")]
    return "".join(f"<prompt>{shown[0]} {idea}</prompt>" for idea in IDEAS)


@cache
def tickets() -> tuple[Example, ...]:
    """Read the messages, in an order that mixes the teams."""
    with TICKETS.open(encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["text"][::-1])
    return tuple(Example({"text": row["text"]}, row["team"], f"{number}") for number, row in enumerate(rows))


def main() -> None:
    """Register the first versions if there are none, search better ones, and register those."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--registry", default="sqlite:///runs/mlflow_prompts/mlflow.db", help="MLflow's tracking URI")
    options.add_argument("--model", help="a model such as openai:gpt-4.1-mini; default: scripted")
    options.add_argument("--base-url", help="URL of its endpoint, if not the provider's")
    options.add_argument("--budget", default="4000 calls")
    options.add_argument("--run-dir", type=Path, default=Path("runs/mlflow_prompts"))
    chosen = options.parse_args()
    chosen.run_dir.mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(chosen.registry)
    for name, registered in REGISTERED.items():
        if not mlflow.genai.load_prompt(registered, allow_missing=True):
            version = mlflow.genai.register_prompt(name=registered, template=FIRST[name])
            mlflow.genai.set_prompt_alias(registered, "production", version.version)

    model = load_model(chosen.model, base_url=chosen.base_url) if chosen.model else FakeModel(scripted, "scripted")
    uris = {name: f"prompts:/{registered}@production" for name, registered in REGISTERED.items()}
    examples = tickets()
    task = Task(
        train=examples[:24],
        validation=examples[24:48],
        test=examples[48:],
        program=route,
        seed_prompts=load_prompts(uris),
        max_tokens=60,
        name="desk",
    )
    settings = {"sets": 0}  # instructions only: a registered text has no place for demonstrations
    result = optimize(
        task, model, "components", budget=chosen.budget, settings=settings, run_dir=chosen.run_dir, overwrite=True
    )
    print(result.headline)
    for name, uri in register_prompts(result, uris, alias="candidate").items():
        print(f"{name}: {uri} (@candidate) {mlflow.genai.load_prompt(uri).template!r}")


if __name__ == "__main__":
    main()
