"""CLIP templates: the log-probabilities are transformers' own, and the example finds a better template."""

from __future__ import annotations

import importlib.util
import re
import sys
import tomllib
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from transformers import AutoTokenizer, CLIPModel

from promptopt import (
    FakeLabelModel,
    FakeModel,
    InputError,
    Memo,
    MissingExtraError,
    Prompt,
    estimate,
    load_model,
    optimize,
)
from promptopt.data.task_file import load_task
from promptopt.data.task_spec import parse_spec
from promptopt.evaluation.caller import Caller
from promptopt.evaluation.ledger import Ledger
from promptopt.evaluation.scorer import Scorer
from promptopt.images import Image, content, parse_reference, parts, pixels, reference
from promptopt.models.base import CaptionModel, Request
from promptopt.models.local.clip import ClipModel, _Preprocessing
from promptopt.prompt import Message
from promptopt.replies import Failure, Response

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from promptopt import Task

LABELS = ("circle", "square", "triangle")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """The matrices are so small that more threads only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def example() -> Any:
    """The example's module."""
    path = ROOT / "examples" / "clip_templates" / "clip_templates.py"
    spec = importlib.util.spec_from_file_location("clip_templates", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["clip_templates"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(example: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's trained model and its drawn task."""
    folder = tmp_path_factory.mktemp("clip")
    example.train_clip(folder / "clip", steps=120)
    example.write_task(folder)
    return folder


@pytest.fixture(scope="module")
def task(folder: Path) -> Task:
    return load_task(folder / "task.toml")


def asked(task: Task, template: str, count: int) -> list[tuple[Message, ...]]:
    return [(Message("system", template), Message("user", item.inputs["image"])) for item in task.test[:count]]


def logprobs(model: ClipModel, contexts: Any, labels: Any = LABELS) -> np.ndarray[Any, np.dtype[np.float64]]:
    replies = dict(model.label_logprobs(contexts, labels))
    came = [reply for _, reply in sorted(replies.items()) if isinstance(reply, Response)]
    assert len(came) == len(contexts)
    return np.array([reply.label_logprobs for reply in came])


def test_log_probabilities_are_those_of_transformers_own_forward_pass(folder: Path, task: Task) -> None:
    template = "a small photo of a {label}"
    network = CLIPModel.from_pretrained(folder / "clip")
    captions = [template.replace("{label}", label) for label in LABELS]
    given = AutoTokenizer.from_pretrained(folder / "clip")(captions, padding=True, return_tensors="pt")
    pictures = np.stack([pixels(parse_reference(item.inputs["image"])) for item in task.test[:20]])
    values = (torch.tensor(pictures).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    with torch.inference_mode():
        expected = network(pixel_values=values, **given).logits_per_image.log_softmax(dim=1).numpy()

    found = logprobs(ClipModel(str(folder / "clip")), asked(task, template, 20))

    assert np.abs(found - expected).max() < 1e-5
    assert np.ptp(expected, axis=0).min() > 1  # pictures differ


def test_templates_of_one_call_do_not_change_one_another_by_a_bit(folder: Path, task: Task) -> None:
    one, other = asked(task, "one {label} on paper", 9), asked(task, "not a {label}", 9)
    mixed = [context for pair in zip(one, other, strict=True) for context in pair]

    together = logprobs(ClipModel(str(folder / "clip")), mixed)

    assert (together[::2] == logprobs(ClipModel(str(folder / "clip")), one)).all()
    assert not (together[::2] == together[1::2]).any()


def test_an_image_is_computed_once_and_a_caption_once_for_each_template(folder: Path, task: Task) -> None:
    model = ClipModel(str(folder / "clip"))
    passes = Counter[str]()
    for name in ("vision_model", "text_model"):
        part = getattr(model._network, name)
        part.register_forward_hook(lambda *_, name=name: passes.update([name]))

    for template in ("a {label}", "one {label}", "a {label}"):
        logprobs(model, asked(task, template, 7))

    assert passes == {"vision_model": 7, "text_model": 2}


def test_a_caption_too_long_for_the_model_is_a_failure_with_its_reason(folder: Path, task: Task) -> None:
    replies = [
        reply
        for _, reply in ClipModel(str(folder / "clip")).label_logprobs(asked(task, "a " * 30 + "{label}", 2), LABELS)
    ]

    assert all(isinstance(reply, Failure) and "33 tokens are more than the 24" in reply.reason for reply in replies)


def test_the_search_finds_a_template_that_is_better_on_pictures_it_has_not_seen(
    example: Any, folder: Path, task: Task
) -> None:
    settings = {"prompts": str(ROOT / "examples" / "clip_templates" / "templates.txt"), "restarts": 2, "iterations": 2}
    model, writer = f"local-clip:{folder / 'clip'}", FakeModel(example.writer, "one word at a time")

    def found() -> Any:
        return optimize(task, model, "hillclimb", writer=writer, settings=settings)

    result, again = found(), found()

    assert result.improved
    assert result.test is not None
    assert "{label}" in result.prompt.text
    assert again.prompt == result.prompt
    assert not sum(spent.calls for spent in again.paid.values())


def test_an_estimate_loads_no_weights(example: Any, folder: Path, task: Task) -> None:
    model = ClipModel(str(folder / "clip"))

    said = estimate(task, model, "random", writer=FakeModel(example.writer), settings={"prompts": 4})

    assert said.asked.calls > 4 * len(task.train)
    assert "_network" not in vars(model)


def test_the_fingerprint_changes_with_the_weights(folder: Path, tmp_path: Path) -> None:
    for file in (folder / "clip").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    first = ClipModel(str(folder / "clip")).fingerprint["digest"]
    assert ClipModel(str(tmp_path)).fingerprint["digest"] == first

    weights = bytearray((tmp_path / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(weights)

    assert ClipModel(str(tmp_path)).fingerprint["digest"] != first


def test_caption_tasks_and_clip_models_are_for_one_another(folder: Path, task: Task, tmp_path: Path) -> None:
    clip, text = load_model(f"local-clip:{folder / 'clip'}"), FakeLabelModel(lambda *_: [0.0] * 3)
    assert isinstance(clip, CaptionModel)
    other = replace(task, format="chat", seed_prompt=Prompt("Name the shape."), template="{image}")
    with Memo(tmp_path / "memo") as memo:
        for tried, model in ((task, text), (other, clip)):
            with pytest.raises(InputError, match="format = 'caption' and models that compare images"):
                Scorer(tried, model, Caller(memo, Ledger())).score([tried.seed_prompt], tried.train[:1])


def test_clip_says_that_it_writes_no_text(folder: Path) -> None:
    model = ClipModel(str(folder / "clip"))
    with pytest.raises(InputError, match="generates no text: add a writer"):
        model.generate([Request(context="Hello", max_tokens=1)])
    with pytest.raises(InputError, match="set the task's format to 'caption'"):
        list(model.label_logprobs(["Hello"], LABELS))


def test_another_kind_of_model_is_no_clip(tiny_llama: Path, task: Task) -> None:
    with pytest.raises(InputError, match="is a llama model, not a CLIP model"):
        list(ClipModel(str(tiny_llama)).label_logprobs(asked(task, "a {label}", 1), LABELS))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"labels": ()}, "give labels"),
        ({"seed_prompt": Prompt("a photo")}, "it needs the slot {label}"),
        ({"seed_prompt": Prompt("a photo of a {lable}")}, "did you mean 'label'"),
    ],
)
def test_a_task_that_is_no_caption_task_is_refused(task: Task, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        replace(task, **changes)


def test_a_task_file_without_a_prompt_begins_with_a_photo(folder: Path) -> None:
    task = load_task(folder / "task.toml", {"seed_prompt": None})

    assert task.seed_prompt == Prompt("a photo of a {label}")
    assert parse_reference(task.train[0].inputs["image"]).path == folder / "images" / "train0.npy"


def test_captions_need_an_image(folder: Path) -> None:
    with pytest.raises(InputError, match="captions need a field 'image'"):
        load_task(folder / "task.toml", {"data.inputs": {"text": "image"}})


def test_a_reference_says_which_image_is_meant(tmp_path: Path) -> None:
    file = tmp_path / "two words.npy"
    np.save(file, np.zeros((2, 3, 3), np.uint8))
    text = reference(file)

    assert not any(map(str.isspace, text))
    assert parse_reference(text).path == file
    assert pixels(parse_reference(text)).shape == (2, 3, 3)
    assert list(parts(f"see {text} there")) == ["see ", parse_reference(text), " there"]

    np.save(file, np.ones((2, 3, 3), np.uint8))
    with pytest.raises(InputError, match="has changed since it was read"):
        content(parse_reference(text))
    with pytest.raises(InputError, match="check the path"):
        reference(tmp_path / "none.npy")
    with pytest.raises(InputError, match="is not a reference to an image file"):
        parse_reference("cat.png")


@pytest.mark.parametrize("array", [np.zeros((2, 3)), np.zeros((2, 3, 4), np.uint8), np.zeros((0, 3, 3), np.uint8)])
def test_an_array_that_is_no_image_is_refused(tmp_path: Path, array: Any) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InputError, match="an image must be uint8"):
        pixels(parse_reference(reference(tmp_path / "a.npy")))


def test_a_file_that_is_no_array_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"text")
    with pytest.raises(InputError, match=r"write it with numpy\.save"):
        pixels(parse_reference(reference(tmp_path / "a.npy")))


def test_other_images_are_read_by_pillow(tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image")
    drawn = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
    pillow.fromarray(drawn).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"text")

    assert (pixels(parse_reference(reference(tmp_path / "a.png"))) == drawn).all()
    with pytest.raises(InputError, match="not an image that Pillow can read"):
        pixels(parse_reference(reference(tmp_path / "b.png")))


def test_without_pillow_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"text")
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingExtraError, match=r"to read \.png images"):
        pixels(Image(tmp_path / "a.png", parse_reference(reference(tmp_path / "a.png")).digest))


def test_a_large_image_is_brought_to_size_and_its_middle_cut_out() -> None:
    picture = np.zeros((64, 128, 3), np.uint8)
    picture[:, 32:96] = 255  # the middle square

    values = _Preprocessing(32, 32, (0.5,) * 3, (0.5,) * 3).apply(picture)

    assert values.shape == (3, 32, 32)
    assert values[:, :, 2:-2].min() == 1


def test_images_are_prepared_as_pillow_does_to_one_level_of_255() -> None:
    pillow = pytest.importorskip("PIL.Image")
    y, x = np.mgrid[:150, :200]
    drawn = np.stack([127 + 120 * np.sin(x / 17 + y / 31), 127 + 120 * np.cos(x / 5), x * y % 256], 2).astype(np.uint8)
    expected = np.asarray(pillow.fromarray(drawn).resize((74, 56), pillow.Resampling.BICUBIC))[:, 9:65]

    values = _Preprocessing(56, 56, (0.0,) * 3, (1.0,) * 3).apply(drawn).permute(1, 2, 0).numpy() * 255

    assert np.abs(values - expected).max() < 1.01


def test_the_blocks_of_the_page_are_true() -> None:
    page = (ROOT / "docs" / "images.md").read_text(encoding="utf-8")
    toml, python = (re.findall(rf"```{kind}\n(.*?)```", page, flags=re.DOTALL) for kind in ("toml", "python"))

    assert parse_spec(tomllib.loads(toml[-1]), "docs/images.md").format == "caption"
    exec(compile(python[-1], "docs/images.md", "exec"), {})  # noqa: S102  our own page
