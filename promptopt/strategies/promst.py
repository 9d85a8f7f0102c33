"""PROMST: prompts of multi-step tasks, bettered from what feedback rules say of the episodes (Chen et al., EMNLP 2024).

"PRompt Optimization in Multi-Step Tasks" (arXiv 2402.08702). What went wrong is summed up by kind of error, and new
prompts are written from the summaries. Numbers marked (paper) are known from a re-implementation that cites the paper's
algorithms 1 to 3, equation 3 and appendix C; (code) is the authors' release, which has no score model and another search.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import numpy as np

from promptopt.environment import advice
from promptopt.errors import InputError
from promptopt.replies import Response
from promptopt.search.surrogate import Change, fit_surrogate
from promptopt.search.writing import (
    ExampleResult,
    MetaPrompts,
    ScoredPrompt,
    ask,
    by_reason,
    combine,
    edit,
    shorten,
    summarise,
)
from promptopt.statistics.arrays import nanmean

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from enum import Enum

    from promptopt.environment import FeedbackRule
    from promptopt.prompt import Context, Prompt
    from promptopt.scores import Scores
    from promptopt.search.run import Run
    from promptopt.search.surrogate import Surrogate
    from promptopt.statistics.arrays import Floats
    from promptopt.task import Task

    _Message = Callable[[int], Context]

_SCORE_MODEL_FROM = 4  # generation (paper)
_BAR = 0.8  # of the best score so far (paper, equation 3)
_MOST_GENERATIONS = 100
_GATE = 4  # of the instances that the parent lost, which a child meets first, or a quarter of all
_LAST_ROUNDS = 2  # of an episode, shown with the advice (code)


class Lesson(NamedTuple):
    """What one episode teaches about one kind of error."""

    kind: str
    seen: ExampleResult
    lost: float


class Member(NamedTuple):
    """A prompt that met all training instances, or those on which it was dropped.

    Args:
        prompt: itself.
        parent: what it was made from.
        rewards: [E], or [0] of a prompt that was dropped.
        score: their mean; of a prompt that was dropped, its parent's mean and the difference on what both met, spread over
            all instances.
        lessons: of its episodes.
        whole: whether it met all instances.
    """

    prompt: Prompt
    parent: Prompt | None
    rewards: Floats
    score: float
    lessons: tuple[Lesson, ...]
    whole: bool


@dataclass(frozen=True, kw_only=True)
class Promst:
    """Feedback rules say what went wrong, a writer sums it up by kind of error, and writes better prompts.

    For tasks with an environment whose rules give advice for each kind of error. Works on any other task too, where a
    lost item is the only kind of error and the reward's words are the advice; hill climbing is then the better known way.
    Not for fewer than eight training instances, nor for episodes that all fail alike at once.

    What differs from the released code, in the paper's settings too: a global archive (the code descends depth first,
    also to worse prompts); the score model, which it lacks, as a ridge regression over words; advice is keyed by enum, so
    that no kind of error is lost by a misspelling; every failed episode counts for each kind of error in it; proposals
    are drawn at a temperature, where the code's at 0 differ by the order of the feedback alone; the messages are in our
    words.

    Args:
        first: children of the seed prompt (paper: 20).
        children: of each parent afterwards (paper: 8).
        parents: best prompts so far that have children (paper: 5).
        patience: generations without a better best, after which the search ends (paper: 3).
        shown: episodes of one kind of error that a summary sees, or of all kinds that a child is made from (paper: 10).
        feedback: which episodes these are. "worst": those that lost most, of each kind, summed up once for all children of a
            prompt. "random": drawn anew for each child, and summed up anew (paper).
        operators: besides mending all kinds of errors, children mend one, join two parents, or shorten (paper: no).
        racing: children first meet some of the instances that their parent lost; the best of those that do better there, at
            most as many as there are parents, meet all, in blocks, and drop out where they are clearly worse (paper: no).
        forecast: "change" asks for twice as many proposals and measures the half with the highest upper bounds, by a
            forecast of the change from the parent that is asked only where it has proved right; "paper" leaves out those
            below equation 3; "off" measures all.
        meta: a folder of messages to the writer in place of the shipped ones.
    """

    writes: ClassVar[bool] = True

    first: int = 8
    children: int = 4
    parents: int = 3
    patience: int = 10
    shown: int = 3
    feedback: Literal["worst", "random"] = "worst"
    operators: bool = True
    racing: bool = True
    forecast: Literal["change", "paper", "off"] = "change"
    meta: str = ""

    def __post_init__(self) -> None:
        for name in ("first", "children", "parents", "patience", "shown"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        MetaPrompts(self.meta)  # refuses a folder that is none
        if self.feedback not in ("worst", "random"):
            raise InputError(f"feedback must be 'worst' or 'random', not {self.feedback!r}")
        if self.feedback == "random" and self.operators:
            raise InputError(
                "feedback='random' is drawn for children that mend all kinds of errors: set operators=False"
            )
        if self.forecast not in ("change", "paper", "off"):
            raise InputError(f"forecast must be 'change', 'paper' or 'off', not {self.forecast!r}")

    @classmethod
    def paper(cls) -> Promst:
        """Return the paper's settings."""
        return cls(
            first=20, children=8, parents=5, patience=3, shown=10, feedback="random", operators=False, racing=False,
            forecast="paper",
        )  # fmt: skip

    def search(self, run: Run) -> None:
        """Breed until the best prompt stays the best for some generations, or wins all there is to win."""
        make = run.task.environment
        rules = make().rules if make else {}
        _Colony(self, run, rules, MetaPrompts(self.meta)).run_through()


@dataclass
class _Colony:
    """One search in progress.

    Args:
        settings: of the search.
        run: scores and writes.
        rules: what to say of each event.
        meta: the messages' wording.
        members: all prompts that were measured.
        summaries: (prompt, kind of error) -> what the writer said of it.
    """

    settings: Promst
    run: Run
    rules: Mapping[Enum, FeedbackRule]
    meta: MetaPrompts
    members: dict[Prompt, Member] = field(default_factory=dict)
    summaries: dict[tuple[Prompt, str], str] = field(default_factory=dict)

    def run_through(self) -> None:
        """Search to the end."""
        s, run = self.settings, self.run
        self._measure([run.task.seed_prompt], [None])
        flat = 0
        for generation in range(1, _MOST_GENERATIONS + 1):
            before = self._best()[0].score
            parents = self._best()[: s.parents if generation > 1 else 1]
            if not any(parent.lessons for parent in parents):
                run.step(best=before, ended="nothing went wrong: there is nothing to learn from")
                return
            count = s.children if generation > 1 else s.first
            model = self._fitted() if s.forecast == "change" else None
            made, rejected = self._children(parents, 2 * count if model and model.trusted else count)
            kept, facts = self._admitted(made, generation, model)
            if kept:
                self._measure([child for child, _ in kept], [parent.prompt for _, parent in kept], parents)
            best = self._best()[0]
            flat = 0 if best.score > before else flat + 1
            lost: dict[str, float | str] = {"rejected": rejected.total(), "why": by_reason(rejected)}
            run.step(best=best.score, proposed=len(made), measured=len(kept), **lost, **facts)
            if flat == s.patience:
                return

    def _best(self) -> list[Member]:
        """Return the members that met all instances, best first; of equals the shorter."""
        whole = [member for member in self.members.values() if member.whole]
        return sorted(whole, key=lambda member: (-member.score, self.run.length(member.prompt)))

    def _measure(
        self, prompts: Sequence[Prompt], parents: Sequence[Prompt | None], rivals: Sequence[Member] = ()
    ) -> None:
        """Score prompts, in a race against their parents where the settings say so, and enter them."""
        if self.settings.racing and rivals:
            of = dict(zip(prompts, parents, strict=True))
            for rival in rivals:
                if mine := [prompt for prompt in prompts if of[prompt] == rival.prompt]:
                    self._race(mine, rival, rivals)
            return
        scores = self.run.score(prompts, parents=parents)
        for p, (prompt, parent) in enumerate(zip(prompts, parents, strict=True)):
            self._enter(prompt, parent, scores, p)

    def _enter(self, prompt: Prompt, parent: Prompt | None, scores: Scores, row: int) -> None:
        rewards = scores.per_example[row]
        mean = float(nanmean(rewards, axis=0))
        score = -math.inf if math.isnan(mean) else mean
        self.members[prompt] = Member(prompt, parent, rewards, score, self._lessons(scores, row, rewards), whole=True)

    def _race(self, prompts: Sequence[Prompt], parent: Member, rivals: Sequence[Member]) -> None:
        """Let the children of one parent through a gate; race the best of them, on all instances, against all parents."""
        run, gate = self.run, self._gate(parent)
        through, made_from = list(prompts), [parent.prompt] * len(prompts)
        if gate:
            scores = run.score(prompts, [run.task.train[e] for e in gate], parents=made_from)
            found = dict(zip(prompts, nanmean(scores.per_example - parent.rewards[gate], axis=1).tolist(), strict=True))
            length = run.length(parent.prompt)
            able = [p for p, gain in found.items() if gain > 0 or (gain == 0 and run.length(p) < length)]
            through = sorted(able, key=lambda p: -found[p])[: max(1, self.settings.parents // len(rivals))]
        if through:
            # The rivals' episodes are known and free. Those who drop out stay in the run's history, with what they met.
            field_ = [*(rival.prompt for rival in rivals), *through]
            parents = [*(rival.parent for rival in rivals), *made_from[: len(through)]]
            race = run.race(field_, parents=parents)
            rows = {field_[i]: row for row, i in enumerate(race.survivors)}
            for prompt in through:
                if prompt in rows and len(race.scores.examples) == len(run.task.train):
                    self._enter(prompt, parent.prompt, race.scores, rows[prompt])
        for prompt in prompts:
            if prompt not in self.members:
                self._enter_dropped(prompt, parent, gate)

    def _gate(self, parent: Member) -> list[int]:
        """Return some instances that a prompt lost, of each kind of error in turn.

        Drawn anew each time: what one kind of error takes in one instance may be hidden by another kind in the next.
        """
        train = self.run.task.train
        place = {example.id: e for e, example in enumerate(train)}
        lost = [
            [place[lesson.seen.example.id] for lesson in parent.lessons if lesson.kind == kind]
            for kind in self._kinds(parent)
        ]
        turns = zip_longest(*(self.run.rng.permutation(places).tolist() for places in lost))
        found = dict.fromkeys(e for turn in turns for e in turn if e is not None)
        return list(found)[: max(_GATE, len(train) // 4)]

    def _enter_dropped(self, prompt: Prompt, parent: Member, gate: Sequence[int]) -> None:
        """Enter a prompt that met its gate and, if it passed that, the first instances."""
        seen, met = self.run.history[prompt], dict.fromkeys(gate)
        for e in range(len(parent.rewards)):
            if len(met) * self.run.repeats < seen.cells + seen.failed:
                met[e] = None
        gain = (seen.fitness - float(nanmean(parent.rewards[list(met)], axis=0))) * len(met) / len(parent.rewards)
        self.members[prompt] = Member(prompt, parent.prompt, parent.rewards[:0], parent.score + gain, (), whole=False)

    def _lessons(self, scores: Scores, row: int, rewards: Floats) -> tuple[Lesson, ...]:
        """Return what the episodes of one prompt teach, the most costly first."""
        top = float(np.nanmax(rewards, initial=0.0))
        best = max(1.0, top)
        out = []
        for e, example in enumerate(scores.examples):
            reply, reward = scores.replies[row][e][0], float(rewards[e])
            if not isinstance(reply, Response) or math.isnan(reward) or reward >= best:
                continue
            why = scores.reasons[row][e][0]
            if reply.trajectory is None:
                out.append(Lesson("wrong", ExampleResult(example, reply.text, why, reward), best - reward))
                continue
            turns = reply.trajectory.turns[-_LAST_ROUNDS:]
            last = "\n".join(f"seen: {turn.observation}\nsaid: {turn.reply}" for turn in turns)
            said = {event.name: words for event, words in advice(reply.trajectory, self.rules).items()}
            for kind, words in (said or {"wrong": why}).items():
                out.append(Lesson(kind, ExampleResult(example, last, words, reward), best - reward))
        return tuple(sorted(out, key=lambda lesson: -lesson.lost))

    def _children(self, parents: Sequence[Member], count: int) -> tuple[list[tuple[Prompt, Member]], Counter[str]]:
        """Return new prompts, each with its parent, and the proposals that were no use, counted by reason."""
        made: dict[Prompt, Member] = {}
        rejected = Counter[str]()
        for parent in parents:
            for message, share in self._messages(parent, parents, count):
                known = [*self.members, *made]
                answer = ask(self.run, message, share, each=share, like=parent.prompt, known=known)
                made |= {prompt: parent for prompt in answer.prompts if prompt not in made}
                rejected.update(answer.rejected)
        return list(made.items()), rejected

    def _messages(self, parent: Member, parents: Sequence[Member], count: int) -> list[tuple[_Message, int]]:
        """Return what to ask about one parent, and for how many children."""
        run, meta = self.run, self.meta
        task, kinds = run.task, self._kinds(parent)
        if self.settings.feedback == "random":
            return [(self._drawn(parent), 1) for _ in range(count)] if kinds else []
        out: list[tuple[_Message, int]] = []
        if self.settings.operators and count > 1:
            others = [other for other in parents if other.prompt != parent.prompt]
            if others:
                other = others[int(run.rng.integers(len(others)))]
                pair = [ScoredPrompt(parent.prompt, parent.score), ScoredPrompt(other.prompt, other.score)]
                out.append((partial(_combined, task, pair, meta), 1))
            elif len(parent.prompt.text) > 2 * len(task.seed_prompt.text):
                out.append((lambda n: shorten(task, parent.prompt, n, meta=meta), 1))
            if len(kinds) > 1:
                lost = np.array([sum(lesson.lost for lesson in parent.lessons if lesson.kind == k) for k in kinds])
                kind = kinds[int(run.rng.choice(len(kinds), p=lost / lost.sum()))]
                out.append((partial(self._mend, parent, (kind,)), max(1, (count - len(out)) // 3)))
        left = count - sum(share for _, share in out)
        if kinds and left > 0:
            out.append((partial(self._mend, parent, tuple(kinds)), left))
        return out

    def _kinds(self, member: Member) -> list[str]:
        """Return the kinds of error of a prompt, the most costly first."""
        lost: dict[str, float] = {}
        for lesson in member.lessons:
            lost[lesson.kind] = lost.get(lesson.kind, 0.0) + lesson.lost
        return sorted(lost, key=lambda kind: -lost[kind])

    def _drawn(self, parent: Member) -> _Message:
        """Return what asks for one child, from feedback that is drawn and summed up for it alone (paper)."""
        drawn = self.run.rng.permutation(len(parent.lessons))[: self.settings.shown].tolist()
        shown = [parent.lessons[i] for i in drawn]
        kinds = [kind for kind in self._kinds(parent) if kind in {lesson.kind for lesson in shown}]
        summaries = {kind: self._said(parent, kind, [one.seen for one in shown if one.kind == kind]) for kind in kinds}
        return partial(self._edit, parent, summaries)

    def _mend(self, parent: Member, kinds: Sequence[str], count: int) -> Context:
        """Return the message that mends some kinds of errors of a prompt."""
        return self._edit(parent, {kind: self._summary(parent, kind) for kind in kinds}, count)

    def _edit(self, parent: Member, summaries: Mapping[str, str], count: int) -> Context:
        """Return the message that shows a prompt, its forebears, and the summaries of its errors (GenLLM)."""
        parts = [f"{n}. {kind}: {summary}" for n, (kind, summary) in enumerate(summaries.items(), start=1)]
        lineage = self._forebears(parent)
        return edit(self.run.task, parent.prompt, "\n".join(parts), count, lineage=lineage, meta=self.meta)

    def _summary(self, member: Member, kind: str) -> str:
        """Return what the writer says of one kind of error; asked once for each prompt and kind."""
        key = (member.prompt, kind)
        if key not in self.summaries:
            lessons = [lesson.seen for lesson in member.lessons if lesson.kind == kind]
            self.summaries[key] = self._said(member, kind, lessons[: self.settings.shown])
        return self.summaries[key]

    def _said(self, member: Member, kind: str, shown: Sequence[ExampleResult]) -> str:
        """Return what the writer says of some episodes of one kind of error (SumLLM)."""
        count = sum(lesson.kind == kind for lesson in member.lessons)
        said = self.run.write(summarise(self.run.task, member.prompt, shown, meta=self.meta))
        # Without a usable reply the rules' own words must do.
        words = said or [seen.reason for seen in shown[:1]]
        return " ".join([f"{count} of {len(self.run.task.train)} episodes.", *words])

    def _forebears(self, member: Member) -> list[ScoredPrompt]:
        """Return the prompts that this one descends from, the oldest first."""
        out: list[ScoredPrompt] = []
        parent = member.parent
        while parent is not None and parent in self.members:
            out.append(ScoredPrompt(parent, self.members[parent].score))
            parent = self.members[parent].parent
        return out[::-1]

    def _admitted(
        self, made: Sequence[tuple[Prompt, Member]], generation: int, model: Surrogate | None
    ) -> tuple[list[tuple[Prompt, Member]], dict[str, float]]:
        """Return the children that are worth measuring, and what the forecast says of itself."""
        changes = [Change(child.text, parent.prompt.text, parent.score) for child, parent in made]
        if self.settings.forecast == "paper":
            return self._by_equation_3(made, changes) if made and generation >= _SCORE_MODEL_FROM else (list(made), {})
        if model is None:
            return list(made), {}
        facts = {"correlation": model.correlation, "error": model.error, "slack": model.conformal_margin}
        if not made or not model.trusted:
            return list(made), facts
        kept = model.select_by_ucb(changes, -(-len(made) // 2), self.run.rng)
        return [made[i] for i in kept], facts

    def _by_equation_3(
        self, made: Sequence[tuple[Prompt, Member]], changes: Sequence[Change]
    ) -> tuple[list[tuple[Prompt, Member]], dict[str, float]]:
        """Keep those with mean + variance + error of five models >= 0.8 of the best so far (paper, equation 3)."""
        measured = self._measured()
        rng, models = self.run.rng, []
        for _ in range(5):
            drawn = rng.permutation(len(measured))[: max(1, 4 * len(measured) // 5)]  # 4 : 1 (paper)
            models.append(fit_surrogate([measured[i][0] for i in drawn], [measured[i][1] for i in drawn]))
        known = [model for model in models if model is not None]
        if not known:
            return list(made), {}
        scores = np.array([[change.score for change in changes] + model.mean(changes) for model in known])
        error = float(np.mean([model.error for model in known]))
        bar = _BAR * self._best()[0].score
        kept = scores.mean(axis=0) + scores.var(axis=0) + error >= bar
        return [child for child, keep in zip(made, kept, strict=True) if keep], {"error": error}

    def _fitted(self) -> Surrogate | None:
        measured = self._measured()
        return fit_surrogate([change for change, _ in measured], [gain for _, gain in measured])

    def _measured(self) -> list[tuple[Change, float]]:
        """Return the changes that were measured, with their gains."""
        out = []
        for member in self.members.values():
            parent = self.members.get(member.parent) if member.parent is not None else None
            if parent is not None and math.isfinite(member.score) and math.isfinite(parent.score):
                change = Change(member.prompt.text, parent.prompt.text, parent.score)
                out.append((change, member.score - parent.score))
        return out


def _combined(task: Task, pair: Sequence[ScoredPrompt], meta: MetaPrompts, count: int) -> Context:
    return combine(task, pair, count, meta=meta)
