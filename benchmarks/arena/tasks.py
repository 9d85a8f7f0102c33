"""The arena's tasks: public data sets, split by seed, with a plain seed prompt and the metric of the data set's authors.

Data lie in one folder (`--data`), as their authors distribute them. Nothing here was written for a method, and no task is
dropped because of its results.
"""

from __future__ import annotations

import csv
import json
import re
import string
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from promptopt import Example, InputError, Prompt, Task
from promptopt.randomness import named_generator
from promptopt.rewards import Label, Number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from promptopt.replies import Response
    from promptopt.rewards import Reward

TRAIN, VALIDATION, TEST = 50, 50, 200  # examples of each split; the test has fewer where a data set is too small

_ARTICLES = re.compile(r"\b(a|an|the)\b")


class Pair(NamedTuple):
    """An input and the right answer."""

    input: str
    target: str


@dataclass(frozen=True)
class ExactMatch:
    """1 if reply and target are equal after SQuAD's normalization (case, punctuation, articles, white space); else 0.

    This is the metric of Instruction Induction (Honovich et al. 2022, code).
    """

    def __call__(self, example: Example, response: Response) -> float:
        return float(normalized(response.text) == normalized(example.target or ""))


def normalized(text: str) -> str:
    """Return `text` in lower case, without punctuation, articles and repeated white space."""
    kept = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", kept).split())


class Source(NamedTuple):
    """A task: where its data come from, and how it is posed.

    Args:
        read: returns all its pairs from the folder of the data.
        instruction: the seed prompt.
        description: for methods that show one to the writer.
        labels: the answers, if there are few.
        metric: of a reply; None for labels.
        max_tokens: of a reply that counts.
    """

    read: Callable[[Path], list[Pair]]
    instruction: str
    description: str
    labels: tuple[str, ...] = ()
    metric: Reward | None = None
    max_tokens: int = 32


@dataclass(frozen=True)
class Splits:
    """A task with the examples of one seed.

    Args:
        name: of the task.
        source: where it comes from.
        train, validation, test: examples with the field `input`.
    """

    name: str
    source: Source
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]

    @property
    def metric(self) -> Reward:
        """The reward of a reply."""
        return self.source.metric or Label(self.source.labels)

    @property
    def seed_prompt(self) -> Prompt:
        """The seed prompt: the instruction is the system turn, and the input the user turn."""
        return Prompt(self.source.instruction)

    def task(self, *, test: tuple[Example, ...] = (), logprobs: bool = True) -> Task:
        """Return the task for promptopt, by default without test examples: the arena does the test."""
        return Task(
            train=self.train,
            validation=self.validation,
            test=test,
            seed_prompt=self.seed_prompt,
            reward=self.source.metric,
            labels=self.source.labels,
            logprobs=logprobs,
            description=self.source.description,
            name=self.name,
            max_tokens=self.source.max_tokens,
        )


def _tsv(folder: str, column: str, words: tuple[str, ...]) -> Callable[[Path], list[Pair]]:
    def read(data: Path) -> list[Pair]:
        with (data / folder / "test.tsv").open(encoding="utf-8") as file:
            rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            return [Pair(row[column], words[int(row["label"])]) for row in rows]

    return read


def _bbh(name: str) -> Callable[[Path], list[Pair]]:
    def read(data: Path) -> list[Pair]:
        examples = json.loads((data / "bbh" / f"{name}.json").read_text(encoding="utf-8"))["examples"]
        pairs = [Pair(example["input"], example["target"].strip("()")) for example in examples]
        return [pair for pair in pairs if len(pair.target) == 1 or pair.target in ("Yes", "No")]  # two of ruin_names

    return read


def _induction(name: str) -> Callable[[Path], list[Pair]]:
    def read(data: Path) -> list[Pair]:
        path = data / "instruction-induction" / f"{name}-induce.json"
        examples = json.loads(path.read_text(encoding="utf-8"))["examples"].values()
        return [Pair(example["input"], example["output"]) for example in examples]

    return read


def _banking(data: Path) -> list[Pair]:
    with (data / "banking77" / "test.csv").open(encoding="utf-8", newline="") as file:
        rows = [Pair(row["text"], row["category"].replace("_", " ")) for row in csv.DictReader(file)]
    return [row for row in rows if row.target in INTENTS]


def _gsm8k(data: Path) -> list[Pair]:
    rows = json.loads((data / "gsm8k" / "test.json").read_text(encoding="utf-8"))
    return [Pair(row["instruction"], f"{float(row['answer']):g}") for row in rows]


def _mawps(data: Path) -> list[Pair]:
    rows = json.loads((data / "mawps" / "train.json").read_text(encoding="utf-8"))
    return [Pair(row["original_text"], f"{float(row['ans']):g}") for row in rows]


# The first ten intents of the authors' list that are clear without definitions of the others.
INTENTS = (
    "card arrival",
    "card linking",
    "exchange rate",
    "extra charge on statement",
    "pending cash withdrawal",
    "age limit",
    "pin blocked",
    "lost or stolen card",
    "top up limits",
    "edit personal details",
)
_LETTERS = tuple("ABCDEFGHIJ")
_OPTION = "Choose the right option. Answer with its letter only."
_SUM = "Each input is a word problem; the answer is a number."

TASKS: dict[str, Source] = {
    "sst2": Source(
        _tsv("sst-2", "sentence", ("negative", "positive")),
        "Is the sentiment of this sentence from a film review positive or negative? Answer with one word.",
        "Sentences from film reviews are classified as positive or negative.",
        ("negative", "positive"),
    ),
    "subj": Source(
        _tsv("subj", "sentence", ("subjective", "objective")),
        "Is this sentence about a film subjective or objective? Answer with one word.",
        "Sentences about films are classified as subjective (opinions, from reviews) or objective (from plot summaries).",
        ("subjective", "objective"),
    ),
    "agnews": Source(
        _tsv("agnews", "sentence", ("World", "Sports", "Business", "Tech")),
        "What is the topic of this news article: World, Sports, Business or Tech? Answer with one word.",
        "News articles are classified by topic: World, Sports, Business or Tech.",
        ("World", "Sports", "Business", "Tech"),
    ),
    "banking10": Source(
        _banking,
        f"Which intent does the bank customer's message have: {', '.join(INTENTS)}? Answer with the intent only.",
        "Messages of bank customers are classified by intent, one of ten.",
        INTENTS,
    ),
    "navigate": Source(
        _bbh("navigate"),
        "Answer the question with Yes or No.",
        "Given a list of moves, decide whether they lead back to the starting point.",
        ("Yes", "No"),
    ),
    "hyperbaton": Source(
        _bbh("hyperbaton"),
        _OPTION,
        "Given two sentences, choose the one with the correct order of adjectives.",
        _LETTERS[:2],
    ),
    "disambiguation_qa": Source(
        _bbh("disambiguation_qa"),
        _OPTION,
        "Given a sentence with a pronoun, choose what the pronoun refers to, or that it is ambiguous.",
        _LETTERS[:3],
    ),
    "snarks": Source(_bbh("snarks"), _OPTION, "Given two statements, choose the sarcastic one.", _LETTERS[:2]),
    "ruin_names": Source(
        _bbh("ruin_names"),
        _OPTION,
        "Given the name of an artist or film, choose the edit that makes it humorous.",
        _LETTERS[:4],
    ),
    "date_understanding": Source(
        _bbh("date_understanding"), _OPTION, "Given a text about dates, choose the date asked for.", _LETTERS[:6]
    ),
    "antonyms": Source(
        _induction("antonyms"),
        "Write a word that means the opposite of the input",
        "The answer is the antonym of the input word.",
        metric=ExactMatch(),
    ),
    "larger_animal": Source(
        _induction("larger_animal"),
        "Write the bigger animal of the two",
        "The input names two animals; the answer is the larger one.",
        metric=ExactMatch(),
    ),
    "second_word_letter": Source(
        _induction("second_word_letter"),
        "Write down the second letter in the following word",
        "The answer is the second letter of the input word.",
        metric=ExactMatch(),
    ),
    "mawps": Source(_mawps, "Solve the problem.", _SUM, metric=Number(), max_tokens=200),
    "gsm8k": Source(_gsm8k, "Solve the problem. Think step by step.", _SUM, metric=Number(), max_tokens=300),
    # As in VISTA (arXiv 2603.18388), in our wording: the format asks for the answer before the steps that lead to it, and the
    # metric reads the last number.
    "gsm8k_defective": Source(
        _gsm8k,
        'Reply in JSON with two fields in this order: "final_answer", the number, and "solution", the steps that lead to it.',
        _SUM,
        metric=Number(),
        max_tokens=300,
    ),
}


def load(name: str, data: Path, seed: int) -> Splits:
    """Return the task `name` with the splits of `seed`; no input occurs twice, in one split or in two.

    Raises:
        InputError: there is no such task, or its data are missing.
    """
    if name not in TASKS:
        raise InputError(f"unknown task {name!r}: use one of {', '.join(TASKS)}")
    source = TASKS[name]
    try:
        pairs = _distinct(source.read(data))
    except FileNotFoundError as error:
        raise InputError(f"the data of {name} are missing ({error.filename}): give their folder by --data") from error
    order = named_generator(seed, f"arena {name.removesuffix('_defective')}").permutation(len(pairs))
    examples = [Example({"input": pairs[i].input}, pairs[i].target, str(i)) for i in order[: TRAIN + VALIDATION + TEST]]
    train, validation = examples[:TRAIN], examples[TRAIN : TRAIN + VALIDATION]
    return Splits(name, source, tuple(train), tuple(validation), tuple(examples[TRAIN + VALIDATION :]))


def _distinct(pairs: Iterable[Pair]) -> list[Pair]:
    """Keep the first pair of each input."""
    return list({pair.input: pair for pair in reversed(list(pairs))}.values())[::-1]
