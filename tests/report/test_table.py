"""Tables of evidence: every number with its n and its interval."""

from __future__ import annotations

import io

from report_samples import make_document, make_results
from rich.console import Console

from gtl.report.table import claims, instinct_table, markdown_starts, markdown_table, plain, render_starts, starts_table


def test_rows_carry_the_numbers() -> None:
    document = make_document()
    rows = {row["start"]: row for row in starts_table(document["descendants"], document["starts"])}
    assert rows["learngene"] == {
        "start": "learngene",
        "inherited": "14.6 %",
        "accuracy": "57.5 ± 5.0 %",  # 2 points apart: t(2) = 4.303, times 2 / sqrt(3)
        "gain, points": "+16.0 (+16.0 to +16.0)",
        "n": "3",
        "rate": "0.03",
        "images": "123,456",
    }
    assert rows["scratch"]["gain, points"] == "-" and rows["scratch"]["images"] == "0"
    assert rows["one-shot"]["gain, points"] == "+10.0 (+7.5 to +12.5)"


def test_what_is_not_known_is_a_dash_and_several_shots_a_column() -> None:
    (first, *_) = starts_table(make_results((1, 5)))
    assert first["inherited"] == first["images"] == "-" and first["shots"] == "1"


def test_claims_say_what_the_intervals_allow() -> None:
    lines = claims(make_results())
    assert "learngene: better than scratch by 16.0 to 16.0 points, n = 3" in lines
    assert "learngene: no difference from pretrained shown (-7.5 to -2.5 points), n = 3" not in lines
    assert "learngene: worse than pretrained by 2.5 to 7.5 points, n = 3" in lines  # it hides nothing
    assert "learngene: better than one-shot by 3.5 to 8.5 points, n = 3" in lines
    level = [{**result, "gain": {"mean": 0.0, "low": -0.0001, "high": 0.02, "n": 3}} for result in make_results()[:2]]
    assert claims(level)[-1].endswith("no difference from scratch shown (+0.0 to +2.0 points), n = 3")
    assert all(", 5 images a class: " in line or ", 1 image a class: " in line for line in claims(make_results((1, 5))))


def test_instinct_says_its_episodes() -> None:
    row = instinct_table(make_document()["instinct"])[0]
    assert row == {"start": "scratch", "task": "5-way 1-shot", "accuracy": "50.0 ± 1.0 %", "n": "400"}


def test_terminal_table_fits_80_columns() -> None:
    stream = io.StringIO()
    Console(file=stream, width=80).print(render_starts(make_document()))
    printed = stream.getvalue()
    for text in (
        "57.5 ± 5.0 %",
        "+16.0 (+16.0 to +16.0)",
        "123,456",
        "95 % interval",
        "5-way 1-shot",
        "20 images a class",
    ):
        assert text in printed
    assert "…" not in printed and max(map(len, printed.splitlines())) <= 80


def test_a_narrow_terminal_breaks_lines_but_keeps_the_numbers() -> None:
    stream = io.StringIO()
    Console(file=stream, width=56).print(render_starts(make_document((1, 20))))
    assert "123,456" in stream.getvalue() and "pretrained" in stream.getvalue()


def test_markdown_takes_text_literally() -> None:
    assert plain("a|b\n\x1b[1m<script>`_*") == r"a\|b \[1m\<script\>\`\_\*"
    table = markdown_table([{"start": "a|b", "n": "5"}])
    assert table == "| start | n |\n| --- | ---: |\n| a\\|b | 5 |"
    assert markdown_table([]) == ""
    text = markdown_starts(make_document())
    assert "| learngene | 14.6 % | 57.5 ± 5.0 % | +16.0 (+16.0 to +16.0) | 3 | 0.03 | 123,456 |" in text
    assert "over n seeds" in text and "* learngene: better than scratch" in text
