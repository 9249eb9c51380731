"""Tables of evidence: every number with its n and its interval."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from report_samples import ACCURACIES, make_document, make_results, with_classes
from rich.console import Console

from gtl.learngene.artifact import Learngene
from gtl.report.table import (
    claims,
    compared,
    gates,
    instinct_table,
    markdown_starts,
    markdown_table,
    one_line,
    plain,
    printable,
    reading_claims,
    render_starts,
    saliency_table,
    starts_table,
)

ROOT = Path(__file__).resolve().parents[2]


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
    assert "learngene: better than scratch by 16.0 to 16.0 points on these classes (n = 3 seeds)" in lines
    assert (
        "learngene: worse than pretrained by 2.5 to 7.5 points on these classes (n = 3 seeds)" in lines
    )  # it hides nothing
    assert "learngene: better than one-shot by 3.5 to 8.5 points on these classes (n = 3 seeds)" in lines
    level = [{**result, "gain": {"mean": 0.01, "low": -0.0001, "high": 0.02, "n": 3}} for result in make_results()[:2]]
    assert claims(level)[-1].endswith("no difference from scratch shown (+0.0 to +2.0 points, n = 3 seeds)")
    assert all(", 5 images a class: " in line or ", 1 image a class: " in line for line in claims(make_results((1, 5))))


def test_claims_are_corrected_over_all_starts_and_shots() -> None:
    assert len(compared(make_results())) == 5 and len(compared(make_results((1, 5)))) == 10
    narrow = {"mean": 0.024, "low": 0.004, "high": 0.044, "n": 3}  # p = 0.036
    results = [{**result, "gain": result["gain"] and narrow} for result in make_results((1, 5))]
    assert claims(results[:2]) == [
        "pretrained: better than scratch by 0.4 to 4.4 points on these classes (n = 3 seeds)"
    ]
    after = "no difference from scratch shown after correction for 10 comparisons (+0.4 to +4.4 points, n = 3 seeds)"
    assert sum(line.endswith(f": {after}") for line in claims(results)) == 6


def test_accuracies_by_class_let_claims_speak_of_others() -> None:
    results = with_classes(make_results(), sd=0.001)
    (line,) = [line for line in claims(results) if line.startswith("learngene: better than scratch")]
    assert line.startswith(
        "learngene: better than scratch by 16.0 to 16.0 points on these classes (n = 3 seeds), by 15."
    )
    assert line.endswith("on others like them (5 classes)")
    wide = claims(with_classes(make_results(), sd=0.5))
    assert any(line.endswith(" 5 classes)") and "; not shown for others like them (" in line for line in wide)
    assert all("others like them" in line for line in wide)
    assert "over seeds and classes" in reading_claims(results) and "classes" not in reading_claims(make_results())


def test_a_start_without_classes_is_compared_over_seeds_alone() -> None:
    results = with_classes(make_results(), sd=0.001)
    del results[1]["by_class"]
    assert [comparison.data is None for _, comparison in compared(results)] == [True, False, False, True, False]
    one = [{**result, "by_class": [row[:1] for row in result.get("by_class", [])]} for result in results]
    assert all(comparison.data is None for _, comparison in compared(one))


def test_tables_that_are_no_pairs_are_refused() -> None:
    results = with_classes(make_results(), sd=0.001)
    results[0]["by_class"] = [row[:4] for row in results[0]["by_class"]]
    with pytest.raises(ValueError, match="3 seeds x 5 classes and 3 seeds x 4 classes are not paired"):
        claims(results)


def test_gate_r_is_printed_with_every_comparison_that_has_one() -> None:
    (line,) = gates(make_results())
    assert line.startswith("gate R = 0.63 (") and "one-shot has 63 % of the gain of learngene" in line
    assert [text.split(":")[0] for text in gates(make_results((1, 5)))] == ["1 image a class", "5 images a class"]
    assert gates([result for result in make_results() if result["start"] != "one-shot"]) == []
    assert "\n\nGate R = 0.63 (" in markdown_starts(make_document())
    stream = io.StringIO()
    Console(file=stream, width=200).print(render_starts(make_document()))
    assert line in stream.getvalue() and reading_claims(make_results()) in stream.getvalue()


def test_instinct_has_a_row_a_start_and_a_column_a_method() -> None:
    rows = instinct_table(make_document()["instinct"])
    assert rows[0] == {
        "start": "scratch",
        "nearest class mean": "50.0 ± 1.0 %",
        "k nearest neighbours": "40.0 ± 1.0 %",
        "n": "400",
    }
    assert [row["start"] for row in rows] == list(ACCURACIES)
    tasks = instinct_table([*make_document()["instinct"], {**make_document()["instinct"][0], "n_shot": 5}])
    assert tasks[0]["task"] == "5-way 1-shot" and tasks[-1]["task"] == "5-way 5-shot"
    assert tasks[-1]["k nearest neighbours"] == "-", "not measured"


def test_documents_from_before_there_were_two_methods_still_render() -> None:
    old = make_document()
    old["instinct"] = [
        {key: value for key, value in row.items() if key != "method"}
        for row in old["instinct"]
        if row["method"] == "nearest class mean"
    ]
    assert instinct_table(old["instinct"])[0] == {"start": "scratch", "nearest class mean": "50.0 ± 1.0 %", "n": "400"}
    del old["saliency"]
    assert "5-way 1-shot" in markdown_starts(old) and "neighbours" not in markdown_starts(old)
    records = [json.loads(path.read_text()) for path in sorted((ROOT / "benchmarks/records").glob("*cifar-fs*.json"))]
    genes = [Learngene.load(path) for path in sorted((ROOT / "populations").glob("*/learngene.safetensors"))]
    documents = [*records, *(dict(row) for gene in genes for row in gene.evidence)]
    assert len(documents) >= 4
    for document in documents:
        rows = instinct_table(document["instinct"])
        assert len(rows) == len({row["start"] for row in document["instinct"]})
        assert rows[0]["nearest class mean"].endswith("%")
        assert markdown_table(rows) in markdown_starts(document)


def test_agreement_of_maps_is_told_with_what_it_does_not_show() -> None:
    row = saliency_table(make_document()["saliency"])[1]
    assert row == {
        "start": "learngene",
        "same image": "0.35 ± 0.03",
        "another": "0.01 ± 0.03",
        "over scratch": "+0.13 ± 0.04",
        "n": "160",
    }
    text = markdown_starts(make_document())
    assert "| scratch | 0.22 ± 0.04 | 0.10 ± 0.04 | - | 160 |" in text
    assert "not that the object is there" in text and "cut from that very network" in text
    stream = io.StringIO()
    row = {**make_document()["saliency"]["agreement"][1], "start": "knowledge evolution, equal images"}
    Console(file=stream, width=80).print(render_starts({**make_document(), "saliency": {"agreement": [row]}}))
    assert "0.35 ± 0.03" in stream.getvalue() and "+0.13 ± 0.04" in stream.getvalue(), "not broken into lines"
    without = make_document()
    without["saliency"]["agreement"] = []
    assert "Spearman" not in markdown_starts(without)


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
        "0.35 ± 0.03",
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
    assert one_line("\x1b[2Jgone\r\x9b5A\n here ") == "[2Jgone 5A here"
    assert printable({"a\n": ["\x07b", 3, None, {"c": "d\te"}]}) == {"a": ["b", 3, None, {"c": "d e"}]}
    table = markdown_table([{"start": "a|b", "n": "5"}])
    assert table == "| start | n |\n| --- | ---: |\n| a\\|b | 5 |"
    assert markdown_table([]) == ""
    text = markdown_starts(make_document())
    assert "| learngene | 14.6 % | 57.5 ± 5.0 % | +16.0 (+16.0 to +16.0) | 3 | 0.03 | 123,456 |" in text
    assert "over n seeds" in text and "* learngene: better than scratch" in text
