"""Chat tasks with images: what is sent, what is keyed, and what is refused before anything is sent."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from servers.loopback import Loopback
from servers.pictures import png
from shell import promptopt

from promptopt import (
    Demonstrations,
    Example,
    FakeModel,
    FunctionModel,
    InputError,
    Memo,
    Message,
    Prompt,
    Result,
    Task,
    optimize,
)
from promptopt.data.task_file import load_task
from promptopt.evaluation.caller import Caller, request_keys
from promptopt.evaluation.image_checks import check_images
from promptopt.evaluation.ledger import Ledger
from promptopt.evaluation.scorer import Scorer
from promptopt.images import Image, check_file, content, encoded_content, placeholder, reference, refuse_outside
from promptopt.models.base import Request
from promptopt.models.hosted.anthropic import AnthropicModel
from promptopt.models.hosted.batches.client import BatchPatience
from promptopt.models.hosted.batches.openai import OpenAIBatches
from promptopt.models.hosted.completions import CompletionsModel
from promptopt.models.hosted.openai import OpenAIModel
from promptopt.models.hosted.services import VERTEX
from promptopt.models.usage import IMAGE_TOKENS, reply_token_range
from promptopt.prompt import ImageMessage
from promptopt.results.export import FORMS, export
from promptopt.results.portable import PortablePrompt
from promptopt.search.tokens import tokenize, words
from promptopt.search.writing import messages
from promptopt.tracking.identity import digest_of, task_identity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.models.base import Model

PNG = png([(200, 0, 0)] * 36)
FILES = {
    "a.png": PNG,
    "b.jpg": b"\xff\xd8\xff\xe0 a photo",
    "c.gif": b"GIF89a a drawing",
    "d.webp": b"RIFF1234WEBPVP8 ",
}
TYPES = {"a.png": "image/png", "b.jpg": "image/jpeg", "c.gif": "image/gif", "d.webp": "image/webp"}
QUESTION = "What is the total?"
TASK = """
name = "receipts"
images = ["image"]
seed_prompt = "Answer with a number."
[data]
file = "data/receipts.jsonl"
inputs = ["image", "question"]
label = "total"
split_column = "split"
"""


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "none")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images in a folder."""
    here = tmp_path / "data" / "scans"
    here.mkdir(parents=True)
    for name, data in FILES.items():
        (here / name).write_bytes(data)
    return tmp_path / "data"


def example(folder: Path, name: str, target: str | None = "3", question: str = QUESTION) -> Example:
    return Example({"image": reference(f"scans/{name}", folder), "question": question}, target, name)


def a_task(folder: Path, **settings: Any) -> Task:
    train = (example(folder, "a.png"), example(folder, "b.jpg"))
    prompt = Prompt("Answer with a number.")
    return Task(**{"train": train, "seed_prompt": prompt, "images": ("image",), "image_folder": folder, **settings})


def data_url(name: str) -> dict[str, Any]:
    return {
        "type": "image_url",
        "image_url": {"url": f"data:{TYPES[name]};base64,{base64.b64encode(FILES[name]).decode()}"},
    }


def source(name: str) -> dict[str, Any]:
    data = base64.b64encode(FILES[name]).decode()
    return {"type": "image", "source": {"type": "base64", "media_type": TYPES[name], "data": data}}


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


def keys(task: Task, examples: Sequence[Example]) -> list[str]:
    contexts = [task.layout.render(task.seed_prompt, example) for example in examples]
    model = FunctionModel(lambda _: "3", name="m", version="1")
    return request_keys(model, [Request(context=context, max_tokens=9) for context in contexts])


def score(task: Task, model: Model, tmp_path: Path) -> None:
    with Memo(tmp_path / "memo") as memo:
        Scorer(task, model, Caller(memo, Ledger())).score([task.seed_prompt], task.train)


@pytest.mark.parametrize("name", FILES)
def test_openai_is_sent_a_data_url_before_the_text(folder: Path, tmp_path: Path, name: str) -> None:
    task = a_task(folder, train=(example(folder, name),), max_tokens=7)
    with Loopback() as server:
        score(task, OpenAIModel("m", base_url=f"{server.url}/v1"), tmp_path)
        body = server.requests[0].body

    assert body == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Answer with a number."},
            {"role": "user", "content": [data_url(name), text(QUESTION)]},
        ],
        "temperature": 0.0,
        "max_tokens": 7,
    }


def test_anthropic_is_sent_a_source_before_the_text(folder: Path, tmp_path: Path) -> None:
    task = a_task(folder, train=(example(folder, "b.jpg"),), max_tokens=7)
    with Loopback() as server:
        score(task, AnthropicModel("m", base_url=server.url), tmp_path)
        body = server.requests[0].body

    assert body == {
        "model": "m",
        "max_tokens": 7,
        "messages": [{"role": "user", "content": [source("b.jpg"), text(QUESTION)]}],
        "system": "Answer with a number.",
        "temperature": 0.0,
    }


def test_a_slot_says_where_an_image_goes_and_one_without_a_slot_goes_first(folder: Path) -> None:
    items = Example({"after": reference("scans/a.png", folder), "before": reference("scans/b.jpg", folder)}, "3", "x")
    task = a_task(folder, train=(items,), images=("before", "after"))
    prompt = Prompt("Compare with {after}: what changed?")

    turn = task.layout.render(prompt, items)[0]

    assert isinstance(turn, ImageMessage)
    assert [part if isinstance(part, str) else part.path.name for part in turn.parts] == [
        "b.jpg", "Compare with ", "a.png", ": what changed?",
    ]  # fmt: skip
    assert turn.content == "[image: scans/b.jpg]\nCompare with \n[image: scans/a.png]\n: what changed?"


def test_a_task_of_images_alone_sends_no_blank_text(folder: Path) -> None:
    only = Example({"image": reference("scans/a.png", folder)}, "3", "x")
    context = a_task(folder, train=(only,)).layout.render(Prompt("Describe it."), only)

    assert not isinstance(context, str)
    assert context[0] == Message("system", "Describe it.")
    assert isinstance(context[1], ImageMessage)
    assert [type(part) for part in context[1].parts] == [Image]


def test_demonstrations_are_sent_with_their_images(folder: Path, tmp_path: Path) -> None:
    shown = Prompt("Answer.", Demonstrations((example(folder, "c.gif", "7"),)))
    with Loopback() as server:
        score(a_task(folder, seed_prompt=shown), OpenAIModel("m", base_url=f"{server.url}/v1"), tmp_path)
        sent = {json.dumps(seen.body["messages"]) for seen in server.requests}

    before = [
        {"role": "system", "content": "Answer."},
        {"role": "user", "content": [data_url("c.gif"), text(QUESTION)]},
        {"role": "assistant", "content": "7"},
    ]
    asked = [{"role": "user", "content": [data_url(name), text(QUESTION)]} for name in ("a.png", "b.jpg")]
    assert sent == {json.dumps([*before, turn]) for turn in asked}


def test_a_batch_holds_the_same_body(folder: Path) -> None:
    model = OpenAIModel("m", base_url="http://127.0.0.1:9/v1")
    batches, task = OpenAIBatches(model, BatchPatience()), a_task(folder)
    request = Request(context=task.layout.render(task.seed_prompt, task.train[0]), max_tokens=9)

    assert batches.batch_entry("k", request)["body"] == model.body(request)
    check_images(task, batches)


def test_other_fields_and_prompts_are_never_read_as_files(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(PNG + b"secret")
    bait = reference(secret), reference("scans/a.png", folder), placeholder("scans/a.png"), "{image}"
    question = " ".join(bait)
    task = a_task(folder, train=(example(folder, "b.jpg", question=question),), seed_prompt=Prompt(f"See {bait[0]}"))
    with Loopback() as server:
        score(task, OpenAIModel("m", base_url=f"{server.url}/v1"), tmp_path)
        sent = server.requests[0].body["messages"]

    assert sent[0]["content"] == f"See {bait[0]}"
    assert sent[1]["content"] == [data_url("b.jpg"), text(question)]


def test_a_key_follows_the_contents_and_not_the_name_or_the_place(folder: Path, tmp_path: Path) -> None:
    first = keys(a_task(folder), a_task(folder).train)
    (folder / "scans" / "z.png").write_bytes(PNG)
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    renamed = example(moved, "z.png")

    assert keys(a_task(moved), [renamed, example(moved, "b.jpg")]) == first
    (moved / "scans" / "z.png").write_bytes(PNG + b"more")
    assert keys(a_task(moved), [example(moved, "z.png")]) != first[:1]


def test_the_key_of_a_request_with_an_image_stays(folder: Path) -> None:
    assert (
        keys(a_task(folder), a_task(folder).train)[0]
        == "d16dd4af2312eedf4093f126fb8598f0b4ba8fd13b5d41e7b964014088fd5663"
    )


def test_an_image_is_read_once_for_a_call(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Image] = []

    def encode(image: Image) -> tuple[str, str]:
        read.append(image)
        return encoded_content(image)

    monkeypatch.setattr("promptopt.prompt.encoded_content", encode)
    with Loopback() as server:
        score(a_task(folder), OpenAIModel("m", base_url=f"{server.url}/v1"), tmp_path)

    assert [image.path.name for image in read] == ["a.png", "b.jpg"]


def test_the_command_line_declares_images(folder: Path, tmp_path: Path) -> None:
    task = rows(folder)
    columns = ("--input", "image", "--input", "question", "--images", "image", "--label", "total")
    with Loopback(lambda _: "3") as server:
        model = ("--model", "openai:m", "--base-url", f"{server.url}/v1", "--prompt", "Answer.", "--split", "train")
        done = promptopt(tmp_path, "score", "--data", "data/receipts.jsonl", *columns, *model, "--budget", "9 calls")
        sent = [seen.body["messages"][-1]["content"] for seen in server.requests]

    assert done.returncode == 0, done.stderr
    assert all(content in [[data_url(name), text(QUESTION)] for name in FILES] for content in sent)
    refused = promptopt(tmp_path, "score", task, "--images", "image", *model)
    assert "give either a task file or --data with its columns" in refused.stderr


def test_a_file_that_changes_during_a_run_ends_it(folder: Path, tmp_path: Path) -> None:
    task = a_task(folder)
    (folder / "scans" / "a.png").write_bytes(PNG + b"more")
    with Loopback() as server:
        with pytest.raises(InputError, match=r"a\.png has changed since it was read"):
            score(task, OpenAIModel("m", base_url=f"{server.url}/v1"), tmp_path)
        assert server.requests == []


@pytest.mark.parametrize(
    "path", ["/etc/hostname", "../secret.png", "scans/../../secret.png", "C:\\a.png", "..\\a", "\\\\host\\a"]
)
def test_paths_that_leave_the_folder_are_refused(folder: Path, path: str) -> None:
    (folder.parent / "secret.png").write_bytes(PNG)
    tampered = f"{path}#sha256={'0' * 16}"

    with pytest.raises(InputError, match="outside the folder of the images"):
        reference(path, folder)
    with pytest.raises(InputError, match=r"train example 'x', field 'image': the image .* is outside"):
        a_task(folder, train=(Example({"image": tampered, "question": ""}, "3", "x"),))


def test_links_out_of_the_folder_are_refused_whenever_they_are_made(folder: Path) -> None:
    secret = folder.parent / "secret.png"
    secret.write_bytes(PNG)
    image = a_task(folder).layout.image("image", example(folder, "a.png"))
    (folder / "scans" / "a.png").unlink()
    (folder / "scans" / "a.png").symlink_to(secret)

    with pytest.raises(InputError, match="is a link to a file outside the folder"):
        reference("scans/a.png", folder)
    with pytest.raises(InputError, match="is a link to a file outside the folder"):
        content(image)


def test_a_blank_path_and_a_text_that_is_no_reference_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="path of the image is blank"):
        refuse_outside(" ")
    with pytest.raises(InputError, match=r"field 'image': 'scans/a.png' is not a reference"):
        a_task(folder, train=(Example({"image": "scans/a.png", "question": ""}, "3", "x"),))


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (CompletionsModel("m", base_url="http://127.0.0.1:9/v1"), "m"),
        (type("Own", (), {"fingerprint": {"model": "own"}, "unit": "reply", "price": None, "generate": None})(), "own"),
    ],
)
def test_models_that_take_no_images_refuse_the_task(folder: Path, tmp_path: Path, model: Any, name: str) -> None:
    with pytest.raises(
        InputError, match=rf"sends images \(image\), which the model '{name}' does not take: use a hosted"
    ):
        score(a_task(folder), model, tmp_path)


def test_files_that_a_provider_refuses_are_refused_before_anything_is_sent(folder: Path) -> None:
    cloud = AnthropicModel("m", base_url="http://127.0.0.1:9", service=VERTEX)
    (folder / "scans" / "a.png").write_bytes(PNG + bytes(4_000_000))
    large = a_task(folder, train=(example(folder, "a.png"),))
    (folder / "scans" / "b.jpg").write_bytes(b"<svg>")
    drawing = a_task(folder, train=(example(folder, "b.jpg"),))

    with pytest.raises(
        InputError, match=r"example 'a.png', field 'image': .*5\.3 MB in base64, and the model takes 5\.2"
    ):
        check_images(large, cloud)
    check_images(large, AnthropicModel("m", base_url="http://127.0.0.1:9"))
    with pytest.raises(InputError, match=r"example 'b.jpg', field 'image': .* is not a PNG, JPEG, GIF or WebP file"):
        check_images(drawing, FakeModel(lambda _: "3"))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"images": ("imagee",)}, "'imagee', which is no field of the examples, did you mean 'image'?"),
        ({"images": "image"}, "images must be several texts"),
        ({"format": "completion"}, "images are for chats of one call"),
        ({"prompt_role": "system", "seed_prompt": Prompt("See {image}.")}, "the slot {image} of an image"),
    ],
)
def test_declarations_that_cannot_work_are_refused(folder: Path, settings: Any, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        a_task(folder, **settings)
    assert reason in str(caught.value)


def rows(folder: Path, *images: str) -> Path:
    names = [*images] or [f"scans/{name}" for name in FILES]
    splits = ("train", "train", "validation", "test")
    lines = [
        {"image": name, "question": QUESTION, "total": "3", "split": split}
        for name, split in zip(names, splits, strict=False)
    ]
    (folder / "receipts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder.parent / "task.toml").write_text(TASK)
    return folder.parent / "task.toml"


def test_a_task_file_names_images_beside_its_data(folder: Path) -> None:
    task = load_task(rows(folder))

    assert task.images == ("image",)
    assert Path(task.image_folder) == folder.resolve()
    assert task.train[0].inputs["image"] == reference("scans/a.png", folder)
    assert not task.notes
    assert placeholder(task.train[0].inputs["image"]) == "[image: scans/a.png]"


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("scans/e.png", "cannot read the image"),
        ("scans", "cannot read the image"),
        ("../task.toml", "is outside the folder of the images"),
        ("receipts.jsonl", "is not a PNG, JPEG, GIF or WebP file"),
        (" ", "the path of the image is blank"),
    ],
)
def test_a_row_whose_image_cannot_be_sent_is_named_or_dropped(folder: Path, image: str, reason: str) -> None:
    file = rows(folder, "scans/a.png", image, "scans/c.gif", "scans/d.webp")

    with pytest.raises(InputError) as caught:
        load_task(file)
    assert "receipts.jsonl, line 2: 'image': " in str(caught.value)
    assert reason in str(caught.value)
    task = load_task(file, {"data.drop_unusable": True})
    assert len(task.train) == 1
    assert "1 of 4 rows were dropped" in task.notes[0]


def test_data_files_in_several_folders_have_images_beside_each(folder: Path) -> None:
    file = rows(folder)
    other = folder.parent / "held_out"
    other.mkdir()
    (other / "x.png").write_bytes(PNG)
    (other / "test.jsonl").write_text(json.dumps({"image": "x.png", "question": QUESTION, "total": "3"}) + "\n")
    files = 'train = "data/receipts.jsonl"\ntest = "held_out/test.jsonl"'
    file.write_text(TASK.replace('file = "data/receipts.jsonl"', files).replace('split_column = "split"\n', ""))

    task = load_task(file)

    assert [placeholder(each.inputs["image"]) for each in (task.train[0], task.test[0])] == [
        "[image: data/scans/a.png]", "[image: held_out/x.png]",
    ]  # fmt: skip
    check_images(task, FakeModel(lambda _: "3"))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('images = ["scan"]', "images names 'scan', which is no field of the inputs (image, question)"),
        ('images = ["image"]\nprogram = "m:f"\nprompts = { a = "b" }', "both images and a program"),
    ],
)
def test_a_task_file_that_declares_other_images_is_refused(folder: Path, line: str, reason: str) -> None:
    file = rows(folder)
    file.write_text(TASK.replace('images = ["image"]', line).replace('seed_prompt = "Answer with a number."', ""))
    with pytest.raises(InputError) as caught:
        load_task(file)
    assert reason in str(caught.value)


def test_data_of_a_hub_has_no_files(folder: Path) -> None:
    task = TASK.replace("data/receipts.jsonl", "hf://a/b")
    (folder.parent / "task.toml").write_text(task)
    with pytest.raises(InputError, match="hf://a/b holds no image files"):
        load_task(folder.parent / "task.toml")


def test_the_writer_sees_a_placeholder(folder: Path) -> None:
    task = a_task(folder)
    losses = [messages.ExampleResult(task.train[0], "4")]
    sent = messages.improve(task, [messages.ScoredPrompt(task.seed_prompt, 0.5)], [], 1, losses=losses)

    shown = "\n".join(turn.content for turn in sent if not isinstance(turn, str))
    assert "image: [image: scans/a.png]\n" in shown
    assert "sha256" not in shown


def test_an_image_counts_by_its_upper_bound_until_a_reply_counts_it(folder: Path) -> None:
    task = a_task(folder)
    context = task.layout.render(task.seed_prompt, task.train[0])
    shown = [Message(turn.role, turn.content) for turn in context if not isinstance(turn, str)]
    with_image = reply_token_range(Request(context=context, max_tokens=9))
    as_text = reply_token_range(Request(context=tuple(shown), max_tokens=9))

    assert with_image.max_input == as_text.max_input + IMAGE_TOKENS
    assert with_image.min_input == as_text.min_input


def searched(task: Task, tmp_path: Path) -> Result:
    return optimize(
        task,
        FakeModel(lambda request: str(request.images)),
        "random",
        writer=FakeModel(lambda _: "<prompt>Look closely.</prompt>"),
        settings={"prompts": 1},
        run_dir=tmp_path / "run",
    )


def test_a_search_ends_with_files_that_hold_no_image(folder: Path, tmp_path: Path) -> None:
    task = load_task(rows(folder))
    result = searched(task, tmp_path)

    assert result.test is not None
    assert result.test.outcomes[0].inputs["image"] == reference("scans/d.webp", folder)
    written = b"".join(file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file())
    assert b"[image: " not in written
    assert not [name for name, data in FILES.items() if base64.b64encode(data)[:12] in written]
    assert str(folder).encode() not in (tmp_path / "run" / "result.json").read_bytes()
    assert Result.load(tmp_path / "run").layout == replace(task.layout, image_folder=".")


def test_a_run_is_the_same_run_wherever_its_images_are(folder: Path, tmp_path: Path) -> None:
    here = digest_of(task_identity(load_task(rows(folder))))
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("data", "task.toml"):
        (tmp_path / name).rename(moved / name)
    assert digest_of(task_identity(load_task(moved / "task.toml"))) == here


def test_exports_hold_images_or_say_which_forms_do(folder: Path, tmp_path: Path) -> None:
    task = load_task(rows(folder))
    portable = searched(task, tmp_path).portable()
    held = []
    for form in FORMS:
        try:
            export(portable, form)
            held.append(form)
        except InputError as error:
            assert "the task sends images (image): use --as openai-batch" in str(error)  # noqa: PT017  one of many
    assert held == ["text", "json"]
    words = ("--as", "openai-batch", "--data", "data/receipts.jsonl", "--model", "m")
    done = promptopt(tmp_path, "export", "run", *words)
    sent = json.loads(done.stdout.splitlines()[3])["body"]["messages"]
    assert sent[-1] == {"role": "user", "content": [data_url("d.webp"), text(QUESTION)]}
    saved = PortablePrompt.from_json(json.loads(export(portable, "json")))
    inside = replace(saved, layout=replace(saved.layout, image_folder=str(folder)))
    assert inside.messages(task.test[0].inputs) == sent


def test_pruning_keeps_an_image_and_refuses_demonstrations_with_images(folder: Path) -> None:
    task = a_task(folder)
    assert tokenize(task.seed_prompt, task.layout, words).pieces[-1] == "{question}"
    with pytest.raises(InputError, match="demonstrations have images, which are no tokens"):
        tokenize(Prompt("Answer.", Demonstrations(task.train)), task.layout, words)


def test_a_file_is_checked_by_its_first_bytes_and_its_size(folder: Path) -> None:
    for name, data in FILES.items():
        image, encoded = Image(Path("scans") / name, "", folder), len(base64.b64encode(data))
        check_file(image, encoded)
        with pytest.raises(InputError, match="is too large"):
            check_file(image, encoded - 1)
