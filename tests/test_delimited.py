from __future__ import annotations

from pathlib import Path

import pytest

from promptopt.data.delimited import csv_delimiter, is_quoted, read_records
from promptopt.data.rows import read_rows


def fields(text: str, *, quoted: bool = True) -> list[list[str]]:
    return [cells for _, cells in read_records(Path("a.csv"), text, csv_delimiter(text), quoted=quoted)]


@pytest.mark.parametrize(
    ("header", "delimiter"),
    [
        ("text", ","),
        ("text,label", ","),
        ("text;label", ";"),
        ("text\tlabel", "\t"),
        ("text|label", "|"),
        ("a;b,c|d", ","),
        ("a b|c;d", ";"),
        ('"text, or not"|label', "|"),
        ('"text;one column"', ","),
    ],
)
def test_the_separator_of_a_csv_is_that_of_its_unquoted_header(header: str, delimiter: str) -> None:
    assert csv_delimiter(f"{header}\na,b;c|d\te\n") == delimiter


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_blanks_between_a_separator_and_a_quoted_field_are_skipped(mark: str) -> None:
    text = f'label{mark} text\n1{mark} "a{mark} b"\n0{mark}  "say ""hi"""\n'
    assert fields(text) == [["label", "text"], ["1", f"a{mark} b"], ["0", 'say "hi"']]


def test_blanks_after_every_separator_of_the_header_are_skipped_in_all_rows() -> None:
    assert fields("label, text, n\n1, a b, 2\n") == [["label", "text", "n"], ["1", "a b", "2"]]


@pytest.mark.parametrize(
    "text",
    [
        "label,text\n1, a\n",  # the blank may belong to the text
        'label,text\n1, "hi" he said\n',  # no quoted field
        'label,text\n1,"he said, ""hi"""\n',  # inside a quoted field
        'label,text\n1,"two lines:\n2, ""hi"", there"\n',
    ],
)
def test_other_blanks_are_kept(text: str) -> None:
    row = fields(text)[1]
    assert row[1].startswith((" a", ' "hi"', "he said, ", "two lines:\n2, "))


def test_quoting_of_tabs_needs_every_quote_to_fit() -> None:
    assert is_quoted('a\t"b"\n')
    assert not is_quoted('a\t"b" c\n')
    assert not is_quoted("a\tb\n")


def test_names_of_columns_have_no_blanks_around_them(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text , label\na,1\n", encoding="utf-8")
    assert read_rows(path)[0].values == {"text": "a", "label": "1"}
