"""The predictor: the fit of the label bias, when a run keeps it, what it claims, and its use elsewhere."""

from __future__ import annotations

import json
import runpy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pytest
import toys
from results import BETTER, a_result
from scipy.special import softmax

from promptopt import (
    Arrival,
    Example,
    Failure,
    FakeModel,
    InputError,
    LabelMargin,
    PermanentModelError,
    Price,
    Prompt,
    Response,
    Result,
    Run,
    Task,
    TransientModelError,
    estimate,
    optimize,
)
from promptopt.optimization import api
from promptopt.prompt import Layout
from promptopt.report.page import page
from promptopt.report.text import markdown
from promptopt.results.outcomes import PredictorTest
from promptopt.results.predictor import FILE, Predictor
from promptopt.statistics import Interval
from promptopt.statistics.label_bias import fit_label_bias, held_out_biases
from promptopt.sweep.single_run import RunOutcome, save_outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from promptopt import Request
    from promptopt.prompt import Context

TILT = 1.5  # nats by which the fakes prefer the first label


# ---------------------------------------------------------------- the fit


def sampled(bias: Sequence[float], count: int) -> tuple[Any, Any]:
    """Log-probabilities, and targets drawn after the negative of a bias is taken out of them."""
    rng = np.random.default_rng(0)
    logprobs = rng.normal(0, 2, (count, len(bias)))
    right = softmax(logprobs + np.array(bias), axis=1)
    return logprobs, np.array([rng.choice(len(bias), p=row) for row in right])


def test_the_bias_that_made_the_targets_is_found() -> None:
    bias = (0.8, -0.2, -0.6)
    assert fit_label_bias(*sampled(bias, 4000)) == pytest.approx(bias, abs=0.1)


def test_without_information_the_bias_is_the_log_odds_of_the_classes() -> None:
    targets = np.repeat([0, 1], [30_000, 10_000])
    low, high = fit_label_bias(np.zeros((40_000, 2)), targets)[::-1]
    assert (high, low) == pytest.approx((np.log(3) / 2, -np.log(3) / 2), abs=1e-3)


def test_few_examples_give_little_bias_and_none_gives_none() -> None:
    logprobs, targets = sampled((0.0, 0.0), 200)
    assert fit_label_bias(logprobs[:0], targets[:0]).tolist() == [0.0, 0.0]
    tilted = logprobs + np.array([6.0, 0.0])
    spread = [np.ptp(fit_label_bias(tilted[:n], targets[:n])) for n in (1, 4, 16, 200)]
    assert spread == sorted(spread)
    assert spread[-1] > 5 * spread[0] / 2


def test_the_fit_ends_where_the_slope_is_zero_even_for_a_model_that_is_sure_and_wrong() -> None:
    logprobs, targets = np.tile([0.0, -80.0, -90.0], (300, 1)), np.arange(300) % 3
    bias = fit_label_bias(logprobs, targets)
    assert bias.sum() == pytest.approx(0, abs=1e-9)
    slopes = [_loss(bias + step, logprobs, targets) - _loss(bias, logprobs, targets) for step in 0.01 * np.eye(3)]
    assert min(slopes) > -1e-3


def _loss(bias: Any, logprobs: Any, targets: Any) -> float:
    from promptopt.statistics import label_bias

    p = softmax(logprobs + bias, axis=1)[np.arange(len(targets)), targets]
    return float(-np.log(np.maximum(p, 1e-300)).sum() + (bias**2).sum() / (2 * label_bias._PRIOR_SD**2))


def test_a_held_out_bias_knows_nothing_of_its_own_example() -> None:
    logprobs, targets = sampled((0.5, -0.5), 20)
    other = targets.copy()
    other[3] = 1 - other[3]
    before, after = held_out_biases(logprobs, targets), held_out_biases(logprobs, other)
    assert before[3].tolist() == after[3].tolist()
    assert before[4].tolist() != after[4].tolist()


# ---------------------------------------------------------------- when a run keeps it


@dataclass(frozen=True)
class Fixed:
    """A strategy that scores the prompts that it is given."""

    writes: ClassVar[bool] = False

    texts: tuple[str, ...] = ("Say it: {text}", "Do say: {text}")

    def search(self, run: Run) -> None:
        run.score([run.task.seed_prompt, *map(Prompt, self.texts)])


@dataclass
class Counting:
    """A fake that writes down the contexts it was asked about."""

    tilt: float
    asked: list[Any] = field(default_factory=list)
    unit: ClassVar[Literal["reply"]] = "reply"
    price: ClassVar[Price] = Price(0.0, 0.0)

    @property
    def fingerprint(self) -> dict[str, Any]:
        return {"provider": "counting", "model": f"tilted by {self.tilt}"}

    def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
        for number, request in enumerate(requests):
            yield Arrival(number, Response(toys.answer(request)))

    def label_logprobs(self, contexts: Iterable[Context], labels: Sequence[str]) -> Iterator[Arrival]:
        for number, context in enumerate(contexts):
            self.asked.append(context)
            yield Arrival(number, Response("", tuple(tilted(context, labels, self.tilt))))


def tilted(context: Context, labels: Sequence[str], tilt: float) -> list[float]:
    """A nat for the right label, and the tilt for the first label."""
    right = toys.right_answer(toys.text_of(context))
    return [-3.0 + (label == right) + tilt * (label == toys.LABELS[0]) for label in labels]


def items(numbers: range) -> tuple[Example, ...]:
    return tuple(Example({"text": f"item{i}"}, toys.LABELS[i % 2], f"{i}") for i in numbers)


TASK = Task(
    train=items(range(24)),
    validation=items(range(24, 48)),
    test=items(range(48, 72)),
    seed_prompt=Prompt("Answer: {text}"),
    labels=toys.LABELS,
)


def search(memo: Path, model: Any, task: Task = TASK, **more: Any) -> Result:
    return optimize(task, model, Fixed(), memo=memo, **{"budget": "1000 calls", "tracking": False, **more})


def test_a_bias_that_validation_shows_is_kept_and_makes_the_kept_seed_prompt_better(tmp_path: Path) -> None:
    result = search(tmp_path, Counting(TILT))
    assert result.kept
    assert not result.improved
    assert result.predictor is not None
    assert result.predictor.prompt == result.prompt
    assert result.predictor.fitted == 24
    assert result.predictor.validation == 1.0
    yes, no = result.predictor.bias
    assert yes == pytest.approx(-no)
    assert -1.5 < yes < -0.5
    assert result.test is not None
    assert result.test.predictor is not None
    assert result.test.chosen.estimate == 0.5
    assert result.test.predictor.reward.estimate == 1.0
    assert result.test.predictor.over_seed == result.test.predictor.over_prompt
    assert result.headline == (
        "Prompt alone: No improvement found: your prompt was kept. Its test reward is 0.500, 95 % interval 0.314 to 0.686. "
        "With label bias: better than the seed prompt: 0.500 -> 1.000 (+0.500, 95 % interval +0.242 to +0.681). "
        "Each answer was chosen among the labels by log-probability, not read from what the model writes."
    )


def test_fitting_it_asks_for_nothing_and_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = Counting(TILT), Counting(TILT)
    with_it = search(tmp_path / "a", models[0], seed=3)
    monkeypatch.setattr(api, "fit_predictor", lambda *_: None)
    without = search(tmp_path / "b", models[1], seed=3)
    assert with_it.predictor is not None
    assert models[0].asked == models[1].asked
    assert with_it.used == without.used
    assert with_it.paid == without.paid
    assert with_it.test is not None
    rest = replace(with_it, predictor=None, test=replace(with_it.test, predictor=None))
    assert rest == without
    assert rest.to_json() | {"date": "", "seconds": 0} == without.to_json() | {
        "date": "",
        "seconds": 0,
    }  # nothing else in the file either


def test_a_replay_keeps_the_same_one_and_a_dry_run_expects_the_same_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = estimate(TASK, Counting(TILT), Fixed(), memo=tmp_path / "empty", budget="1000 calls")
    first = search(tmp_path, Counting(TILT))
    model = Counting(TILT)
    assert search(tmp_path, model) == first
    assert model.asked == []
    monkeypatch.setattr(api, "fit_predictor", lambda *_: None)
    assert estimate(TASK, Counting(TILT), Fixed(), memo=tmp_path / "empty", budget="1000 calls") == expected


def test_a_run_that_was_cut_off_keeps_the_same_one_when_it_goes_on(tmp_path: Path) -> None:
    class Dying(Counting):
        def label_logprobs(self, contexts: Iterable[Context], labels: Sequence[str]) -> Iterator[Arrival]:
            for arrival in super().label_logprobs(contexts, labels):
                if len(self.asked) > 100:
                    raise PermanentModelError("quota spent")
                yield arrival

    begun = search(tmp_path / "a", Dying(TILT))
    assert not begun.finished
    assert search(tmp_path / "a", Counting(TILT)) == search(tmp_path / "b", Counting(TILT))


@pytest.mark.parametrize(
    "task",
    [
        pytest.param(replace(TASK, reward=LabelMargin(toys.LABELS)), id="another reward"),
        pytest.param(replace(TASK, read="text"), id="read as text"),
        pytest.param(replace(TASK, logprobs=False), id="no log-probabilities"),
        pytest.param(replace(TASK, validation=()), id="no validation"),
    ],
)
def test_without_label_accuracy_by_log_probabilities_or_validation_there_is_none(tmp_path: Path, task: Task) -> None:
    assert search(tmp_path, Counting(TILT), task).predictor is None


def test_a_bias_that_changes_no_answer_leaves_the_result_as_it_was(tmp_path: Path) -> None:
    result = search(tmp_path, Counting(0.0))
    assert result.predictor is None
    assert "predictor" not in json.dumps(result.to_json())
    assert "bias" not in f"{result}{markdown(result)}"


def test_a_bias_that_loses_as_much_on_validation_as_it_gains_in_training_is_not_kept(tmp_path: Path) -> None:
    turned = {"yes": "no", "no": "yes"}
    other = tuple(replace(e, target=turned[str(e.target)]) for e in TASK.validation)  # as many items as in training
    assert search(tmp_path, Counting(TILT), replace(TASK, validation=other)).predictor is None


def test_a_bias_that_training_items_held_out_show_is_kept_where_validation_does_not_contradict_it(
    tmp_path: Path,
) -> None:
    only_yes = tuple(e for e in TASK.validation if e.target == "yes")
    found = search(tmp_path, Counting(TILT), replace(TASK, validation=only_yes)).predictor
    assert found is not None
    assert found.validation == 1.0


class Sorted(Counting):
    """A fake that is tilted and right under one prompt, and right on every third item under another."""

    def label_logprobs(self, contexts: Iterable[Context], labels: Sequence[str]) -> Iterator[Arrival]:
        for number, context in enumerate(contexts):
            self.asked.append(context)
            text = toys.text_of(context)
            right, item = toys.right_answer(text), int(text.split("item")[1])
            if "Do say" in text:
                yield Arrival(
                    number,
                    Response("", tuple(-3.0 + (label == right) + self.tilt * (label == "yes") for label in labels)),
                )
            else:
                seen = item % 8 in ((0, 1, 2, 3, 4, 6) if "Say it" in text else (0, 2, 4, 6))
                yield Arrival(number, Response("", tuple(-3.0 + 2 * ((label == right) == seen) for label in labels)))


def test_another_prompt_that_was_raced_is_kept_if_it_is_better_with_its_bias(tmp_path: Path) -> None:
    result = search(tmp_path, Sorted(TILT))
    assert str(result.prompt) == "Say it: {text}"
    assert result.predictor is not None
    assert str(result.predictor.prompt) == "Do say: {text}"
    assert result.test is not None
    assert result.test.predictor is not None
    assert result.test.chosen.estimate == 0.75
    assert result.test.predictor.reward.estimate == 1.0
    assert result.test.predictor.over_seed.estimate == 0.5
    assert result.test.predictor.over_prompt.estimate == 0.25
    assert {outcome.chosen.reward for outcome in result.test.outcomes[1::8]} == {1.0}  # of the chosen prompt
    assert "Candidate 2 with label bias: better than the seed prompt: 0.500 -> 1.000" in result.headline
    assert str(result).endswith("prompt with label bias:\nDo say: {text}")
    assert "of candidate 2: yes" in str(result)
    report = markdown(result)
    assert "Candidate 2 with a bias for each label: yes" in report
    assert report.index("## Predictor") < report.index("    Do say: {text}") < report.index("BIAS = ")


def test_its_prompt_is_tested_on_as_many_items_as_the_budget_covers_for_three(tmp_path: Path) -> None:
    result = search(tmp_path / "a", Sorted(TILT), budget="200 calls")
    assert result.predictor is not None
    assert result.test is not None
    assert result.used["task"].calls <= 200
    assert 0 < result.test.examples < 24
    assert search(tmp_path / "a", Sorted(TILT), budget="200 calls") == result


class Reader(FakeModel):
    """A fake that writes a reply and gives log-probabilities along with it, but for some items."""

    reads_labels = True

    def __init__(self, silent: str = "never") -> None:
        super().__init__(lambda request: self.reply(request), "reader")  # noqa: PLW0108  bound later
        self.silent = silent

    def reply(self, request: Request) -> Response:
        logprobs = tuple(tilted(request.context, toys.LABELS, TILT))
        text = toys.LABELS[int(np.argmax(logprobs))]
        known = request.labels and self.silent not in toys.text_of(request.context)
        return Response(text, logprobs if known else None)


def test_log_probabilities_that_come_with_text_are_enough(tmp_path: Path) -> None:
    result = search(tmp_path, Reader())
    assert result.predictor is not None
    assert result.predictor.bind(Reader())({"text": "item3"}).label == "no"
    assert search(tmp_path, Reader("item7")).predictor is None


# ---------------------------------------------------------------- its use


PREDICTOR = Predictor(
    prompt=Prompt("Answer: {text}"),
    labels=("yes", "no"),
    bias=(-0.75, 0.75),
    layout=Layout(("text",), "{text}"),
    max_tokens=8,
    model="tilted by 1.5",
    fitted=24,
    validation=1.0,
)


def test_it_answers_inputs_with_a_label_and_probabilities() -> None:
    predictor = PREDICTOR.bind(Counting(TILT))
    answers = predictor.predict_all([{"text": f"item{i}"} for i in range(4)])
    assert [answer.label for answer in answers] == ["yes", "no", "yes", "no"]
    assert predictor({"text": "item1"}) == answers[1]
    assert answers[1].probabilities == pytest.approx({"yes": 0.269, "no": 0.731}, abs=1e-3)


def test_another_model_a_missing_field_or_a_failed_reply_is_said() -> None:
    with pytest.raises(InputError, match=r"fitted for the model 'tilted by 1\.5', not 'tilted by 2'"):
        PREDICTOR.bind(Counting(2))
    with pytest.raises(InputError, match="no log-probabilities of labels"):
        replace(PREDICTOR, model="m").bind(FakeModel(toys.answer, "m"))
    with pytest.raises(InputError, match=r"no field 'text', only \['review'\]"):
        PREDICTOR.bind(Counting(TILT))({"review": "item1"})

    class Failing(Counting):
        def label_logprobs(self, *_: Any) -> Iterator[Arrival]:
            yield Arrival(0, Failure("timed out"))

    with pytest.raises(TransientModelError, match="timed out"):
        PREDICTOR.bind(Failing(TILT))({"text": "item1"})
    with pytest.raises(InputError, match="came without log-probabilities"):
        replace(PREDICTOR, model="reader").bind(Reader("item1"))({"text": "item1"})


def test_the_source_answers_alike_without_the_package(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text(PREDICTOR.source(), encoding="utf-8")
    assert "promptopt" not in PREDICTOR.source()
    predict = runpy.run_path(str(tmp_path / "plain.py"))["predict"]
    for logprobs in ((-0.1, -2.0), (-2.0, -2.0), (-800.0, -900.0)):
        label, shares = predict(dict(zip(PREDICTOR.labels, logprobs, strict=True)))
        assert (label, shares) == PREDICTOR.predict(logprobs)


def test_it_is_saved_in_the_runs_folder_and_loaded_as_it_was(tmp_path: Path) -> None:
    result = search(tmp_path / "memo", Counting(TILT), run_dir=tmp_path / "run")
    assert Predictor.load(tmp_path / "run") == result.predictor
    assert Result.load(tmp_path / "run") == result
    save_outcome(RunOutcome(result=result), tmp_path / "run of a sweep")
    assert Predictor.load(tmp_path / "run of a sweep") == result.predictor
    search(tmp_path / "memo", Counting(0.0), run_dir=tmp_path / "run", overwrite=True)
    assert not (tmp_path / "run" / FILE).exists()
    with pytest.raises(InputError, match=r"give the predictor\.json of a run that kept a predictor"):
        Predictor.load(tmp_path / "run")
    (tmp_path / FILE).write_text('{"format": 2}', encoding="utf-8")
    with pytest.raises(InputError, match="not a saved predictor: its format is 2, not 1"):
        Predictor.load(tmp_path / FILE)


# ---------------------------------------------------------------- what it claims

TESTED = PredictorTest(
    reward=Interval(0.8, 0.7, 0.9), over_seed=Interval(0.3, 0.1, 0.5), over_prompt=Interval(0.05, -0.1, 0.2)
)


def test_both_claims_are_made_and_the_prompts_numbers_stay_its_own() -> None:
    plain = a_result()
    result = a_result(predictor=replace(PREDICTOR, prompt=plain.prompt), test=replace(BETTER, predictor=TESTED))
    assert result.improved == plain.improved
    assert result.headline == (
        f"Prompt alone: {plain.headline} With label bias: better than the seed prompt: 0.500 -> 0.800 (+0.300, 95 % interval "
        "+0.100 to +0.500; against the prompt alone +0.050, -0.100 to +0.200)."
    )
    assert [row for row in result.rows() if row not in plain.rows()] == [
        ("validation, with bias", "", "1.000"),
        ("with label bias", "", "0.800"),
        ("95 % interval", "", "0.700 to 0.900"),
        ("gain over seed prompt", "", "+0.300"),
        ("its 95 % interval", "", "+0.100 to +0.500"),
        ("gain over prompt alone", "", "+0.050"),
        ("its 95 % interval", "", "-0.100 to +0.200"),
    ]
    for text in (str(result), markdown(result)):
        assert "yes -0.75, no +0.75 (nats, fitted on 24 training items)" in text
        assert "With label bias: better" in text
    assert "BIAS = {'yes': -0.75, 'no': 0.75}" in markdown(result)
    assert "BIAS = {&#39;yes&#39;: -0.75, &#39;no&#39;: 0.75}" in page(result, ())
    assert Result.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_a_bias_that_shows_nothing_on_test_data_or_was_not_tested_claims_nothing() -> None:
    unsure = replace(TESTED, over_seed=Interval(0.3, -0.1, 0.5))
    predictor = replace(PREDICTOR, prompt=a_result().prompt)
    headline = a_result(predictor=predictor, test=replace(BETTER, predictor=unsure)).headline
    assert "With label bias: no improvement shown on test data (+0.300, 95 % interval -0.100 to +0.500;" in headline
    assert a_result(predictor=predictor, test=None).headline.endswith("The predictor was not tested either.")
