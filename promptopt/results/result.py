"""What a run found, as a value that can be saved, loaded, compared and read.

Knows nothing of how it was found. Equality ignores seconds, actual spending and file paths: these may differ between a run and
its replay, and nothing else may.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from promptopt.errors import InputError
from promptopt.evaluation.ledger import Spending
from promptopt.models.base import Price
from promptopt.prompt import Layout, Prompt, Prompts, as_dicts, is_program_prompts, layout_for
from promptopt.results.comparison_rows import answer_rows, cost_rows, search_rows, test_rows
from promptopt.results.front import FRONT_HEADS, FrontPoint, front_rows
from promptopt.results.headline import CHOSEN_PROMPT, headline
from promptopt.results.layouts import format_of, portable_prompt
from promptopt.results.outcomes import SAME, Comparison, with_infinities
from promptopt.results.predictor import Predictor  # noqa: TC001  as above
from promptopt.results.saved import read_json, write_json
from promptopt.results.table import as_frame, candidate_rows
from promptopt.statistics.pareto import pareto
from promptopt.utils import notebook
from promptopt.utils.characters import printable
from promptopt.utils.json_values import read_value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from promptopt.prompt import Context
    from promptopt.results.portable import PortablePrompt
    from promptopt.statistics import Interval

SPENDING = ("role", "calls", "saved", "input", "cached input", "output", "dollars", "dollars saved")
"""Column headings of `Result.spending`: calls, tokens and dollars spent, and what memo and batches saved."""

FILE = "result.json"
"""Name of the result's file in the folder of a run."""

_FORMAT = 1
_FREE = Price(0.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One candidate of the search.

    Args:
        number: in order of first appearance.
        prompt: the prompt.
        length: its length in tokens, as the model sees it; in words if the tokenizer is not available.
        parent: number of the candidate it was made from, or None.
        step: search step at which it was first scored.
        fitness: mean of what the strategy maximized, None if every reply failed.
        reward: mean of the task's own reward over the same cells.
        cells: number of replies in the two means.
        failed: number of cells without a reply; they are in neither mean.
        validation: mean reward on the validation examples it was raced on, None if it was not shortlisted.
        validated: number of these validation examples.
        calls: logical calls that the run had used when it was first scored; None in results of earlier versions.
        dollars: the same in dollars, for models with a known price.
        objectives: means of the objectives beside the reward, over the examples that it was scored on.
    """

    number: int
    prompt: Prompt
    length: int
    parent: int | None
    step: int
    fitness: float | None
    reward: float | None
    cells: int
    failed: int
    validation: float | None = None
    validated: int = 0
    calls: int | None = None
    dollars: float | None = None
    objectives: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run found.

    Args:
        task: the task's name.
        prompt: the chosen prompt; the seed prompt if nothing better was found.
        seed_prompt: the prompt that the search started from.
        test: the test of the chosen prompt, or None without test data or if the run ended before it.
        history: every candidate, in order of first appearance.
        steps: the facts that the strategy reported, one record per step.
        lengths: lengths in tokens of the seed prompt and of the chosen prompt.
        used: logical usage of each role.
        failed: number of calls that got no reply.
        unfinished: why the run is not finished, or "".
        notes: remarks on the numbers.
        warnings: caveats without which the numbers mislead; part of the headline.
        strategy: the strategy's name and settings.
        models: role -> fingerprint.
        seed: random seed.
        budget: the budget as text.
        versions: versions of the packages that affect the numbers.
        prices: role -> dollars per million tokens, None if unknown.
        seed_number: number of the candidate equivalent to the seed prompt, perhaps with its demonstrations written out; None
            if the search did not score it.
        paid: usage of each role in this process that the memo did not cover.
        seconds: wall time of this process.
        run_dir: folder of the run's files, or "".
        digest: identifies the run; "" in results of earlier versions.
        request: the task's settings sent with the prompt; the test holds for these only. {} in results of earlier versions.
        predictor: a prompt with a bias for each label, if held-out answers showed it ahead of the chosen prompt alone; its
            prompt may be another than the chosen one. None if the chosen prompt alone is best.
        objectives: what the run optimized, "reward" first; () if the reward alone.
        prefer: by which preference the chosen prompt is recommended among the points of the front, or "".
        points: the front, from the highest reward down; its test is in `test.front`.
        layout: the task's fields, template and format; None in results of earlier versions.
        date: when this process ended the run, in ISO 8601 and UTC; "" in results of earlier versions.
    """

    task: str
    prompt: Prompt
    seed_prompt: Prompt
    test: Comparison | None
    history: tuple[Record, ...]
    steps: tuple[dict[str, Any], ...]
    lengths: tuple[int, int]
    used: dict[str, Spending]
    failed: int
    unfinished: str
    notes: tuple[str, ...]
    strategy: dict[str, Any]
    models: dict[str, Any]
    seed: int
    budget: str
    versions: dict[str, str]
    paid: dict[str, Spending] = field(compare=False)
    seconds: float = field(compare=False)
    prices: dict[str, Price | None] = field(default_factory=dict)
    seed_number: int | None = None
    run_dir: str = field(default="", compare=False)
    warnings: tuple[str, ...] = ()
    digest: str = field(default="", compare=False)
    request: dict[str, Any] = field(default_factory=dict)
    predictor: Predictor | None = None
    objectives: tuple[str, ...] = ()
    prefer: str = ""
    points: tuple[FrontPoint, ...] = ()
    layout: Layout | None = None
    date: str = field(default="", compare=False)

    @property
    def finished(self) -> bool:
        """Whether the run completed, with nearly all replies."""
        return not self.unfinished

    @property
    def kept(self) -> bool:
        """Whether the seed prompt was kept as the chosen prompt."""
        return self.prompt == self.seed_prompt

    @property
    def gain(self) -> Interval | None:
        """Paired test difference, chosen minus seed; exactly 0 if the seed prompt was kept."""
        if self.test is None:
            return None
        return SAME if self.kept else self.test.difference

    @property
    def improved(self) -> bool:
        """Whether the interval of the paired test difference is entirely above 0; of the prompt alone, not the predictor."""
        return self.gain is not None and self.gain.low > 0

    @property
    def front(self) -> tuple[Record, ...]:
        """The front: of the objectives, or in a run without, of length and training reward.

        Of objectives: the points that training and validation examples show, from the highest reward down, which the test
        measured. Else from the shortest candidate to the best, without a test: only candidates scored on the largest number of
        cells are compared. Training rewards of the best of many candidates are biased upwards: test a prompt before you use it.
        """
        if self.objectives:
            return tuple(self.history[point.number] for point in self.points)
        most = max((record.cells + record.failed for record in self.history), default=0)
        complete = [r for r in self.history if r.cells + r.failed == most and r.reward is not None]
        indices = pareto([record.reward or 0.0 for record in complete], [record.length for record in complete])
        return tuple(complete[i] for i in indices)

    def front_rows(self) -> list[tuple[str, ...]]:
        """Return the front of the objectives as rows under `FRONT_HEADS`; [] in a run without."""
        chosen = self.chosen_record
        return front_rows(self.points, self.test.front if self.test else (), None if chosen is None else chosen.number)

    @property
    def headline(self) -> str:
        """The outcome in one sentence."""
        return headline(self)

    @property
    def predictor_prompt(self) -> str:
        """The predictor's prompt in words, such as "candidate 12"."""
        if self.predictor is None or self.predictor.prompt == self.prompt:
            return CHOSEN_PROMPT
        if self.predictor.prompt == self.seed_prompt:
            return "the seed prompt"
        record = self._record(self.predictor.prompt)
        return f"candidate {record.number}" if record else "another prompt"

    @property
    def seed_record(self) -> Record | None:
        """The seed prompt as a candidate, None if the search did not score it."""
        if self.seed_number is None:  # results of earlier versions
            return self._record(self.seed_prompt)
        return self.history[self.seed_number]

    @property
    def chosen_record(self) -> Record | None:
        """The chosen prompt as a candidate, None if the search did not score it."""
        return self.seed_record if self.kept else self._record(self.prompt)

    @property
    def optimism(self) -> float | None:
        """How much the search overfitted: the chosen prompt's training gain minus its test gain.

        Gains over the seed prompt, because one set of examples may be easier than the other.
        """
        seed, chosen = self.seed_record, self.chosen_record
        if self.test is None or seed is None or chosen is None or seed.reward is None or chosen.reward is None:
            return None
        gain = SAME.estimate if self.kept else self.test.difference.estimate
        return None if math.isnan(gain) else chosen.reward - seed.reward - gain

    def _record(self, prompt: Prompt) -> Record | None:
        return next((record for record in self.history if record.prompt == prompt), None)

    def rows(self) -> list[tuple[str, str, str]]:
        """Return the table that compares seed and chosen prompt, as rows (name, seed, chosen)."""
        return [*search_rows(self), *test_rows(self), *answer_rows(self), *cost_rows(self)]

    def facts(self) -> list[tuple[str, str]]:
        """Return the effort of the run, as rows (name, value)."""
        used, paid = sum(self.used.values(), Spending()), sum(self.paid.values(), Spending())
        out = [
            ("candidates", f"{len(self.history):,} scored"),
            ("calls", f"{used.calls:,} ({paid.calls:,} made now, {used.calls - paid.calls:,} from the memo)"),
            ("tokens", f"{used.tokens:,}"),
        ]
        unknown = [role for role, price in self.prices.items() if price is None]
        if used.dollars or unknown:
            saved = max(used.dollars - paid.dollars, 0.0)
            parts = [f"{paid.dollars:.4f} spent, {saved:.4f} saved"] if used.dollars else []
            parts += [f"price unknown: {', '.join(unknown)}"] if unknown else []
            out.append(("dollars", "; ".join(parts)))
        out.append(("seconds", f"{self.seconds:.1f}"))
        if self.optimism is not None:
            out.insert(1, ("overfitting", f"{self.optimism:+.3f} (training gain minus test gain)"))
        if self.failed:
            out.append(("failed replies", str(self.failed)))
        if self.predictor is not None:
            of = "" if self.predictor.prompt == self.prompt else f"of {self.predictor_prompt}: "
            out.append(("label bias", of + self.predictor.bias_in_words))
        if self.run_dir:
            out.append(("run and report", self.run_dir))
        return out

    def spending(self) -> list[tuple[str, ...]]:
        """Return spending and savings by role, as rows under the headings `SPENDING`."""
        return [self._spent(role, used, self.paid.get(role, Spending())) for role, used in self.used.items()]

    def _spent(self, role: str, used: Spending, paid: Spending) -> tuple[str, ...]:
        saved = used - paid
        counts = (paid.calls, saved.calls, paid.input_tokens, paid.cached_tokens, paid.output_tokens)
        known = self.prices.get(role, _FREE) is not None
        dollars = [f"{max(part.dollars, 0.0):.4f}" if known else "unknown" for part in (paid, saved)]
        return (role, *(f"{max(count, 0):,}" for count in counts), *dollars)

    def __str__(self) -> str:
        lines = [self.headline, ""]
        lines += [f"{'':22}{'seed':>18}{'chosen':>18}"]
        lines += [f"{name:22}{seed:>18}{chosen:>18}" for name, seed, chosen in self.rows()]
        lines += _aligned((FRONT_HEADS, *self.front_rows())) if self.points else []
        lines += ["", *(f"{name:22}{value}" for name, value in self.facts())]
        lines += _aligned((SPENDING, *self.spending()))
        lines += ["", *(f"note: {note}" for note in self.notes), "chosen prompt:", str(self.prompt)]
        if self.predictor is not None and self.predictor.prompt != self.prompt:
            lines += ["", "prompt with label bias:", str(self.predictor.prompt)]
        return printable("\n".join(lines))

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the headline, seed and chosen prompt side by side, notes, and the chosen prompt."""
        notes = "".join(notebook.paragraph(f"note: {note}") for note in self.notes)
        rows = notebook.table(("", "seed prompt", "chosen prompt"), self.rows())
        return f"<b>{notebook.paragraph(self.headline)}</b>{rows}{notes}{notebook.block(str(self.prompt))}"

    def to_json(self) -> dict[str, Any]:
        """Return JSON values for `from_json`. NaN and infinities become null; outcomes are left out."""
        out: dict[str, Any] = _plain(asdict(self) | {"format": _FORMAT})
        out["prompt"], out["seed_prompt"] = self.prompt.to_json(), self.seed_prompt.to_json()
        out["predictor"] = self.predictor and self.predictor.to_json()
        out["layout"] = self.layout and self.layout.to_json()
        for record, mine in zip(out["history"], self.history, strict=True):
            record["prompt"] = mine.prompt.to_json()
            if not record["objectives"]:
                del record["objectives"]  # as in results of earlier versions
        if out["test"] is not None:
            del out["test"]["outcomes"]
            for name in ("tokens", "read", "by_labels", "predictor", "front"):
                if not out["test"][name]:
                    del out["test"][name]  # as above
        for name in ("warnings", "digest", "request", "predictor", "objectives", "prefer", "points", "layout", "date"):
            if not out[name]:
                del out[name]  # as above
        return out

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Result:
        """Return the result that `to_json` wrote.

        Raises:
            InputError: the data has another format, or is not a complete result.
        """
        data_format = data.get("format") if isinstance(data, dict) else None
        if data_format != _FORMAT:
            raise InputError(
                f"cannot read this result: its format is {data_format!r}, not {_FORMAT}; use the promptopt version that wrote it"
            )
        tested = {"test": with_infinities(data["test"])} if "test" in data else {}
        try:
            return read_value(cls, {**_with_prompts(data), **tested})
        except ValueError as error:
            raise InputError(f"cannot read this result: it is malformed ({error}); run again to save it") from error

    def render(self, inputs: Mapping[str, str], component: str = "") -> Context:
        """Return what the model is sent for one input under the chosen prompt: exactly what the run's test sent.

        Args:
            inputs: field name -> text; fields that the task does not have are ignored. For a prompt of a program: all that the
                program asks with, the example's fields first.
            component: name of the prompt of a program.

        Returns:
            The turns of a chat; with the format "completion", a text.

        Raises:
            InputError: a field has no text, or there is no such prompt.
        """
        if isinstance(self.prompt, Prompts) and component:  # rendered as `ask(component, example)` does
            prompt = self.prompt[component]
            return layout_for(inputs, format=format_of(self)).render_inputs(prompt, inputs)
        return self.portable(component).render(inputs)

    def messages(self, inputs: Mapping[str, str], component: str = "") -> list[dict[str, Any]]:
        """Return the turns of a chat that the model is sent for one input, as `{"role": ..., "content": ...}`.

        Args: as of `render`.

        Raises:
            InputError: as `render`, or the task has the format "completion".
        """
        return as_dicts(self.render(inputs, component))

    def portable(self, component: str = "", *, candidate: int | str = "chosen") -> PortablePrompt:
        """Return a prompt of the run with all that its request needs, to be saved or exported.

        Args:
            component: name of the prompt of a program.
            candidate: number of a candidate; or "chosen", "seed", or "predictor" for the prompt with the label bias.

        Raises:
            InputError: there is no such prompt, or the result does not say how it was sent.
        """
        return portable_prompt(self, component, candidate)

    def to_frame(self) -> Any:
        """Return the candidates as a pandas DataFrame, one row each, in order of first appearance.

        Columns: `number`, `parent`, `step`, `length` (tokens), `fitness`, `reward`, `cells`, `failed`, `validation`, `validated`,
        `calls`, `dollars`, `role` ("seed", "chosen", "seed, chosen" or ""), a column `objective: NAME` for each objective beside
        the reward, and `prompt` (text). The same table is in `candidates.csv` in the run's folder.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return as_frame(candidate_rows(self))

    def save(self, path: Path | str) -> None:
        """Write the result as JSON, atomically."""
        write_json(self.to_json(), path)

    @classmethod
    def load(cls, path: Path | str) -> Result:
        """Read a saved result.

        Args:
            path: the file, or the run's folder with its `result.json`.

        Raises:
            InputError: the file cannot be read, or is not a result.
        """
        return read_json(
            path, FILE, cls.from_json, what="result", advice="give the folder of a finished run, or its result.json"
        )


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]


def _with_prompts(data: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON values of a result with the prompts of programs as such, which a reader of `Prompt` would refuse.

    Raises:
        ValueError: such a prompt is malformed.
    """

    def read(values: Any) -> Any:
        return Prompt.from_json(values) if is_program_prompts(values) else values

    if not is_program_prompts(data.get("seed_prompt")):
        return data
    history = data.get("history")
    if isinstance(history, list):
        history = [{**r, "prompt": read(r.get("prompt"))} if isinstance(r, dict) else r for r in history]
    return {**data, "history": history, "prompt": read(data.get("prompt")), "seed_prompt": read(data["seed_prompt"])}


def _plain(value: Any) -> Any:
    """Return JSON values: tuples become lists, numbers that are not finite become None."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
