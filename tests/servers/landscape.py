"""A task and a prompt writer behind the loopback server, with a hidden map from words to competence.

Standard library alone, so that another project's Python may import it, too. The task model is asked `PROMPT ITEM`. Each
item has a topic, and each topic words of its own, some that help, some that harm, some that do nothing; how often the
model is right about a topic is `TopicWords.share`. The topic of an item does not stand in it: the reward's words name it
where a reply is wrong.

The writer follows one rule, whatever the form of the message. It takes the best prompt that it is shown (the only one
where one is shown) and changes two words: it adds one (6 times of 10) or drops one. Words of topics that the reward's
words name come first; where prompts have scores, so do words that stand in better prompts, to add, and in worse ones, to
drop. Luck decides the rest. It does not know what a word is worth, and does not care whose message it reads.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field

TOPICS = ("letters", "digits", "colours", "shapes")
LABELS = ("yes", "no")

_BASE, _WORTH = 0.3, 0.32  # of a topic without words, and of a word
_CHANGES, _ADDS = 2, 0.6
_LESSON = 8.0  # weight of a difference of mean scores, beside luck from 0 to 1
_NAMED = 1.0  # weight of the reward's words: a topic that they name comes before all others


@dataclass(frozen=True)
class TopicWords:
    """The hidden map.

    Args:
        helpful: words of each topic that raise its share of right replies by 0.32.
        harmful: that lower it as much.
        idle: that do nothing.
    """

    helpful: int
    harmful: int
    idle: int

    @property
    def words(self) -> dict[str, tuple[str, float]]:
        """Each word's topic and worth."""
        worths = [_WORTH] * self.helpful + [-_WORTH] * self.harmful + [0.0] * self.idle
        return {f"{topic}{n}": (topic, worth) for topic in TOPICS for n, worth in enumerate(worths)}

    @property
    def seed_prompt(self) -> str:
        """One word that does nothing, one that harms, and one that is no word of the map."""
        return f"{TOPICS[0]}{self.helpful + self.harmful} {TOPICS[1]}{self.helpful} Answer:"

    def share(self, prompt: str, topic: str) -> float:
        """Return how often the model is right about a topic."""
        known = [self.words[word] for word in set(prompt.split()) if word in self.words]
        return min(max(_BASE + sum(worth for about, worth in known if about == topic), 0.02), 0.98)

    def competence(self, prompt: str) -> float:
        """Return how often the model is right: the mean over topics."""
        return sum(self.share(prompt, topic) for topic in TOPICS) / len(TOPICS)


@dataclass
class World:
    """One draw of the map: what the server answers, a function of the seed, the text and how often it was asked before.

    Args:
        words: the map.
        seed: of all luck.
        scores: whether the writer learns from scores that it is shown.
    """

    words: TopicWords
    seed: int
    scores: bool = True
    _asked: Counter[str] = field(default_factory=Counter)

    def answer(self, text: str) -> str:
        """Answer as the writer, to a greeting, or as the task model."""
        if "<prompt>" in text or "```" in text:
            self._asked[text] += 1
            return self._written(text)
        return self._reply(text) if item_of(text) else "ready"

    def _reply(self, text: str) -> str:
        """Right as often as the prompt's words say; half of the luck is the item's, half is new to each prompt."""
        item = item_of(text)
        half = (self._chance(item) + self._chance(text)) / 2
        luck = 2 * half**2 if half < 0.5 else 1 - 2 * (1 - half) ** 2  # as even as its halves
        right = luck < self.words.share(text.removesuffix(item), topic_of(item))
        return LABELS[(LABELS.index(target_of(item)) + (not right)) % 2]

    def _written(self, text: str) -> str:
        """Return as many proposals as are asked for, in the form of the message."""
        fenced = re.search(r"```\n(.*?)\n```", text, re.DOTALL)
        if fenced:
            return f"```\n{' '.join(self._changed(fenced[1].split(), text, [], 0))}\n```"
        found = re.findall(r"(-?[\d.]+(?:e-?\d+)?: )?<prompt>(.*?)</prompt>", text)
        shown = [(float(score[:-2]) if score else None, prompt.split()) for score, prompt in found if "{" in prompt]
        start = max(shown, key=lambda one: one[0] or 0.0)[1]
        scored = [(score, words) for score, words in shown if score is not None and self.scores]
        wanted = re.search(r"write (\d+) ", text)
        proposals = [self._changed(start, text, scored, n) for n in range(int(wanted[1]) if wanted else 1)]
        return "\n".join(f"<prompt>{' '.join(words)}</prompt>" for words in proposals)

    def _changed(self, start: list[str], text: str, scored: list[tuple[float, list[str]]], n: int) -> list[str]:
        """Return a prompt with two words changed: the rule."""
        words, known = list(start), self.words.words
        named = set(re.findall(r"about (\w+)", text))
        for change in range(_CHANGES):
            luck = {word: self._chance(text, self._asked[text], n, change, word) for word in known}
            urge = {word: luck[word] + _NAMED * (known[word][0] in named) for word in known}
            new, old = [word for word in known if word not in words], [word for word in known if word in words]
            if new and (not old or self._chance(text, self._asked[text], n, change) < _ADDS):
                words.insert(0, max(new, key=lambda word: urge[word] + _LESSON * _lesson(word, scored)))
            elif old:
                words.remove(max(old, key=lambda word: urge[word] - _LESSON * _lesson(word, scored)))
        return words

    def _chance(self, *of: object) -> float:
        return int.from_bytes(hashlib.sha256(repr((self.seed, of)).encode()).digest()[:6]) / 2**48


def item_of(text: str) -> str:
    """Return the item that a text ends with, or ""."""
    found = re.search(r"item\d+$", text)
    return found[0] if found else ""


def topic_of(item: str) -> str:
    """Return what an item is about."""
    return TOPICS[int(item[4:]) % len(TOPICS)]


def target_of(item: str) -> str:
    """Return the right reply."""
    return LABELS[int(item[4:]) // len(TOPICS) % 2]


def judged(item: str, reply: str) -> tuple[float, str]:
    """Return the reward of a reply and the reward's words, the same for everyone who asks."""
    target = target_of(item)
    if reply == target:
        return 1.0, "right"
    return 0.0, f"said {reply}, but {target} is right: it shows too little sense about {topic_of(item)}"


def _lesson(word: str, scored: list[tuple[float, list[str]]]) -> float:
    with_, without = ([score for score, words in scored if (word in words) == has] for has in (True, False))
    return sum(with_) / len(with_) - sum(without) / len(without) if with_ and without else 0.0
