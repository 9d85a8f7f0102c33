"""PROMST: improve prompts of multi-step tasks by rule-based feedback on the episodes (Chen et al., EMNLP 2024).

"PRompt Optimization in Multi-Step Tasks" (arXiv 2402.08702). The writer summarizes the errors of each kind and writes new
prompts from the summaries. Numbers marked (paper) are from a re-implementation that cites the paper's algorithms 1 to 3,
equation 3 and appendix C; (code) is the authors' release, which has no score model and a different search.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Literal

import numpy as np

from promptopt.errors import InputError
from promptopt.search.surrogate import Change, fit_surrogate
from promptopt.search.writing import MetaPrompts, ask, by_reason
from promptopt.statistics.arrays import nanmean
from promptopt.strategies.checks import check_at_least, check_choice
from promptopt.strategies.feedback import Feedback, Member, error_cases

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from enum import Enum

    from promptopt.environment import FeedbackRule
    from promptopt.prompt import Example, Prompt
    from promptopt.scores import Scores
    from promptopt.search.run import Run
    from promptopt.search.surrogate import Surrogate
    from promptopt.strategies.feedback import Message

_SCORE_MODEL_FROM = 4  # generation (paper)
_SCORE_THRESHOLD = 0.8  # share of the best score so far (paper, equation 3)
_MAX_GENERATIONS = 100
_SCREENING_INSTANCES = 4  # at least; a quarter of all training instances if that is more


@dataclass(frozen=True, kw_only=True)
class Promst:
    """Feedback rules name the errors, the writer summarizes them by kind, and writes better prompts.

    For tasks with an environment whose rules give advice for each kind of error. It also works on other tasks, where a lost
    example is the only kind of error and the reward's reason is the advice; hill climbing is better established there.
    Not for fewer than eight training instances, nor for episodes that all fail in the same way at the start.

    What differs from the released code, in the paper's settings too: a global archive (the code descends depth first, even
    to worse prompts); a score model, which the code lacks, as a ridge regression over words; advice is keyed by enum, so
    that a misspelling cannot hide a kind of error; a failed episode counts for every kind of error in it; proposals are
    sampled at a temperature (the code samples at 0, so that only the order of the feedback varies); the messages are in
    our wording.

    Args:
        first: children of the seed prompt (paper: 20).
        children: children per parent in later generations (paper: 8).
        parents: number of best prompts that have children (paper: 5).
        patience: the search ends after this many generations without a new best (paper: 3).
        shown: episodes shown per summary of one kind of error, or, with random feedback, per child (paper: 10).
        feedback: how these episodes are chosen. "worst": those that lost most reward, by kind of error, summarized once for
            all children of a prompt. "random": sampled and summarized for each child (paper).
        operators: some children fix only one kind of error, combine two parents, or shorten the prompt; the others fix all
            kinds (paper: no).
        racing: score children first on instances that their parent lost; the best of those that improve there, at most
            as many as there are parents, race on all instances in blocks, and the clearly worse are eliminated (paper: no).
        forecast: "change" asks for twice as many proposals and scores the half with the highest upper confidence bounds on
            the gain over the parent, once the surrogate has proved accurate; "paper" drops proposals below equation 3;
            "off" scores all.
        meta: folder with meta-prompts that replace the shipped ones.
    """

    writes = True

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
        check_at_least(self, 1, "first", "children", "parents", "patience", "shown")
        MetaPrompts(self.meta)  # raises if the folder cannot be used
        check_choice(self, "feedback", "worst", "random")
        check_choice(self, "forecast", "change", "paper", "off")
        if self.feedback == "random" and self.operators:
            raise InputError(
                "feedback='random' works only for children that fix all kinds of errors: set operators=False"
            )

    @classmethod
    def paper(cls) -> Promst:
        """Return the paper's settings."""
        return cls(
            first=20, children=8, parents=5, patience=3, shown=10, feedback="random", operators=False, racing=False,
            forecast="paper",
        )  # fmt: skip

    def search(self, run: Run) -> None:
        """Breed until the best prompt has not improved for some generations, or makes no errors."""
        make = run.task.environment
        rules = make().rules if make else {}
        members: dict[Prompt, Member] = {}
        feedback = Feedback(run, MetaPrompts(self.meta), self.shown, members)
        _PopulationSearch(self, run, rules, feedback, members).search()


@dataclass
class _PopulationSearch:
    """One search in progress.

    Args:
        settings: of the search.
        run: scores and writes prompts.
        rules: the feedback rule of each event.
        feedback: writes the messages.
        members: all prompts that were scored.
    """

    settings: Promst
    run: Run
    rules: Mapping[Enum, FeedbackRule]
    feedback: Feedback
    members: dict[Prompt, Member]

    def search(self) -> None:
        """Run all generations."""
        s, run = self.settings, self.run
        self._score([run.task.seed_prompt], [None])
        stagnant = 0
        for generation in range(1, _MAX_GENERATIONS + 1):
            best_before = self._ranked()[0].score
            parents = self._ranked()[: s.parents if generation > 1 else 1]
            if not any(parent.errors for parent in parents):
                run.step(best=best_before, ended="no errors left to learn from")
                return
            count = s.children if generation > 1 else s.first
            surrogate = self._fit_surrogate() if s.forecast == "change" else None
            children, rejected = self._children(parents, 2 * count if surrogate and surrogate.trusted else count)
            kept, surrogate_facts = self._prefilter(children, generation, surrogate)
            if kept:
                self._score([child for child, _ in kept], [parent.prompt for _, parent in kept], parents)
            best = self._ranked()[0]
            stagnant = 0 if best.score > best_before else stagnant + 1
            rejections: dict[str, float | str] = {"rejected": rejected.total(), "why": by_reason(rejected)}
            run.step(best=best.score, proposed=len(children), measured=len(kept), **rejections, **surrogate_facts)
            if stagnant == s.patience:
                return

    def _ranked(self) -> list[Member]:
        """Return the members evaluated on all instances, best first; ties go to the shorter prompt."""
        evaluated = [member for member in self.members.values() if member.fully_evaluated]
        return sorted(evaluated, key=lambda member: (-member.score, self.run.length(member.prompt)))

    def _score(
        self, prompts: Sequence[Prompt], parents: Sequence[Prompt | None], rivals: Sequence[Member] = ()
    ) -> None:
        """Score prompts and add them to the members; with racing, against the rivals, which are all parents."""
        if self.settings.racing and rivals:
            parent_of = dict(zip(prompts, parents, strict=True))
            for rival in rivals:
                if children := [prompt for prompt in prompts if parent_of[prompt] == rival.prompt]:
                    self._race(children, rival, rivals)
            return
        scores = self.run.score(prompts, parents=parents)
        for p, (prompt, parent) in enumerate(zip(prompts, parents, strict=True)):
            self._add(prompt, parent, scores, p)

    def _add(self, prompt: Prompt, parent: Prompt | None, scores: Scores, row: int) -> None:
        rewards = scores.per_example[row]
        mean = float(nanmean(rewards, axis=0))
        score = -math.inf if math.isnan(mean) else mean
        errors = error_cases(scores, row, rewards, self.rules)
        self.members[prompt] = Member(prompt, parent, score, errors, fully_evaluated=True)

    def _race(self, prompts: Sequence[Prompt], parent: Member, rivals: Sequence[Member]) -> None:
        """Screen the children of one parent; race the best of them, on all instances, against all parents."""
        screening, passed = self._screening_instances(parent), list(prompts)
        if screening:
            improved = self._improved(prompts, parent, screening)
            passed = improved[: max(1, self.settings.parents // len(rivals))]
        if passed:
            self._race_on_all(passed, parent, rivals)
        for prompt in prompts:
            if prompt not in self.members:
                self._add_eliminated(prompt, parent)

    def _improved(self, prompts: Sequence[Prompt], parent: Member, screening: Sequence[Example]) -> list[Prompt]:
        """Score children on the screening instances; return those that gain there, or are as good and shorter, best first."""
        run = self.run
        scores = run.score(prompts, screening, parents=[parent.prompt] * len(prompts))
        gains = nanmean(scores.per_example - run.archive.rewards([parent.prompt], screening), axis=1).tolist()
        gain_of, length = dict(zip(prompts, gains, strict=True)), run.length(parent.prompt)
        improved = [
            prompt for prompt, gain in gain_of.items() if gain > 0 or (gain == 0 and run.length(prompt) < length)
        ]
        return sorted(improved, key=lambda prompt: -gain_of[prompt])

    def _race_on_all(self, children: Sequence[Prompt], parent: Member, rivals: Sequence[Member]) -> None:
        """Race children of one parent against the rivals, whose episodes are free; add those that finish to the members."""
        racers = [*(rival.prompt for rival in rivals), *children]
        parents = [*(rival.parent for rival in rivals), *[parent.prompt] * len(children)]
        race = self.run.race(racers, parents=parents)
        if len(race.scores.examples) < len(self.run.task.train):
            return  # the budget ended
        for row, i in enumerate(race.survivors):
            if racers[i] in children:
                self._add(racers[i], parent.prompt, race.scores, row)

    def _screening_instances(self, parent: Member) -> list[Example]:
        """Return some instances that a prompt lost, taking each kind of error in turn.

        They are sampled again each time, because in a single instance one kind of error may hide another.
        """
        lost_by_kind = [[episode.example for episode in parent.of_kind(kind)] for kind in parent.lost_by_kind]
        shuffled = [[lost[i] for i in self.run.rng.permutation(len(lost)).tolist()] for lost in lost_by_kind]
        instances = dict.fromkeys(example for turn in zip_longest(*shuffled) for example in turn if example is not None)
        return list(instances)[: max(_SCREENING_INSTANCES, len(self.run.task.train) // 4)]

    def _add_eliminated(self, prompt: Prompt, parent: Member) -> None:
        """Add a prompt that was not evaluated on all instances, with its gain on those that it shares with its parent."""
        gain = self.run.archive.paired(prompt, parent.prompt)
        score = parent.score + gain.mean * gain.examples / len(self.run.task.train)
        self.members[prompt] = Member(prompt, parent.prompt, score, (), fully_evaluated=False)

    def _children(self, parents: Sequence[Member], count: int) -> tuple[list[tuple[Prompt, Member]], Counter[str]]:
        """Return new prompts, each with its parent, and the numbers of rejected proposals by reason."""
        children: dict[Prompt, Member] = {}
        rejected = Counter[str]()
        for parent in parents:
            for message, share in self._messages(parent, parents, count):
                known = [*self.members, *children]
                answer = ask(self.run, message, share, each=share, like=parent.prompt, known=known)
                children |= {prompt: parent for prompt in answer.prompts if prompt not in children}
                rejected.update(answer.rejected)
        return list(children.items()), rejected

    def _messages(self, parent: Member, parents: Sequence[Member], count: int) -> list[tuple[Message, int]]:
        """Return the messages for one parent, each with the number of children to ask for."""
        feedback, kinds = self.feedback, list(parent.lost_by_kind)
        if self.settings.feedback == "random":
            return [(feedback.fixing_sample(parent), 1) for _ in range(count)] if kinds else []
        messages: list[tuple[Message, int]] = []
        if self.settings.operators and count > 1:
            others = [other for other in parents if other.prompt != parent.prompt]
            if others:
                messages.append((feedback.combining(parent, others), 1))
            elif len(parent.prompt.text) > 2 * len(self.run.task.seed_prompt.text):
                messages.append((feedback.shortening(parent), 1))
            if len(kinds) > 1:
                messages.append((feedback.fixing_costly(parent), max(1, (count - len(messages)) // 3)))
        remaining = count - sum(share for _, share in messages)
        if kinds and remaining > 0:
            messages.append((feedback.fixing(parent, kinds), remaining))
        return messages

    def _prefilter(
        self, children: Sequence[tuple[Prompt, Member]], generation: int, surrogate: Surrogate | None
    ) -> tuple[list[tuple[Prompt, Member]], dict[str, float]]:
        """Return the children that are worth scoring, and the surrogate's quality for the step."""
        changes = [Change(child.text, parent.prompt.text, parent.score) for child, parent in children]
        if self.settings.forecast == "paper":
            if children and generation >= _SCORE_MODEL_FROM:
                return self._by_equation_3(children, changes)
            return list(children), {}
        if surrogate is None:
            return list(children), {}
        facts = {"correlation": surrogate.correlation, "error": surrogate.error, "slack": surrogate.conformal_margin}
        if not children or not surrogate.trusted:
            return list(children), facts
        kept = surrogate.select_by_ucb(changes, -(-len(children) // 2), self.run.rng)
        return [children[i] for i in kept], facts

    def _by_equation_3(
        self, children: Sequence[tuple[Prompt, Member]], changes: Sequence[Change]
    ) -> tuple[list[tuple[Prompt, Member]], dict[str, float]]:
        """Keep those with mean + variance + error of five models >= 0.8 of the best so far (paper, equation 3)."""
        measured = self._measured_changes()
        rng, fits = self.run.rng, []
        for _ in range(5):
            training = rng.permutation(len(measured))[: max(1, 4 * len(measured) // 5)]  # 4 : 1 (paper)
            fits.append(fit_surrogate([measured[i][0] for i in training], [measured[i][1] for i in training]))
        models = [model for model in fits if model is not None]
        if not models:
            return list(children), {}
        scores = np.array([[change.score for change in changes] + model.mean(changes) for model in models])
        error = float(np.mean([model.error for model in models]))
        threshold = _SCORE_THRESHOLD * self._ranked()[0].score
        kept = scores.mean(axis=0) + scores.var(axis=0) + error >= threshold
        return [child for child, keep in zip(children, kept, strict=True) if keep], {"error": error}

    def _fit_surrogate(self) -> Surrogate | None:
        measured = self._measured_changes()
        return fit_surrogate([change for change, _ in measured], [gain for _, gain in measured])

    def _measured_changes(self) -> list[tuple[Change, float]]:
        """Return the changes from scored parents to their scored children, with their gains."""
        measured = []
        for member in self.members.values():
            parent = self.members.get(member.parent) if member.parent is not None else None
            if parent is not None and math.isfinite(member.score) and math.isfinite(parent.score):
                change = Change(member.prompt.text, parent.prompt.text, parent.score)
                measured.append((change, member.score - parent.score))
        return measured
