"""A search strategy of your own: settings in a frozen dataclass, and one method. Runs offline, on a fake model."""

from dataclasses import dataclass, replace

from promptopt import Demonstrations, Example, FakeModel, Prompt, Request, Run, Task, optimize


@dataclass(frozen=True, kw_only=True)
class DropOneWord:
    """Score the seed prompt without each of its words in turn.

    `replace` changes the text and keeps the demonstrations: a new `Prompt(text)` would lose them.
    """

    writes = False

    def search(self, run: Run) -> None:
        """Score the shorter prompts; selection and the test come afterwards."""
        seed = run.task.seed_prompt
        words = seed.text.split()
        shorter = [replace(seed, text=" ".join(words[:i] + words[i + 1 :])) for i in range(len(words))]
        scores = run.score([seed, *shorter], parents=[None, *[seed] * len(shorter)])
        run.step(best=scores.mean.max())


def model(request: Request) -> str:
    """Answer in place of a model that one word of the prompt confuses, and that needs to see an example."""
    system, *shown, query = (str(turn[1]) for turn in request.context)
    if not shown:
        return "I cannot tell."
    return "odd" if "wrongly" in system or int(query) % 2 else "even"


def items(numbers: range) -> tuple[Example, ...]:
    """Make one example for each number."""
    return tuple(Example({"number": str(n)}, "odd" if n % 2 else "even", str(n)) for n in numbers)


task = Task(
    train=items(range(10)),
    validation=items(range(10, 40)),
    test=items(range(40, 100)),
    seed_prompt=Prompt("Say wrongly odd or even.", Demonstrations(items(range(101, 103)))),
    labels=("odd", "even"),
)

if __name__ == "__main__":
    print(optimize(task, FakeModel(model), DropOneWord()))
