from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from promptopt.data.task_file import build_task, load_task
from promptopt.data.task_spec import TaskSpec, parse_spec
from promptopt.errors import InputError
from promptopt.prompt import Message, Prompt
from promptopt.replies import Response
from promptopt.rewards import Judge, Label, LabelMargin, Matches, Number

if TYPE_CHECKING:
    from promptopt.task import Task

REVIEWS = """
description = "Is the review positive or negative?"
format = "completion"
template = "Review: {text}"
seed_prompt = "Review: {text}\\nSentiment:"
labels = ["negative", "positive"]
[data]
train = "train.tsv"
validation = "validation.tsv"
test = "test.tsv"
inputs = ["text"]
label = "label"
"""
SPLITS = {"train": 12, "validation": 8, "test": 10}


def table(name: str, count: int) -> str:
    rows = [f"{name} text {i}\t{('negative', 'positive')[i % 2]}" for i in range(count)]
    return "\n".join(["text\tlabel", *rows])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Data for a task, without its task file."""
    here = tmp_path / "reviews"
    here.mkdir()
    for name, count in SPLITS.items():
        (here / f"{name}.tsv").write_text(table(name, count), "utf-8")
    (here / "all.tsv").write_text(table("any", 20), "utf-8")
    return here


def load(folder: Path, text: str = REVIEWS, overrides: dict[str, Any] | None = None) -> Task:
    (folder / "task.toml").write_text(text, "utf-8")
    return load_task(folder / "task.toml", overrides)


def complaint(folder: Path, text: str = REVIEWS, overrides: dict[str, Any] | None = None) -> str:
    with pytest.raises(InputError) as caught:
        load(folder, text, overrides)
    return str(caught.value)


ONE_FILE = {"data.file": "all.tsv", "data.train": None, "data.validation": None, "data.test": None}


# ---------------------------------------------------------------- what a file says


def test_a_task_file_becomes_a_task(folder: Path) -> None:
    task = load(folder)
    assert {name: len(getattr(task, name)) for name in SPLITS} == SPLITS
    assert task.train[0].inputs == {"text": "train text 0"}
    assert task.train[0].target == "negative"
    assert task.train[0].id == "train:2"
    assert task.seed_prompt == Prompt("Review: {text}\nSentiment:")
    assert task.template == "Review: {text}"
    assert task.description == "Is the review positive or negative?"
    assert (task.name, task.format, task.labels) == ("reviews", "completion", ("negative", "positive"))
    assert (task.max_tokens, task.temperature, task.stop) == (256, 0.0, ())
    assert (task.top_p, task.top_k) == (1.0, 0)
    assert task.reward == Label(("negative", "positive"))


def test_a_folder_stands_for_its_task_file_and_another_file_gives_its_own_name(folder: Path) -> None:
    assert load(folder) == load_task(folder)
    (folder / "stars.toml").write_text(REVIEWS, "utf-8")
    assert load_task(str(folder / "stars.toml")).name == "stars"


def test_every_setting_of_a_task_can_be_given(folder: Path) -> None:
    settings = {"name": "mine", "format": "chat", "max_tokens": 9, "temperature": 1, "stop": ["\n"], "reward": "margin"}
    task = load(folder, overrides=settings | {"top_p": 0.9, "top_k": 40, "logprobs": False})
    assert (task.name, task.format, task.max_tokens, task.temperature, task.stop) == ("mine", "chat", 9, 1.0, ("\n",))
    assert (task.top_p, task.top_k, task.logprobs) == (0.9, 40, False)
    assert task.reward == LabelMargin(("negative", "positive"))


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(folder: Path) -> None:
    (folder / "task.toml").write_bytes(b"\xef\xbb\xbf" + REVIEWS.replace("\n", "\r\n").encode())
    assert load_task(folder) == load(folder)


def test_labels_as_a_table_translate_the_data(folder: Path) -> None:
    words = {"negative": "terrible", "positive": "great"}
    task = load(folder, overrides={"labels": words})
    assert task.labels == ("terrible", "great")
    assert [example.target for example in task.train[:2]] == ["terrible", "great"]


def test_two_data_values_may_share_a_word(folder: Path) -> None:
    (folder / "train.tsv").write_text("text\tlabel\na\t1\nb\t2\nc\t3\n", "utf-8")
    values = {"labels": {"1": "bad", "2": "bad", "3": "good"}, "data.validation": None, "data.test": None}
    task = load(folder, overrides=values)
    assert task.labels == ("bad", "good")
    assert [example.target for example in task.train] == ["bad", "bad", "good"]


def test_a_field_may_be_named_differently_in_each_file(folder: Path) -> None:
    (folder / "test.tsv").write_text("sentence\tlabel\nx\tpositive\n", "utf-8")
    task = load(folder, overrides={"data.inputs": {"text": ["text", "sentence"]}})
    assert task.test[0].inputs == {"text": "x"}
    assert task.train[0].inputs == {"text": "train text 0"}


def test_a_column_may_be_renamed(folder: Path) -> None:
    overrides = {"data.inputs": {"review": "text"}, "template": "{review}", "seed_prompt": "Judge."}
    assert load(folder, overrides=overrides).fields == ("review",)


def test_ids_and_quoting_are_passed_on(folder: Path) -> None:
    (folder / "train.tsv").write_text('text\tlabel\tkey\n"a"\tpositive\tk1\n', "utf-8")
    overrides = {"data.id": "key", "data.quoting": False, "data.validation": None, "data.test": None}
    (example,) = load(folder, overrides=overrides).train
    assert (example.id, example.inputs["text"]) == ("k1", '"a"')


@pytest.mark.parametrize("split", ["hash", "shuffle"])
def test_one_file_is_split_by_the_seed(folder: Path, split: str) -> None:
    one_file = {**ONE_FILE, "data.split": split}
    task = load(folder, overrides=one_file)
    assert task == load(folder, overrides=one_file)
    assert task.train != load(folder, overrides={**one_file, "data.seed": 1}).train
    shared = load(folder, overrides={**one_file, "data.shares": [0.5, 0.25, 0.25]})
    assert len(shared.train) > len(task.train)


def test_a_shuffled_file_has_the_shares_exactly(folder: Path) -> None:
    task = load(folder, overrides={**ONE_FILE, "data.split": "shuffle"})
    assert [len(task.train), len(task.validation), len(task.test)] == [8, 6, 6]


def test_rows_that_are_added_leave_the_others_where_they_were(folder: Path) -> None:
    (folder / "all.tsv").write_text(table("any", 600), "utf-8")
    before = load(folder, overrides=ONE_FILE)
    (folder / "all.tsv").write_text(table("any", 660), "utf-8")
    after = load(folder, overrides=ONE_FILE)
    for split in SPLITS:
        assert set(getattr(before, split)) < set(getattr(after, split))


def test_a_group_stays_in_one_split(folder: Path) -> None:
    rows = "".join(f"text {i}\t{('negative', 'positive')[i % 2]}\tcustomer {i // 3}\n" for i in range(60))
    (folder / "all.tsv").write_text(f"text\tlabel\tcustomer\n{rows}", "utf-8")
    task = load(folder, overrides={**ONE_FILE, "data.group_column": "customer"})
    texts = [{int(e.inputs["text"].split()[1]) // 3 for e in part} for part in (task.train, task.validation, task.test)]
    assert all(texts)
    assert sum(map(len, texts)) == len(set.union(*texts)) == 20


def test_groups_that_files_divide_are_noted(folder: Path) -> None:
    for name, customers in (("train", "ab"), ("validation", "cc"), ("test", "bd")):
        rows = "".join(f"{name} {i}\t{('negative', 'positive')[i % 2]}\t{c}\n" for i, c in enumerate(customers))
        (folder / f"{name}.tsv").write_text(f"text\tlabel\tcustomer\n{rows}", "utf-8")
    task = load(folder, overrides={"data.group_column": "customer"})
    assert [e.group for e in task.test] == ["b", "d"]
    assert [note for note in task.notes if "groups" in note] == [
        "1 test examples are of groups that the training examples have too: rewards on them may be too high for new groups"
    ]


def test_a_column_may_name_the_split_of_each_row(folder: Path) -> None:
    (folder / "all.tsv").write_text(
        "text\tlabel\tpart\na\tpositive\ttrain\nb\tnegative\tDev \nc\tpositive\ttest\nd\tnegative\ttrain\n", "utf-8"
    )
    task = load(folder, overrides={**ONE_FILE, "data.split_column": "part"})
    parts = [[e.inputs["text"] for e in part] for part in (task.train, task.validation, task.test)]
    assert parts == [["a", "d"], ["b"], ["c"]]


def test_a_row_without_its_split_is_refused_or_dropped(folder: Path) -> None:
    (folder / "all.tsv").write_text("text\tlabel\tpart\na\tpositive\ttrain\nb\tnegative\t\n", "utf-8")
    overrides = {**ONE_FILE, "data.split_column": "part"}
    assert "all.tsv, line 3: 'part' is blank; fill it in" in complaint(folder, overrides=overrides)
    task = load(folder, overrides={**overrides, "data.drop_unusable": True})
    assert [e.inputs["text"] for e in task.train] == ["a"]
    assert task.notes[0].startswith("1 of 2 rows were dropped")


def test_a_limit_samples_a_split_and_leaves_the_others(folder: Path) -> None:
    task = load(folder, overrides={"data.limit": {"train": 4, "test": 1000}})
    assert [len(task.train), len(task.validation), len(task.test)] == [4, 8, 10]
    assert [e.target for e in task.train].count("positive") == 2
    assert set(task.train) < set(load(folder).train)


# ---------------------------------------------------------------- demonstrations


def test_training_texts_may_be_without_labels_where_the_test_items_have_them(folder: Path) -> None:
    (folder / "train.tsv").write_text("text\nfirst\nsecond\n", "utf-8")
    task = load(folder)

    assert [item.target for item in task.train] == [None, None]
    assert {item.target for item in task.test} == {"negative", "positive"}
    alone = complaint(folder, overrides={"data.validation": None, "data.test": None})  # a wrong name
    assert "no column 'label'" in alone


def test_demonstrations_are_drawn_for_each_label_and_leave_train(folder: Path) -> None:
    task = load(folder, overrides={"demonstrations": 2})
    shown = task.seed_prompt.demonstrations
    assert shown is not None
    assert sorted(str(item.target) for item in shown.items) == ["negative", "negative", "positive", "positive"]
    assert len(task.train) == 8
    assert {*task.train, *shown.items} == set(load(folder).train)


def test_demonstrations_depend_on_the_seed_and_not_on_the_limit(folder: Path) -> None:
    def shown(**data: Any) -> object:
        overrides = {f"data.{key}": value for key, value in data.items()}
        return load(folder, overrides={"demonstrations": 2, **overrides}).seed_prompt.demonstrations

    assert shown() == shown(limit={"train": 4})
    assert len({repr(shown(seed=seed)) for seed in range(5)}) == 5


def test_demonstrations_of_free_text_are_counted_in_all(folder: Path) -> None:
    text = REVIEWS.replace('labels = ["negative", "positive"]', "demonstrations = 3")
    shown = load(folder, text).seed_prompt.demonstrations
    assert shown is not None
    assert len(shown.items) == 3


def test_the_seed_prompt_shows_its_demonstrations(folder: Path) -> None:
    task = load(folder, overrides={"demonstrations": 1})
    context = task.layout.render(task.seed_prompt, task.test[0])
    assert isinstance(context, str)
    *shown, query = context.split("\n\n")
    assert query == "Review: test text 0\nSentiment:"
    assert sorted(part.rsplit(maxsplit=1)[1] for part in shown) == ["negative", "positive"]


# ---------------------------------------------------------------- the prompt where none is given

DATA = {"file": "all.tsv", "inputs": ["text"], "label": "label"}
LABELS = ["negative", "positive"]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (
            {"labels": LABELS},
            (Message("system", "Classify the text. Answer with one of: negative, positive."), Message("user", "TEXT")),
        ),
        (
            {"labels": LABELS, "description": "How is it?"},
            (Message("system", "How is it? Answer with one of: negative, positive."), Message("user", "TEXT")),
        ),
        ({}, (Message("system", "Answer the question."), Message("user", "TEXT"))),
        ({"description": "Say it."}, (Message("system", "Say it."), Message("user", "TEXT"))),
        ({"labels": LABELS, "format": "completion", "template": "Review: {text}"}, "Review: TEXT\nLabel:"),
        ({"format": "completion"}, "TEXT\nAnswer:"),
    ],
)
def test_without_a_seed_prompt_a_plain_one_is_made(folder: Path, values: dict[str, Any], shown: object) -> None:
    task = build_task(parse_spec({**values, "data": DATA}, "the command line"), folder)
    context = task.layout.render(task.seed_prompt, task.test[0])
    text = task.test[0].inputs["text"]
    assert repr(context).replace(text, "TEXT") == repr(shown)


# ---------------------------------------------------------------- rewards


@pytest.mark.parametrize(
    ("name", "reward"), [("number", Number()), ("regex:is (\\d+)", Matches("is (\\d+)")), ("regex:a:b", Matches("a:b"))]
)
def test_a_built_in_reward_is_named(folder: Path, name: str, reward: object) -> None:
    for split, count in SPLITS.items():
        rows = "".join(f"{split} has {i}\t{i}\n" for i in range(count))
        (folder / f"{split}.tsv").write_text("text\tlabel\n" + rows, "utf-8")
    text = REVIEWS.replace('labels = ["negative", "positive"]\n', "")
    assert load(folder, text, {"reward": name}).reward == reward


def test_a_reward_is_imported_from_beside_the_task_file(folder: Path) -> None:
    (folder / "politeness.py").write_text("def score(example, response):\n    return 0.25\n", "utf-8")
    path = list(sys.path)
    reward = load(folder, overrides={"reward": "politeness:score"}).reward
    assert sys.path == path
    assert callable(reward)
    assert reward(load(folder).train[0], Response("")) == 0.25


def test_the_file_beside_the_task_wins_over_any_module_of_its_name(folder: Path) -> None:
    for worth in (0.25, 0.125):  # as two tasks in one process, or one that was edited
        (folder / "json.py").write_text(DATACLASS_REWARD.format(worth=worth), "utf-8")
        reward = load(folder, overrides={"reward": "json:score"}).reward
        assert callable(reward)
        assert reward(load(folder).train[0], Response("")) == worth


DATACLASS_REWARD = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass(frozen=True)
class Worth:
    value: float

    def __call__(self, example: object, response: object) -> float:
        return self.value

# worth {worth}
score = Worth({worth})
"""


def test_reward_files_of_one_name_in_two_folders_are_two_modules(folder: Path, tmp_path: Path) -> None:
    rewards = []
    for place, worth in ((folder, 0.25), (tmp_path / "second", 0.125)):
        if place != folder:
            shutil.copytree(folder, place)
        (place / "rewards.py").write_text(DATACLASS_REWARD.format(worth=worth), "utf-8")
        rewards.append(load(place, overrides={"reward": "rewards:score"}).reward)
    modules = [vars(sys.modules[type(reward).__module__])["score"] for reward in rewards]
    assert modules == rewards


def test_a_reward_module_may_import_what_lies_beside_it(folder: Path) -> None:
    (folder / "beside_it.py").write_text("WORTH = 0.5\n", "utf-8")
    (folder / "leaning.py").write_text("from beside_it import WORTH\n\ndef score(e, r):\n    return WORTH\n", "utf-8")
    assert callable(load(folder, overrides={"reward": "leaning:score"}).reward)


def test_a_reward_is_imported_from_what_is_installed(folder: Path) -> None:
    reward = load(folder, overrides={"reward": "difflib:context_diff"}).reward
    assert callable(reward)
    assert reward.__module__ == "difflib"


def test_an_error_inside_a_reward_module_is_shown_as_it_is(folder: Path) -> None:
    (folder / "needy.py").write_text("import surely_not_installed\n", "utf-8")
    with pytest.raises(ModuleNotFoundError, match="surely_not_installed"):
        load(folder, overrides={"reward": "needy:score"})


def test_a_judge_is_a_section(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from promptopt import FunctionModel\nstrict = FunctionModel(str, name='strict', version='1')\n"
    (folder / "a_judge.py").write_text(code, "utf-8")
    monkeypatch.syspath_prepend(folder)
    judge = {"model": "python:a_judge:strict", "criteria": "Be right."}

    plain = load(folder, overrides={"judge": judge}).reward
    scaled = load(folder, overrides={"judge": judge | {"scale": [1, 5]}}).reward

    assert isinstance(plain, Judge)
    assert isinstance(scaled, Judge)
    assert plain.model.fingerprint["model"] == "strict"
    assert (plain.criteria, plain.scale, scaled.scale) == ("Be right.", (0, 10), (1, 5))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"judge.model": "openai:x"}, "the key 'judge.criteria' is missing"),
        ({"judge": {"model": "a:b", "criteria": "c"}, "reward": "exact"}, "it has both reward and [judge]"),
        (
            {"judge": {"model": "a:b", "criteria": "c", "skale": 5}},
            "unknown key 'skale' in [judge], did you mean 'scale'?",
        ),
        ({"judge": {"model": "a:b", "criteria": ""}}, "judge.criteria = '': must not be empty"),
        ({"judge": {"model": "nobody:b", "criteria": "c"}}, "nobody"),
    ],
)
def test_a_judge_that_cannot_be_had_is_refused(folder: Path, values: dict[str, Any], said: str) -> None:
    assert said in complaint(folder, overrides=values)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lable", "task.toml: unknown reward 'lable', did you mean 'label'?; known: exact, contains"),
        ("absent:score", "task.toml: reward: there is no module 'absent'; put absent.py into "),
        ("absent.deep:score", "there is no module 'absent.deep'"),
        ("helpful:scroe", "helpful has no 'scroe', did you mean 'score'?; functions: score"),
        ("helpful:number", "'helpful:number' is not a function but int"),
        (":score", "':score' is not a function: give the name of a built-in reward, or module:function"),
        ("a-b:score", "'a-b:score' is not a function"),
        ("helpful:", "'helpful:' is not a function"),
        ("regex:(", "'(' is not a valid regular expression"),
    ],
)
def test_a_reward_that_cannot_be_had_is_refused(folder: Path, name: str, said: str) -> None:
    (folder / "helpful.py").write_text("number = 1\ndef score(example, response):\n    return 1.0\n", "utf-8")
    assert said in complaint(folder, overrides={"reward": name})
    assert str(folder) not in sys.path


# ---------------------------------------------------------------- what is refused


def test_a_missing_task_file_is_named_with_the_nearest_one(folder: Path) -> None:
    (folder / "taks.toml").write_text(REVIEWS, "utf-8")
    with pytest.raises(InputError) as caught:
        load_task(folder)
    assert str(caught.value) == f"{folder / 'task.toml'}: no such file, did you mean 'taks.toml'?"


def test_broken_toml_is_refused_with_its_place(folder: Path) -> None:
    assert "task.toml is not valid TOML: Invalid value (at line 1, column 8)" in complaint(folder, "name = reviews\n")


def test_data_in_place_of_a_task_file_is_told_from_it(tmp_path: Path) -> None:
    data = tmp_path / "a.csv"
    data.write_text("text,label\ngood,1\n", encoding="utf-8")
    with pytest.raises(
        InputError, match=r"a\.csv is a data file, not a task file: use --data with --input and --label"
    ):
        load_task(data)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"lables": ["a"]}, "unknown key 'lables', did you mean 'labels'?; known keys: name, description, format"),
        ({"data.lable": "x"}, "unknown key 'lable' in [data], did you mean 'label'?; known keys: file, train"),
        ({"data.limit": {"tset": 1}}, "unknown key 'tset' in [data.limit], did you mean 'test'?"),
        ({"data.stop": ["x"]}, "unknown key 'stop' in [data]; it belongs above the first [section]"),
        ({"quoting": True}, "unknown key 'quoting'; it belongs in [data]"),
        ({"max_tokens": "many"}, "max_tokens = 'many': must be a whole number"),
        ({"max_tokens": 0}, "max_tokens = 0: must be greater than or equal to 1"),
        ({"max_tokens": True}, "max_tokens = True: must be a whole number"),
        ({"temperature": -0.5}, "temperature = -0.5: must be greater than or equal to 0"),
        ({"top_p": 0.0}, "top_p = 0.0: must be greater than 0"),
        ({"top_p": 1.01}, "top_p = 1.01: must be less than or equal to 1"),
        ({"top_k": -1}, "top_k = -1: must be greater than or equal to 0"),
        ({"top_k": 2.0}, "top_k = 2.0: must be a whole number"),
        ({"format": "text"}, "format = 'text': must be 'chat', 'completion' or 'caption'"),
        ({"stop": "x"}, "stop = 'x': must be a list"),
        ({"name": 3}, "name = 3: must be text"),
        ({"data": 3}, "data = 3: must be a table"),
        ({"labels": 3}, "labels = 3: must be a list or a table"),
        ({"labels": [0, 1]}, 'labels must be texts: write ["0", "1"], or a table { 0 = "word", 1 = "word" }'),
        ({"labels": ["a", "b", "a"]}, "labels contain a word twice: a, b, a"),
        ({"labels": {"0": 1}}, "labels.0 = 1: must be text"),
        ({"labels": ["negative"]}, "train.tsv, line 3: 'label' is 'positive', which is not one of 'negative'"),
        ({"data.inputs": []}, "data.inputs = []: must not be empty"),
        ({"data.inputs": [3]}, 'data.inputs must be column names, such as ["text"]'),
        ({"data.inputs": {"text": []}}, "data.inputs.text = []: must not be empty"),
        ({"data.inputs": {"text": ["body", "review"]}}, "train.tsv, line 2: no column 'body' or 'review'"),
        ({"data.quoting": "no"}, "data.quoting = 'no': must be true or false"),
        ({"data.seed": -1}, "data.seed = -1: must be greater than or equal to 0"),
        ({"data.file": "all.tsv"}, "data names both file and train: keep file (split by shares), or train, "),
        ({"data.train": None}, "data names no file: give file (split by shares), or train, validation and test"),
        ({"data.shares": [0.4, 0.3, 0.3]}, "data has shares but no file to split: remove shares, or give file"),
        ({**ONE_FILE, "data.shares": [0.5, 0.5]}, "shares must be three positive numbers that sum to 1"),
        ({"data.split": "hash"}, "data has split but no file to split: remove split, or give file"),
        ({**ONE_FILE, "data.split": "random"}, "data.split = 'random': must be 'hash' or 'shuffle'"),
        (
            {**ONE_FILE, "data.split": "shuffle", "data.group_column": "x"},
            "data has a group_column, and split = 'shuffle'",
        ),
        (
            {**ONE_FILE, "data.split_column": "x", "data.shares": [0.4, 0.3, 0.3]},
            "data has both split_column, which names each row's split, and shares: remove one",
        ),
        ({**ONE_FILE, "data.split_column": "lable"}, "all.tsv, line 2: no column 'lable', did you mean 'label'?"),
        ({**ONE_FILE, "data.split_column": "text"}, "example 'all:2': the column 'text' holds 'any text 0'"),
        ({"data.limit": {"train": 0}}, "data.limit.train = 0: must be greater than or equal to 1"),
        ({"data.train": "trian.tsv"}, "trian.tsv: no such file, did you mean 'train.tsv'?"),
        ({"demonstrations": 7}, "demonstrations = 7, but train has only 6 examples with the label 'negative'"),
        ({"demonstrations": 6}, "demonstrations = 6 takes all 12 training examples: give more examples"),
        ({"seed_prompt": "Review: {txt}"}, "the seed prompt has the slot {txt}, but the data has no such field"),
        ({"data.id": "label"}, "the id 'negative' is already used in "),
        ({"name.first": "x"}, "name.first cannot be set because name is not a table"),
    ],
)
def test_what_cannot_be_used_is_refused_with_file_key_and_mend(
    folder: Path, overrides: dict[str, Any], said: str
) -> None:
    message = complaint(folder, overrides=overrides)
    assert message.startswith(f"{folder / 'task.toml'}: ")
    assert said in message
    assert "pydantic" not in message


def test_a_missing_key_is_named(folder: Path) -> None:
    assert "task.toml: it has no data: add a section [data]" in complaint(folder, 'name = "x"\n')
    assert complaint(folder, '[data]\ntrain = "train.tsv"\n').endswith("task.toml: the key 'data.inputs' is missing")


def test_everything_that_is_wrong_is_said_at_once(folder: Path) -> None:
    assert complaint(folder, overrides={"stop": 1, "data.seed": "x"}).count("\n") == 1


def test_a_specification_made_elsewhere_names_its_source() -> None:
    with pytest.raises(InputError, match=r"^the command line: unknown key 'reword', did you mean 'reward'\?"):
        parse_spec({"reword": "x", "data": DATA}, "the command line")
    assert isinstance(parse_spec({"data": DATA}, "the command line"), TaskSpec)


def test_importing_the_package_leaves_pydantic_out() -> None:
    code = "import sys, promptopt, promptopt.data.rows, promptopt.task; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[1]).returncode == 0


ENVIRONMENT = """
max_tokens = 16
[environment]
name = "gridworld1"
train = 3
validation = 2
test = 4
size = { rows = 3, columns = 3, goals = 1, obstacles = 1 }
history = 1
"""


def test_an_environment_takes_the_place_of_data(tmp_path: Path) -> None:
    (tmp_path / "task.toml").write_text(ENVIRONMENT, encoding="utf-8")
    task = load_task(tmp_path)

    assert [len(items) for items in (task.train, task.validation, task.test)] == [3, 2, 4]
    assert task.environment is not None
    assert (task.max_tokens, task.history, task.fields) == (16, 1, ("observation",))
    assert "robot" in task.seed_prompt.text
    assert load_task(tmp_path, {"seed_prompt": "Go."}).seed_prompt.text == "Go."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('labels = ["a", "b"]\n' + ENVIRONMENT, "it has both labels and \\[environment\\]"),
        (ENVIRONMENT.replace("gridworld1", "gridwold1"), "there is no environment 'gridwold1', did you mean"),
        (ENVIRONMENT.replace("rows", "rowz"), "gridworld1 has no size 'rowz'"),
        (ENVIRONMENT.replace("train = 3", "trian = 3"), "unknown key 'trian' in \\[environment\\]"),
        ('name = "x"', "it has no data: add a section \\[data\\], or \\[environment\\]"),
    ],
)
def test_a_wrong_environment_says_the_mend(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "task.toml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        load_task(tmp_path)
