"""The predictor: a prompt with a bias for each label, as a value that can be saved, loaded and used.

Knows nothing of how the biases were fitted.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from promptopt.errors import InputError, TransientModelError
from promptopt.models.base import LabelModel, LabelReader, Request
from promptopt.parsing.labels import named_label
from promptopt.prompt import Layout, Prompt  # noqa: TC001  read when a predictor is loaded
from promptopt.replies import Failure
from promptopt.results.saved import read_json, write_json
from promptopt.rewards import softmax
from promptopt.utils.json_values import read_value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from promptopt.models.base import Model
    from promptopt.replies import Reply, Response

FILE = "predictor.json"
"""Name of the predictor's file in the folder of a run."""

_FORMAT = 1
_SOURCE = '''\
import math

BIAS = {bias}


def predict(logprobs):
    """Return the label and the probability of each label, from log p(label | prompt and input) of each label."""
    moved = {{label: logprobs[label] + bias for label, bias in BIAS.items()}}
    top = max(moved.values())
    weights = {{label: math.exp(value - top) for label, value in moved.items()}}
    total = math.fsum(weights.values())
    return max(moved, key=moved.get), {{label: weight / total for label, weight in weights.items()}}
'''


class Prediction(NamedTuple):
    """The answer to one input.

    Args:
        label: the likeliest label.
        probabilities: label -> probability; they sum to 1.
    """

    label: str
    probabilities: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A prompt whose answer is the label with the highest log-probability plus bias.

    Args:
        prompt: the prompt.
        labels: all labels of the task.
        bias: of each label, in nats; they sum to 0. They hold for this prompt and this model only.
        layout: how the prompt and an input are rendered.
        max_tokens: maximum length of a reply, for models that give log-probabilities along with text.
        model: name of the model that the biases were fitted for.
        fitted: number of training examples that they were fitted on.
        validation: mean validation reward with the biases, on the examples that the prompt was chosen by.
    """

    prompt: Prompt
    labels: tuple[str, ...]
    bias: tuple[float, ...]
    layout: Layout
    max_tokens: int
    model: str
    fitted: int
    validation: float

    @property
    def bias_in_words(self) -> str:
        """The biases for readers, and what they were fitted on."""
        biases = ", ".join(f"{label} {bias:+.2f}" for label, bias in zip(self.labels, self.bias, strict=True))
        return f"{biases} (nats, fitted on {self.fitted} training items)"

    def predict(self, logprobs: Sequence[float]) -> Prediction:
        """Return the answer for log p(label | context) of each label, in the order of `labels`."""
        moved = [value + bias for value, bias in zip(logprobs, self.bias, strict=True)]
        shares = dict(zip(self.labels, softmax(moved), strict=True))
        return Prediction(self.labels[moved.index(max(moved))], shares)

    def answer(self, response: Response) -> str | None:
        """Return the label of a response: of its text if it has no log-probabilities, None if that names none."""
        logprobs = response.logprobs_of(self.labels)
        return named_label(response.text, self.labels) if logprobs is None else self.predict(logprobs).label

    def bind(self, model: Model) -> BoundPredictor:
        """Return the predictor with its model, to be called with inputs.

        Raises:
            InputError: the model is another one than the biases were fitted for, or gives no label log-probabilities.
        """
        name = model_name(model)
        if name != self.model:
            raise InputError(
                f"the label bias was fitted for the model {self.model!r}, not {name!r}, and does not carry over: bind "
                f"{self.model!r}, or run the search again with {name!r}"
            )
        if not isinstance(model, LabelModel | LabelReader):
            raise InputError(f"{model!r} gives no log-probabilities of labels: bind a model that does")
        return BoundPredictor(self, model)

    def source(self) -> str:
        """Return Python source that adds the biases without this package: `predict(logprobs) -> label, probabilities`."""
        return _SOURCE.format(bias=dict(zip(self.labels, self.bias, strict=True)))

    def to_json(self) -> dict[str, Any]:
        """Return JSON values for `from_json`."""
        return {"format": _FORMAT, **asdict(self), "layout": self.layout.to_json(), "prompt": self.prompt.to_json()}

    @classmethod
    def from_json(cls, data: Any) -> Predictor:
        """Return the predictor that `to_json` wrote.

        Raises:
            ValueError: a part is missing or has another type, or the data has another format.
        """
        data_format = data.get("format") if isinstance(data, dict) else None
        if data_format != _FORMAT:
            raise ValueError(f"its format is {data_format!r}, not {_FORMAT}")
        return read_value(cls, data)

    def save(self, path: Path | str) -> None:
        """Write the predictor as JSON, atomically."""
        write_json(self.to_json(), path)

    @classmethod
    def load(cls, path: Path | str) -> Predictor:
        """Read a saved predictor.

        Args:
            path: the file, or the run's folder with its `predictor.json`.

        Raises:
            InputError: the file cannot be read, or is not a predictor.
        """
        return read_json(
            path, FILE, cls.from_json, what="predictor", advice=f"give the {FILE} of a run that kept a predictor"
        )


@dataclass(frozen=True)
class BoundPredictor:
    """A predictor with its model. Its calls use no memo and no budget.

    Args:
        predictor: the prompt and its biases.
        model: gives label log-probabilities.
    """

    predictor: Predictor
    model: LabelModel | LabelReader

    def __call__(self, inputs: Mapping[str, str]) -> Prediction:
        """Return the answer to one input.

        Args:
            inputs: field name -> text, as in the task's examples.

        Raises:
            InputError: a field is missing, or the reply came without log-probabilities.
            TransientModelError, PermanentModelError: the model gave no reply.
        """
        return self.predict_all([inputs])[0]

    def predict_all(self, inputs: Sequence[Mapping[str, str]]) -> list[Prediction]:
        """Return the answers to several inputs, which the model gets together.

        Raises: as a call with one input.
        """
        contexts = [self._context(fields) for fields in inputs]
        replies = {arrival.number: arrival.reply for arrival in self._arrivals(contexts)}
        return [self._prediction(replies[number]) for number in range(len(contexts))]

    def _context(self, inputs: Mapping[str, str]) -> Any:
        return self.predictor.layout.render_inputs(self.predictor.prompt, inputs)

    def _arrivals(self, contexts: list[Any]) -> Any:
        if isinstance(self.model, LabelModel):
            return self.model.label_logprobs(contexts, self.predictor.labels)
        most, labels = self.predictor.max_tokens, self.predictor.labels
        return self.model.generate([Request(context=c, max_tokens=most, labels=labels) for c in contexts])

    def _prediction(self, reply: Reply) -> Prediction:
        if isinstance(reply, Failure):
            raise TransientModelError(f"the model gave no reply: {reply.reason}")
        logprobs = reply.logprobs_of(self.predictor.labels)
        if logprobs is None:
            raise InputError(f"the reply {reply.text[:60]!r} came without log-probabilities of the labels")
        return self.predictor.predict(logprobs)


def write_predictor(predictor: Predictor | None, folder: Path) -> None:
    """Save the predictor that a run kept in the run's folder; if it kept none, remove that of an overwritten run."""
    if predictor is None:
        (folder / FILE).unlink(missing_ok=True)
    else:
        predictor.save(folder / FILE)


def model_name(model: Model) -> str:
    """Return the name by which a predictor knows its model."""
    return str(model.fingerprint.get("model", model.fingerprint))
