"""Stand-ins for language models, one for each example: `--model python:examples.fakes:router` and so on.

They know the right answers or look for key words, and they fail in ways that certain words of a prompt fix. So a search on
them ends well if it works at all: that shows that an example runs, and nothing about language models.
"""

import csv
import hashlib
import json
import math
import re
from collections import deque
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from promptopt import FakeLabelModel, FakeModel, Request
from promptopt.prompt import Context

HERE = Path(__file__).parent
TEAMS = {
    "billing": "paid price card refund receipt invoice bill pay discount dollars amount plan monthly",
    "technical": "update error search export button sync api paste screen print import browser app dark sound",
    "delivery": "parcel box ordered driver chair tracking warehouse delivered courier customs send order bins",
    "account": "password profile login user name signed details devices sign-up surname colleague log in team",
}
TOPICS = {
    "cooking": "butter dough sauce salt eggs bread rice fry cream dish oven soup lemon roast simmer cut oil herbs jam slice",
    "sport": "scored referee second final penalties cup coach record team season goal striker champion fans serve bench winner",
    "travel": "train ferry hotel visa airport room island bus museum border town guide suitcase map boat flight village old",
}
VAGUE = ("Be friendly.", "Take the task seriously.", "Think like an expert.")
EXACT = ("Reply with the JSON object only.", "Write dates as YYYY-MM-DD.", "The item is in the singular.", *VAGUE)
CAREFUL = ("Work step by step.", "Check the result before you give it.", *VAGUE)
SAFE = ("Walk around obstacles.", "Reply with exactly one action.", *VAGUE)


def text_of(context: Context) -> str:
    """Return what a model reads."""
    return context if isinstance(context, str) else "\n".join(str(message.content) for message in context)


def chance(*of: object) -> float:
    """Return a number from 0 to 1 that depends on what is given, and on nothing else."""
    return int.from_bytes(hashlib.sha256(repr(of).encode()).digest()[:6]) / 2**48


def spotter(words: dict[str, str], pull: float, name: str) -> FakeLabelModel:
    """Make a labeller: key words of the item speak for a label; each word of the prompt, at random, for or against one."""

    def logprobs(context: Context, labels: Sequence[str]) -> list[float]:
        text = text_of(context).lower()
        item, prompt = text[-130:], set(text.split())
        said = [3.0 * sum(word in item for word in words[label].split()) for label in labels]
        led = [sum(pull * (chance(word, label) - 0.5) for word in sorted(prompt)) for label in labels]
        logits = [a + b for a, b in zip(said, led, strict=True)]
        return [x - math.log(sum(map(math.exp, logits))) for x in logits]

    return FakeLabelModel(logprobs, name)


def written(text: str, replicate: int, ideas: Sequence[str]) -> str | None:
    """Answer as a prompt writer, if one is asked: a prompt that was shown and one more sentence; else None."""
    if "Do not write a new prompt" in text:
        return "The prompt does not say how to avoid this."
    if "<prompt>" not in text:
        return None
    shown = [
        prompt for prompt in re.findall(r"<prompt>(.*?)</prompt>", text, flags=re.DOTALL) if len(prompt) > len(" and ")
    ]
    wanted = re.search(r"write (\d+) ", text)
    out = []
    for i in range(int(wanted[1]) if wanted else 1):
        base = shown[int(chance(text, replicate, i) * min(2, len(shown)))] if shown else "Answer."
        out.append(f"<prompt>{base} {ideas[int(chance(i, text, replicate) * len(ideas))]}</prompt>")
    return "\n".join(out)


def extract(request: Request) -> str:
    """Know the order, and spoil it in each way that the prompt does not forbid."""
    text = text_of(request.context)
    if (reply := written(text, request.replicate, EXACT)) is not None:
        return reply
    lines = (HERE / "orders" / "orders.jsonl").read_text(encoding="utf-8").splitlines()
    row = next(row for row in map(json.loads, lines) if row["text"] in text)
    order = json.loads(row["order"])
    if "YYYY-MM-DD" not in text:
        order["date"] = "/".join(reversed(order["date"].split("-")))
    if "singular" not in text and order["quantity"] > 1:
        order["item"] += "s"
    brief = "only" in text or chance(row["text"]) < 0.6
    return json.dumps(order) if brief else f"Here is the order you asked for: {json.dumps(order)}"


def reckon(request: Request) -> str:
    """Know the answer, and give it the more often the more careful the prompt asks to be; some questions stay hard."""
    text = text_of(request.context)
    if (reply := written(text, request.replicate, CAREFUL)) is not None:
        return reply
    with (HERE / "sums" / "sums.csv").open(encoding="utf-8") as file:
        row = next(row for row in csv.DictReader(file) if row["question"] in text)
    able = chance(row["question"]) + 0.5 * ("step by step" in text) + 0.2 * ("Check" in text)
    lucky = chance(text, request.replicate) < (0.9 if able > 0.7 else 0.2)
    return f"The answer is {int(row['answer']) + (0 if lucky else 1)}."


def walk(request: Request) -> str:
    """Know the way to the nearest goal, but heed obstacles, and answer in one action, only if told to."""
    text = text_of(request.context)
    if (reply := written(text, request.replicate, SAFE)) is not None:
        return reply
    told, _, seen = text.rpartition("Grid: ")
    rows, columns, row, column = map(
        int, re.findall(r"\d+", re.sub(r", counted.*", "", seen[: seen.index(" Here")]))[:4]
    )
    goals, obstacles = (
        {(int(r), int(c)) for r, c in re.findall(r"row (\d+) column (\d+)", part)}
        for part in re.split(r"Obstacles:", seen[seen.index("Goals left") :])
    )
    walls = obstacles if "around obstacles" in told else set[tuple[int, int]]()
    free = {cell for cell in product(range(rows), range(columns)) if cell not in walls}
    action = first_step((row, column), goals, free)
    return action if "one action" in told or chance(seen) < 0.8 else "I think that up or left would be good."


def first_step(start: tuple[int, int], goals: set[tuple[int, int]], free: set[tuple[int, int]]) -> str:
    """Return the first action of a shortest way to a goal, breadth first."""
    if start in goals:
        return "Pick goal"
    moves = {"Move up": (-1, 0), "Move down": (1, 0), "Move left": (0, -1), "Move right": (0, 1)}
    queue, known = deque([(start, "")]), {start}
    while queue:
        (row, column), first = queue.popleft()
        if (row, column) in goals:
            return first
        for name, (down, right) in moves.items():
            cell = (row + down, column + right)
            if cell in free - known:
                known.add(cell)
                queue.append((cell, first or name))
    return "Pick goal"


router = spotter(TEAMS, pull=3.0, name="router")
reader = spotter(TOPICS, pull=3.0, name="reader")
extractor = FakeModel(extract, "extractor")
reckoner = FakeModel(reckon, "reckoner")
walker = FakeModel(walk, "walker")
