"""A strategy of one's own: settings in a frozen dataclass, one method. Runs offline, on a fake model."""

from dataclasses import dataclass

from promptopt import Example, FakeModel, Prompt, Request, Run, Task, optimize


@dataclass(frozen=True, kw_only=True)
class DropOneWord:
    """Score the seed prompt less each of its words; the harness picks the winner."""

    writes = False

    def search(self, run: Run) -> None:
        """Drop every word in turn."""
        tokens = run.tokens(run.task.seed_prompt)
        for position in tokens.prunable:
            mask = tokens.full()
            mask[position] = False
            score = run.score([tokens.prompt(mask)], parents=[run.task.seed_prompt])
            run.step(best=score.mean.item())


def model(request: Request) -> str:
    """Stand in for a model that one word of the prompt confuses."""
    text = str(request.context[-1][1])
    return "odd" if "wrongly" in text or int(text.rsplit(maxsplit=1)[-1]) % 2 else "even"


def items(numbers: range) -> tuple[Example, ...]:
    """Make one example for each number."""
    return tuple(Example({"number": str(n)}, "odd" if n % 2 else "even", str(n)) for n in numbers)


task = Task(
    train=items(range(10)),
    validation=items(range(10, 40)),
    test=items(range(40, 100)),
    seed_prompt=Prompt("Say wrongly odd or even: {number}"),
    labels=("odd", "even"),
)

if __name__ == "__main__":
    print(optimize(task, FakeModel(model), DropOneWord()))
