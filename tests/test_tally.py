from __future__ import annotations

from promptopt.evaluation.tally import Tally
from promptopt.prompt import Example, Prompt
from promptopt.replies import Failure, Response
from promptopt.rewards import Exact, Label
from promptopt.task import Task

MOOD = ("negative", "positive")
ITEMS = tuple(Example({"text": name}, "positive", name) for name in "abcdef")
TASK = Task(train=ITEMS, seed_prompt=Prompt("How is it? {text}"), labels=MOOD)


def counted(task: Task, *replies: Response | Failure, times: int = 1) -> Tally:
    tally = Tally.of(task)
    for _ in range(times):
        tally.add([task.seed_prompt], ITEMS[: len(replies)], [[[reply] for reply in replies]])
    return tally


def test_replies_that_name_no_label_are_counted_once_and_three_are_shown() -> None:
    texts = ["positive", "hm", "", "both positive and negative \x1b]52;c", "x" * 200, "not positive"]
    tally = counted(TASK, *map(Response, texts), times=2)

    assert tally.unnamed == 5
    assert tally.shown == ["'hm'", "''", r"'both positive and negative \x1b]52;c'"]
    assert tally.notes == [
        f"5 of 6 replies named no label, such as {', '.join(tally.shown)}: let the prompt ask for one of the labels alone"
    ]
    assert counted(TASK, Response("x" * 200)).shown == [repr("x" * 80 + "...")]


def test_only_what_is_read_from_a_text_is_counted() -> None:
    tally = counted(TASK, Response("positive"), Failure("timeout"), Response("?", (-1.0, -2.0)))

    assert (tally.unnamed, tally.notes) == (0, [])
    assert counted(Task(train=ITEMS, seed_prompt=TASK.seed_prompt), Response("hm")).notes == []
    assert (
        counted(Task(train=ITEMS, seed_prompt=TASK.seed_prompt, labels=MOOD, reward=Exact()), Response("hm")).notes
        == []
    )
    assert (
        len(
            counted(
                Task(train=ITEMS, seed_prompt=TASK.seed_prompt, labels=MOOD, reward=Label(MOOD)), Response("")
            ).notes
        )
        == 1
    )
