from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptopt.parsing.numbers import last_number, numbers

SPELLINGS: dict[float, list[str]] = {
    0.5: [
        "1/2",
        "1 / 2",
        "\u00bd",
        r"\frac{1}{2}",
        r"\dfrac12",
        r"$\frac{1}{2}$",
        ".5",
        "0.50",
        "5e-1",
        r"\boxed{\frac{1}{2}}",
    ],
    1.5: ["1 1/2", "1\u00bd", r"1\frac{1}{2}", "3/2", "1.5"],
    -0.5: ["-1/2", "\u22121/2", "-\u00bd", r"-\frac{1}{2}", r"\frac{-1}{2}"],
    -5: ["-5", "\u22125", "\u20135", "-$5", "$-5", "x = -5", "Answer:\u22125."],
    1500: [
        "1.5e3",
        "1.5E+3",
        "1.5\u00d710^3",
        r"1.5 \times 10^{3}",
        "1.5 x 10**3",
        "1.5\u00b710\u00b3",
        "1,500",
        "1'500",
    ],
    1000: ["10^{3}", "10^3", "10\u00b3", "1,000/1", "1_000"],
    1024: ["2^10", "2^{10}", "2**10"],
    12345: [
        "12\u00a0345",
        "12\u202f345",
        "12\u2009345",
        r"\boxed{12{,}345}",
        r"12\,345",
        "12,345.00",
        "\uff11\uff12\uff13\uff14\uff15",
    ],
    1234567.5: ["1\u202f234\u202f567.5", r"\$1,234,567.50", "**$1,234,567.50**"],
    50: ["50%", r"50\%", "50 %", "50."],
    2024: ["12/25/2024", "from 2019-2024", "2019\u20132024"],
    3: ["10-3", "(10)-3", "COVID-3", "12:3", "(4,3)"],
    2: ["2", "x^2", "5 m\u00b2 in 2"],
}


@pytest.mark.parametrize(("number", "text"), [(number, text) for number, texts in SPELLINGS.items() for text in texts])
def test_a_number_is_read_however_it_is_written(number: float, text: str) -> None:
    assert last_number(text) == pytest.approx(number, rel=1e-12)
    assert last_number(f"It was 7, now it is {text}\n") == pytest.approx(number, rel=1e-12)


@pytest.mark.parametrize(
    "text", ["1e999", "-1e999", "10^400", "10^" + "9" * 30, "9" * 5000, "1/0", "0^-1", "Infinity", "nan", "\ud800"]
)
def test_what_is_not_finite_is_no_number(text: str) -> None:
    assert last_number(text) is None


def test_the_numbers_of_a_text_come_in_order() -> None:
    assert numbers("2 of 3/4 and -1") == [2, 0.75, -1]
    assert numbers("2\n1/2") == [2, 0.5]


@given(st.text() | st.text(alphabet="0123456789.,'-/^e*{} \u00bd\u00a0\\frac", max_size=60))
def test_any_text_can_be_read(text: str) -> None:
    last_number(text)


@pytest.mark.parametrize("piece", ["1", "1,111", "1 1 ", "1/", "1 / ", "10^", "1e1", r"\frac{1}", ".1", "-"])
def test_a_very_long_reply_is_read(piece: str) -> None:
    numbers(piece * (350_000 // len(piece)))
