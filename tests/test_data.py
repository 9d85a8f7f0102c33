from __future__ import annotations

import csv
import json
import os
import sys
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptopt.data.near_duplicates import NearDuplicate, near_duplicates
from promptopt.data.rows import Row, read_rows, to_examples
from promptopt.errors import InputError, MissingExtraError
from promptopt.prompt import Example
from promptopt.rewards import last_number

if TYPE_CHECKING:
    from collections.abc import Iterator

REAL = Path(os.environ.get("PROMPTOPT_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
real_data = pytest.mark.skipif(
    not REAL.is_dir(), reason=f"no data sets in {REAL}; name their folder in PROMPTOPT_TEST_DATA"
)


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def values(rows: list[Row]) -> list[dict[str, str]]:
    return [row.values for row in rows]


def complaint(source: Any, quoting: bool | None = None) -> str:  # noqa: FBT001 - passed on as it is
    with pytest.raises(InputError) as caught:
        read_rows(source, quoting=quoting)
    return str(caught.value)


def item(text: str, target: str | None = None, name: str = "") -> Example:
    return Example({"text": text}, target, name or text)


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "text,label\ngood,1\nbad,0\n"),
        ("a.tsv", "text\tlabel\ngood\t1\nbad\t0\n"),
        ("a.txt", "text\tlabel\r\ngood\t1\r\n\r\nbad\t0"),
        ("a.jsonl", '{"text": "good", "label": 1}\n\n{"text": "bad", "label": 0}\n'),
        ("a.ndjson", '{"text": "good", "label": 1}\r\n{"text": "bad", "label": 0}\r\n'),
        ("a.json", '[{"text": "good", "label": 1},\n {"text": "bad", "label": 0}]'),
        ("A.CSV", "\ufefftext,label\ngood,1\nbad,0\n"),
        ("a.csv", '"text";label\r\n"good";1\r\nbad;0\r\n'),
    ],
)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str, text: str) -> None:
    assert values(read_rows(write(tmp_path, name, text))) == [
        {"text": "good", "label": "1"},
        {"text": "bad", "label": "0"},
    ]


def test_semicolons_separate_only_where_the_header_has_no_comma(tmp_path: Path) -> None:
    spreadsheet = write(tmp_path, "a.csv", 'text;label\n"good, very; good";1\n')
    assert values(read_rows(spreadsheet)) == [{"text": "good, very; good", "label": "1"}]
    commas = write(tmp_path, "b.csv", '"text; or not",label\ngood;1,1\n')
    assert values(read_rows(commas)) == [{"text; or not": "good;1", "label": "1"}]


def test_a_path_may_be_a_string(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "text\ngood\n")
    assert read_rows(str(path)) == read_rows(path)


def test_line_numbers_count_the_lines_of_quoted_fields_and_blank_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", 'text,label\n"one\ntwo\nthree",1\n\nfour,0\n')
    assert [(row.where, row.number) for row in read_rows(path)] == [(f"{path}, line 2", 2), (f"{path}, line 6", 6)]


def test_line_numbers_of_json_lines_count_blank_lines_but_no_unicode_line_separators(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"text": "a\u2028b"}\n\n{"text": "c"}\n')
    assert [row.number for row in read_rows(path)] == [1, 3]


def test_rows_of_a_json_list_and_of_mappings_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path, "a.json", '[{"text": "a"}, {"text": "b"}]')
    assert [row.where for row in read_rows(path)] == [f"{path}, item 1", f"{path}, item 2"]
    assert [row.where for row in read_rows([{"text": "a"}, {"text": "b"}])] == ["item 1", "item 2"]


def test_values_become_text_and_nulls_have_no_entry() -> None:
    given_values = {
        "int": 3,
        "float": 12.0,
        "bool": True,
        "nested": {"é": [1, None]},
        "null": None,
        "nan": float("nan"),
        "numpy": np.int64(7),
        "missing": np.float64("nan"),
    }
    assert values(read_rows([given_values])) == [
        {"int": "3", "float": "12.0", "bool": "true", "nested": '{"é": [1, null]}', "numpy": "7"}
    ]


def test_a_field_may_be_longer_than_the_csv_module_allows_and_its_limit_is_put_back(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    long = "x" * (limit + 1)
    for name in ("a.csv", "a.tsv"):
        assert values(read_rows(write(tmp_path, name, f"text\n{long}\n"))) == [{"text": long}]
    assert csv.field_size_limit() == limit


# ---------------------------------------------------------------- quoting


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ('"say ""hi"""', 'say "hi"'),  # as CSV quoting writes it
        ('"a\tb"', "a\tb"),
        ('he said "hi"', 'he said "hi"'),  # quotes inside a field: none was meant
        ('"hi" he said', '"hi" he said'),
        ('"unbalanced', '"unbalanced'),
        ('""', ""),
    ],
)
def test_a_tsv_is_quoted_only_where_every_quote_is_csv_quoting(tmp_path: Path, line: str, text: str) -> None:
    path = write(tmp_path, "a.tsv", f"text\tlabel\r\nplain\t1\r\n{line}\t0\r\n")
    assert values(read_rows(path)) == [{"text": "plain", "label": "1"}, {"text": text, "label": "0"}]


def test_one_stray_quote_means_that_no_field_of_a_tsv_is_quoted(tmp_path: Path) -> None:
    path = write(tmp_path, "a.tsv", 'text\n"all of it"\n5" tall\n')
    assert values(read_rows(path)) == [{"text": '"all of it"'}, {"text": '5" tall'}]


def test_two_stray_quotes_never_swallow_the_lines_between_them(tmp_path: Path) -> None:
    path = write(tmp_path, "a.tsv", 'text\tlabel\n"one\t1\ntwo\t0\n"three\t1\n')
    assert [row["text"] for row in values(read_rows(path))] == ['"one', "two", '"three']


def test_quoting_can_be_set_either_way(tmp_path: Path) -> None:
    path = write(tmp_path, "a.tsv", 'text\n"a ""b"""\n')
    assert values(read_rows(path, quoting=False)) == [{"text": '"a ""b"""'}]
    assert values(read_rows(path, quoting=True)) == [{"text": 'a "b"'}]
    comma = write(tmp_path, "a.csv", 'text\n"a\n')
    assert values(read_rows(comma, quoting=False)) == [{"text": '"a'}]


cells = st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1)


@given(table=st.lists(st.tuples(cells, cells), min_size=1))
def test_what_the_csv_module_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, table: list[tuple[str, str]]
) -> None:
    rows = [("a", "b"), *table]
    path = tmp_path_factory.getbasetemp() / "written.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    read = read_rows(path)
    assert values(read) == [{"a": a, "b": b} for a, b in table]
    ends = np.cumsum([1 + sum(cell.count("\n") for cell in row) for row in rows])
    assert [row.number for row in read] == [end + 1 for end in ends[:-1]]


# ---------------------------------------------------------------- what cannot be read


def test_a_missing_file_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    write(tmp_path, "train.tsv", "text\na\n")
    assert complaint(tmp_path / "trian.tsv") == f"{tmp_path / 'trian.tsv'}: no such file, did you mean 'train.tsv'?"
    assert "no such file" in complaint(tmp_path / "nowhere" / "a.csv")
    assert f"relative paths start from {Path.cwd()}" in complaint("no-such-file.csv")


def test_a_folder_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    assert "folder.csv cannot be read (" in complaint(tmp_path / "folder.csv")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsnl", "x", "unknown ending '.jsnl', did you mean '.jsonl'?; known endings: .jsonl, .ndjson, .json, .csv"),
        ("a", "x", "unknown ending ''"),
        ("a.csv", "", "a.csv is empty"),
        ("a.json", " \n", "a.json is empty"),
        ("a.csv", "text,label\n", "a.csv has a header but no rows"),
        ("a.json", "[]", "a.json has no rows"),
        ("a.csv", "text,label\na,1\n\nb,c,0\n", "a.csv, line 4: 3 fields where the header has 2 (text, label); fix"),
        ("a.csv", "text,label\na,b,0\n", "or read the file with quoting off"),
        ("a.tsv", "text\tlabel\na\n", "a.tsv, line 2: 1 fields where the header has 2"),
        ("a.tsv", 'text\tlabel\n"a\nb"\t1\n', "or read the file with quoting on"),
        ("a.csv", 'text\na\n"b\n\n', "a.csv, line 3: unexpected end of data; double the quotes"),
        ("a.csv", 'text\n"a"b\n', "a.csv, line 2: ',' expected after '\"'"),
        ("a.jsonl", '{"text": "a"}\n{"text": }\n', "a.jsonl, line 2: invalid JSON: Expecting value (column 10)"),
        ("a.jsonl", '{"text": "a"}\n["b"]\n', "a.jsonl, line 2 is a value of type list: every row must be an object"),
        (
            "a.json",
            '[{"text": "a"},\n {"text" "b"}]',
            "a.json, line 2: invalid JSON: Expecting ':' delimiter (column 10)",
        ),
        ("a.json", '{"text": "a"}', "a.json holds a value of type dict: give a list of objects"),
        ("a.json", '[{"text": "a"}, 3]', "a.json, item 2 is a value of type int"),
        ("a.tsv", b"text\nok\nrich cr\xe8me\n", "a.tsv, line 3: byte 0xe8 is not UTF-8; save the file as UTF-8"),
        ("a.csv", b"\xef\xbb\xbftext\n\xff\n", "a.csv, line 2: byte 0xff is not UTF-8"),
        ("a.jsonl", '{"text": "a"}\n'.encode("utf-16"), "a.jsonl, line 1: byte 0x"),
    ],
)
def test_a_broken_file_is_refused_with_its_place_and_a_fix(
    tmp_path: Path, name: str, text: str | bytes, said: str
) -> None:
    assert said in complaint(write(tmp_path, name, text))


def test_mappings_are_checked_too() -> None:
    assert "the data has no rows" in complaint([])
    assert "item 1 is a value of type str" in complaint({"text": "one mapping, not a list of them"})


# ---------------------------------------------------------------- the hub


def test_the_hub_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)  # as where it is not installed
    with pytest.raises(MissingExtraError, match=r"hf://squad needs .*'promptopt-toolkit\[datasets\]'"):
        read_rows("hf://squad")


class Hub:
    """Stands in for the package: records what is asked of it."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None, str]] = []

    def load_dataset(self, name: str, config: str | None, split: str) -> Iterator[dict[str, Any]]:
        self.asked.append((name, config, split))
        if split == "tset":
            raise ValueError('Unknown split "tset"')
        return iter([{"text": "a", "label": 0}, {"text": "b", "label": 1}])


@pytest.mark.parametrize(
    ("source", "asked"),
    [
        ("hf://squad", ("squad", None, "train")),
        ("hf://stanfordnlp/sst2:test", ("stanfordnlp/sst2", None, "test")),
        ("hf://nyu-mll/glue/sst2:validation[:9]", ("nyu-mll/glue", "sst2", "validation[:9]")),
    ],
)
def test_a_hub_address_names_data_set_configuration_and_split(
    monkeypatch: pytest.MonkeyPatch, source: str, asked: tuple[str, str | None, str]
) -> None:
    hub = Hub()
    monkeypatch.setitem(sys.modules, "datasets", hub)
    rows = read_rows(source)
    assert hub.asked == [asked]
    assert rows[1].values == {"text": "b", "label": "1"}
    assert rows[1].where == f"{source}, row 2"


def test_what_the_hub_refuses_is_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", Hub())
    assert 'hf://a/b:tset cannot be loaded: Unknown split "tset"' in complaint("hf://a/b:tset")


# ---------------------------------------------------------------- rows to examples


def test_rows_become_examples() -> None:
    rows = read_rows([{"q": "2+2", "hint": "", "a": " 4 ", "key": "x", "other": None}])
    assert to_examples(rows, inputs=["q", "hint"], label="a", id="key") == (
        Example({"q": "2+2", "hint": ""}, "4", "x"),
    )


def test_data_without_labels_has_no_targets() -> None:
    assert to_examples(read_rows([{"text": "a"}]), inputs=["text"], label=None)[0].target is None


def test_ids_name_the_line_and_stay_apart_for_files_of_the_same_name(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    here = read_rows(write(tmp_path, "a.csv", "text\none\ntwo\n"))
    there = read_rows(write(tmp_path / "other", "a.csv", "text\none\n"))
    assert [e.id for e in to_examples(here, inputs=["text"], label=None)] == ["a:2", "a:3"]
    assert [e.id for e in to_examples(here, inputs=["text"], label=None, split="train")] == ["train:2", "train:3"]
    assert [e.id for e in to_examples(there, inputs=["text"], label=None, split="test")] == ["test:2"]
    assert [e.id for e in to_examples(read_rows([{"text": "a"}]), inputs=["text"], label=None)] == ["item:1"]


def test_a_label_that_is_an_input_too_is_refused(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path, "a.csv", "text,label\ngood,1\n"))
    with pytest.raises(InputError, match="'label' is both the label and an input, so the model would see the answer"):
        to_examples(rows, inputs=["text", "label"], label="label")


def test_labels_are_translated_or_checked() -> None:
    rows = read_rows([{"text": "a", "label": 0}, {"text": "b", "label": "1 "}])
    words = {"0": "terrible", "1": "great"}
    assert [e.target for e in to_examples(rows, inputs=["text"], label="label", labels=words)] == ["terrible", "great"]
    assert [e.target for e in to_examples(rows, inputs=["text"], label="label", labels=["0", "1"])] == ["0", "1"]


def test_a_field_may_be_held_by_several_columns_of_which_the_first_present_is_taken() -> None:
    accepted = {"text": ("text", "sentence")}
    for row in ({"sentence": "a"}, {"sentence": "b", "text": "a"}):
        assert to_examples(read_rows([row]), inputs=accepted, label=None)[0].inputs == {"text": "a"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"inputs": ["txt"]}, "item 1: no column 'txt', did you mean 'text'?; columns: text, label, id"),
        ({"inputs": {"x": ("body", "sentence")}}, "no column 'body' or 'sentence'; columns: text, label, id"),
        ({"label": "lable"}, "no column 'lable', did you mean 'label'?"),
        ({"id": "key"}, "no column 'key'"),
        ({"inputs": []}, "no input columns"),
        ({"id": "id"}, "item 2: the id 'x' is already used in item 1; make ids unique, or omit the id column"),
        (
            {"labels": ["positive", "negative"]},
            "item 2: 'label' is 'postive', which is not one of 'positive', 'negative', did you mean 'positive'?; fix the row",
        ),
    ],
)
def test_what_the_rows_do_not_have_is_refused(settings: dict[str, Any], said: str) -> None:
    rows = read_rows(
        [{"text": "a", "label": "positive", "id": "x"}, {"text": "b", "label": "postive", "id": "x"}],
    )
    with pytest.raises(InputError) as caught:
        to_examples(rows, **{"inputs": ["text"], "label": "label", **settings})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": " ", "label": "1"}, "item 2: 'text' is blank"),
        ({"text": None, "label": "1"}, "item 2: 'text' is missing or null"),
        ({"label": "1"}, "item 2: 'text' is missing or null"),
        ({"text": "b", "label": ""}, "item 2: 'label' is blank"),
        ({"text": "b", "label": None}, "item 2: 'label' is missing or null"),
        (
            {"text": date(2026, 1, 2), "label": "1"},
            "item 2: 'text' holds a value of type date, which is not text; convert it",
        ),
        ({"text": "b\0", "label": "1"}, "item 2: 'text' holds a NUL character (at 1)"),
        ({"text": "b", "label": "\0"}, "item 2: 'label' holds a NUL character (at 0)"),
    ],
)
def test_a_row_with_a_gap_is_refused(row: dict[str, Any], said: str) -> None:
    rows = read_rows([{"text": "a", "label": "1"}, row])
    with pytest.raises(InputError) as caught:
        to_examples(rows, inputs=["text"], label="label")
    assert said in str(caught.value)


def test_only_columns_that_are_used_can_refuse_a_row(tmp_path: Path) -> None:
    extra = {"when": date(2026, 1, 2), "cost": Decimal("1.5"), "blob": b"x", "broken": "\0", "gap": None}
    assert to_examples(read_rows([{"text": "a", **extra}]), inputs=["text"], label=None)[0].inputs == {"text": "a"}

    rows = read_rows(write(tmp_path, "a.csv", "text,,,note,note\na,,,b,c\n"))
    assert to_examples(rows, inputs=["text"], label=None)[0].inputs == {"text": "a"}
    with pytest.raises(InputError, match=r"line 2: 'note' is the name of several columns; rename all but one$"):
        to_examples(rows, inputs=["text", "note"], label=None)


def test_a_file_or_records_become_examples_directly(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "text,label\na,1\n")
    assert [e.target for e in to_examples(path, inputs=["text"], label="label")] == ["1"]
    records = [{"text": "a", "label": "1"}]
    assert to_examples(records, inputs=["text"], label="label") == to_examples(
        read_rows(records), inputs=["text"], label="label"
    )


def test_a_file_with_another_separator_than_its_name_says_is_told_apart(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path, "a.tsv", "text,label\na,1\n"))
    with pytest.raises(InputError, match=r"no column 'text'.*; if the file is separated by commas, name it \.csv"):
        to_examples(rows, inputs=["text"], label="label")


# ---------------------------------------------------------------- near duplicates

LONG = " ".join(f"word{i}" for i in range(40))


def test_equal_texts_are_found_whatever_their_length_and_case() -> None:
    for text in ("???", "good", "very good", "a very good film", LONG):
        found = near_duplicates([item(text, name="a")], [], [item(text.upper(), name="b")])
        assert found == [NearDuplicate("train", "a", "test", "b", 1.0)]


def test_likeness_is_the_jaccard_index_of_word_triples() -> None:
    (found,) = near_duplicates([item(LONG)], [item(f"{LONG} more", name="b")], [])
    assert found == NearDuplicate("train", LONG, "validation", "b", 38 / 39)
    assert near_duplicates([item(LONG)], [item(f"{LONG} more")], [], threshold=0.98) == []


@pytest.mark.parametrize(("one", "other"), [("dog bites man", "man bites dog"), ("???", "!!!"), ("good", "good film")])
def test_texts_that_differ_in_order_or_words_are_not_alike(one: str, other: str) -> None:
    assert near_duplicates([item(one)], [item(other)], []) == []


def test_items_of_one_split_are_not_compared_and_the_likest_is_named() -> None:
    train = [item(f"{LONG} more", name="near"), item(LONG, name="same"), item(LONG, name="again")]
    found = near_duplicates(train, [item(LONG, name="b")], [item(LONG, name="c")])
    assert [(d.first_id, d.second_id, d.likeness) for d in found] == [
        ("same", "b", 1.0),
        ("same", "c", 1.0),
        ("b", "c", 1.0),
    ]


@given(
    st.lists(st.text("ab ", max_size=12), max_size=12),
    st.lists(st.text("ab ", max_size=12), max_size=12),
    st.sampled_from([0.2, 0.5, 0.8, 0.9, 1.0]),
)
def test_the_index_misses_no_pair(first: list[str], second: list[str], threshold: float) -> None:
    def triples(text: str) -> set[tuple[str, ...]]:
        words = text.split() or [text]
        return {tuple(words)} if len(words) < 3 else set(zip(words, words[1:], words[2:], strict=False))

    def likeness(a: str, b: str) -> float:
        return len(triples(a) & triples(b)) / len(triples(a) | triples(b))

    expected = {}
    for j, b in enumerate(second):
        best = max((likeness(a, b) for a in first), default=0.0)
        if best >= threshold:
            expected[f"b{j}"] = best
    found = near_duplicates(
        [item(a, name=f"a{i}") for i, a in enumerate(first)],
        [],
        [item(b, name=f"b{j}") for j, b in enumerate(second)],
        threshold,
    )
    assert {d.second_id: d.likeness for d in found} == expected


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.5])
def test_a_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(InputError, match=r"threshold must be above 0 and at most 1, not "):
        near_duplicates([], [], [], threshold)


# ---------------------------------------------------------------- real data


@real_data
@pytest.mark.parametrize(
    ("file", "text", "label", "labels", "count"),
    [
        ("sst-2/test.tsv", "sentence", "label", ["0", "1"], 1821),
        ("agnews/test.tsv", "sentence", "label", ["0", "1", "2", "3"], 2000),
        ("gsm8k/test.json", "instruction", "answer", None, 1319),
        ("gsm8k/dev.json", "instruction", "output", None, 200),
        ("mawps/train.json", "original_text", "ans", None, 1898),
        ("mawps/dev.json", "original_text", "ans", None, 237),
    ],
)
def test_real_data_sets_load_whole(file: str, text: str, label: str, labels: list[str] | None, count: int) -> None:
    examples = to_examples(read_rows(REAL / file), inputs=[text], label=label, labels=labels)
    assert len(examples) == count
    assert not any(example.inputs[text].startswith('"') and example.inputs[text].endswith('"') for example in examples)
    if labels is None:
        assert all(last_number(example.target or "") is not None for example in examples)
    else:
        assert {example.target for example in examples} == set(labels)


@real_data
def test_the_blank_outputs_of_gsm8k_are_noticed() -> None:
    path = REAL / "gsm8k" / "test.json"
    blank = [n for n, row in enumerate(json.loads(path.read_text("utf-8")), 1) if not row["output"]]
    with pytest.raises(InputError, match=f"item {blank[0]}: 'output' is blank"):
        to_examples(read_rows(path), inputs=["instruction"], label="output")


@real_data
def test_the_rows_that_subj_has_in_two_files_are_found() -> None:
    validation, test = (
        to_examples(read_rows(REAL / "subj" / file), inputs=["sentence"], label="label", split=split)
        for file, split in (("dev200.tsv", "validation"), ("test.tsv", "test"))
    )
    texts = {example.inputs["sentence"]: example.id for example in validation}
    shared = {(texts[e.inputs["sentence"]], e.id) for e in test if e.inputs["sentence"] in texts}
    found = near_duplicates((), validation, test)
    assert len(shared) == 17
    assert shared <= {(d.first_id, d.second_id) for d in found if d.likeness == 1.0}
    assert len(found) == 28  # 11 more differ in spacing and punctuation only
