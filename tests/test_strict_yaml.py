"""Strict YAML: what it reads, what it refuses (file, line, column, remedy), and that what it writes reads back."""

from __future__ import annotations

import math
import os
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gtl import strict_yaml
from gtl.errors import ConfigError
from gtl.strict_yaml import dump, load, loads, parse, parse_value


def refused(text: str) -> str:
    """Message that `text` is refused with, in less than a second and little memory."""
    began = time.process_time()
    with pytest.raises(ConfigError) as caught:
        loads(text, "f.yaml")
    assert time.process_time() - began < 1.0
    assert caught.value.__cause__ is None
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("1e-3", 0.001), ("1e3", 1000.0), ("1E-3", 0.001), ("-1.5e+3", -1500.0)),
        *((".5", 0.5), ("1.", 1.0), ("0.0", 0.0)),
        *(("0", 0), ("-7", -7), ("+7", 7), ("9223372036854775808", 2**63)),
        *(("true", True), ("False", False), ("null", None), ("~", None), ("", None)),
        *((word, word) for word in ("yes", "no", "on", "off", "Yes", "y", "12:30:45", "2024-01-01", "1_000")),
        *((word, word) for word in ("0x10", "0o7", "nan", "inf", ".", "e5", "1e", "1.2.3", "=")),
        *(("'010'", "010"), ('"1e-3"', "1e-3"), ("'true'", "true"), ('""', "")),
        *(("[1, 5]", [1, 5]), ("[]", []), ("{}", {}), ("[a, 1e1]", ["a", 10.0])),
    ],
)
def test_scalars(text: str, value: object) -> None:
    found = loads(f"a: {text}", "f.yaml")["a"]
    assert found == value
    assert type(found) is type(value)


def test_special_floats_are_floats_so_that_bounds_can_refuse_them() -> None:
    found = loads("a: .nan\nb: .inf\nc: -.INF\nd: 1e999", "f.yaml")
    assert math.isnan(found["a"])
    assert [found["b"], found["c"], found["d"]] == [math.inf, -math.inf, math.inf]


def test_nested_mappings_comments_block_text_bom_and_crlf() -> None:
    text = "\ufeff# comment\n---\na:\n  b: [1, 2] # more\n  c:\n  - x\n  - {d: 1}\ne: |\n  two\n  lines\n"
    assert loads(text.replace("\n", "\r\n"), "f.yaml") == loads(text, "f.yaml")
    assert loads(text, "f.yaml") == {"a": {"b": [1, 2], "c": ["x", {"d": 1}]}, "e": "two\nlines\n"}


def test_places_of_keys_and_items() -> None:
    places = parse("a:\n  b: 1\n  c: [5, 6]\n", "f.yaml").places
    assert places[("a",)] == "f.yaml:1:1"
    assert places[("a", "b")] == "f.yaml:2:3"
    assert places[("a", "c", 1)] == "f.yaml:3:10"


@pytest.mark.parametrize(
    ("text", "place", "problem", "remedy"),
    [
        ("a: !!python/object/apply:os.system [ls]", "1:4", "tag", "remove it"),
        ("a: !!str x", "1:4", "tag", "remove it"),
        ("a: ! x", "1:4", "tag", "remove it"),
        ("!!map\na: 1", "1:1", "tag", "remove it"),
        ("%TAG ! tag:x,2000:\n---\na: 1", "1:1", "%TAG", "remove"),
        ("a: 1\nb: 2\na: 3", "3:1", "'a' is given twice, first at f.yaml:1:1", "remove one"),
        ("x:\n  b: 1\n  'b': 2", "3:3", "'b' is given twice", "remove one"),
        ("a: &x 1", "1:4", "anchors", "base: other.yaml"),
        ("&x a: 1", "1:1", "anchors", "base: other.yaml"),
        ("a: *x", "1:4", "anchors", "base: other.yaml"),
        ("<<: {a: 1}", "1:1", "merge keys", "base: other.yaml"),
        ("a: 010", "1:4", "'010' starts with a zero", "without leading zeros"),
        ("a: -007.5", "1:4", "'-007.5' starts with a zero", "in quotes"),
        ("a: 1\n---\nb: 2", "2:1", "second document", "one document"),
        ("1: a", "1:1", "key must be text", "quotes"),
        ("null: a", "1:1", "key must be text", "quotes"),
        ("? [a]\n: b", "1:3", "key must be text", "quotes"),
        ("a:\n\tb: 1", "2:1", r"'\t'", "spaces, not tabs"),
        ("a: @x", "1:4", "'@'", "quotes"),
        ("a: b: c", "1:5", "mapping values", "quotes"),
        ("a: 1\nb", "2:2", "expected ':'", "key: value"),
        ("a: [1, 2", "1:9", "flow sequence", "brackets"),
        ("a: 'x", "1:6", "quoted scalar", "quotes"),
        ("a: x\0y", "1:5", r"'\x00'", "remove it"),
        ("a: x\u2028y", "1:5", r"'\u2028'", "remove it"),
        ("a: 1\nb: x\x1b[0m", "2:5", r"'\x1b'", "remove it"),
        ('a: "x\\0"', "1:4", r"'\x00'", "remove it"),
        ('a: "\\ud800"', "1:4", r"'\ud800'", "remove it"),
        ('a: "\\UFFFFFFFF"', "1:7", "too large", "escape"),
        ("%YAML 1." + "9" * 5000 + "\n---\na: 1", "1:9", "limit", "directive"),
        ("a: " + "9" * 5000, "1:4", "5000 digits", "at most 100"),
        ("", "1:1", "empty", "key: value"),
        ("# nothing\n", "1:1", "empty", "key: value"),
        ("- a", "1:1", "a list", "key: value"),
        ("just text", "1:1", "'just text'", "key: value"),
    ],
)
def test_refused_with_file_line_column_and_remedy(text: str, place: str, problem: str, remedy: str) -> None:
    message = refused(text)
    assert message.startswith(f"f.yaml:{place}")
    assert problem in message
    assert remedy in message.rpartition(problem)[2]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: " + "[" * 20_000, "nested deeper than 20"),
        ("[" * 20_000 + "]" * 20_000, "nested deeper than 20"),
        ("{" * 20_000, "key must be text"),
        ("- " * 20_000, "nested deeper than 20"),
        ("? " * 20_000, "key must be text"),
        ("\n".join(" " * i + "a:" for i in range(700)), "nested deeper than 20"),
        ("a: [" + "x," * 100_000 + "]", "more than 10000 entries"),
        ("a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"b{i}: &b{i} [{'*a,' * 9}]\n" for i in range(9)), "anchors"),
    ],
    ids=["brackets", "balanced", "braces", "dashes", "questions", "indents", "long list", "alias bomb"],
)
def test_bombs_are_refused_fast(text: str, problem: str) -> None:
    message = refused(text)
    assert message.startswith("f.yaml:")
    assert problem in message
    tracemalloc.start()  # after the measurement of time, which it would spoil
    try:
        with pytest.raises(ConfigError):
            loads(text, "f.yaml")
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


LONGEST = strict_yaml.MAX_BYTES - 100


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\n" + "\n" * LONGEST,
        "a: " + "x " * (LONGEST // 2),
        "a:\n" + " x\n" * (LONGEST // 3),
        'a: "' + "x\n " * (LONGEST // 3) + '"',
        "a: >\n" + " x\n" * (LONGEST // 3),
    ],
    ids=["empty lines", "words", "lines", "quoted lines", "folded"],
)
def test_the_longest_texts_are_read_within_a_second(text: str) -> None:
    began = time.process_time()
    loads(text, "f.yaml")
    assert time.process_time() - began < 1.0


def test_deep_but_allowed() -> None:
    value = loads("a: " + "[" * 20 + "]" * 20, "f.yaml")["a"]
    for _ in range(19):
        (value,) = value
    assert value == []


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1e-3\n")
    assert load(path) == load(str(path)) == {"a": 0.001}


@pytest.mark.parametrize(
    ("content", "place", "parts"),
    [
        (b"a: 1\nb: \xff", ":2:4", ("0xff", "not UTF-8", "save the file as UTF-8")),
        ("a: 1".encode("utf-16"), ":1:1", ("0xff", "not UTF-8")),
        (b"a: \xed\xa0\x80", ":1:4", ("not UTF-8",)),
        (b"a: 1\n" * 300_000, ":1:1", ("1500000 bytes", "at most 262144")),
    ],
)
def test_bad_bytes(tmp_path: Path, content: bytes, place: str, parts: tuple[str, ...]) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}{place}")
    assert all(part in str(caught.value) for part in parts)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    with path.open("wb") as file:
        file.truncate(100 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError, match=r"f\.yaml:1:1: 104857600 bytes.*at most 262144"):
            load(path)
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


def test_what_is_not_a_readable_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file; check the path"):
        load(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="not a regular file"):
        load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="not a regular file"):
        load(tmp_path / "pipe")
    with pytest.raises(ConfigError, match=r"cannot be read.*check the path"):
        load("a\0b.yaml")
    with pytest.raises(ConfigError, match=r"cannot be read.*too long"):
        load("a" * 5000)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("[1, 5]", [1, 5]), (" x ", "x"), ("'a #b'", "a #b"), ("null", None), ("a,b", "a,b")],
)
def test_values(text: str, value: object) -> None:
    assert parse_value(text, "--set") == value


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ("no value", "write null")),
        ("  ", ("no value", "write null")),
        ("run #3", ("'#3' would be cut off", "quotes")),
        ("#3", ("'#3' would be cut off", "quotes")),
        ("{a: 1}", ("mapping", "one by one")),
        ("a: 1", ("mapping", "one by one")),
        ("[[1]]", ("list in a list", "one by one")),
        ("&x 1", ("anchors",)),
        ("[1", ("brackets",)),
        ("010", ("starts with a zero",)),
        ("1\n---\n2", ("second document",)),
    ],
)
def test_refused_values(text: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_value(text, "--set a.b")
    assert str(caught.value).startswith("--set a.b:")
    assert all(part in str(caught.value) for part in parts)


def test_dump_is_readable() -> None:
    mapping = {
        "a": {"small": 5e-4, "tiny": 1e-12, "large": 1e300, "one": 1.0, "none": None, "yes": True},
        "list": (1, 5),
        "words": ["l1", "yes", "1e-3", "010", "12:30:45", "", "~", "a: b", "# x", "null"],
        "text": "plain words",
        "nested": [{"b": 1}],
    }
    text = dump(mapping)
    assert "  small: 0.0005\n" in text
    assert "  tiny: 1.0e-12\n" in text
    assert "  large: 1.0e+300\n" in text
    assert "list: [1, 5]\n" in text
    assert "text: plain words\n" in text
    assert "'yes': true" in text
    assert loads(text, "f.yaml") == {**mapping, "list": [1, 5]}


def test_dump_writes_shared_values_out() -> None:
    shared = [1, 2]
    assert loads(dump({"a": shared, "b": shared}), "f.yaml") == {"a": [1, 2], "b": [1, 2]}


def test_dump_refuses_other_types() -> None:
    with pytest.raises(ConfigError, match="cannot be written as YAML"):
        dump({"a": Path("x")})


TRICKY = st.sampled_from(["1e3", "1E-3", "010", "yes", ".inf", "1:20", "0x1", "-", "?", "<<", "=", " a ", "a\n", "\t"])
CHARACTERS = st.characters(exclude_categories=["Cs"]).filter(lambda c: not strict_yaml._CONTROL.match(c))
TEXT = st.text(CHARACTERS, max_size=12) | TRICKY
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | TEXT
KEYS = TEXT.filter(lambda key: key != "<<")
VALUES = st.recursive(
    SCALARS, lambda below: st.lists(below, max_size=3) | st.dictionaries(KEYS, below, max_size=3), max_leaves=8
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=4))
def test_what_is_written_reads_back(mapping: dict[str, object]) -> None:
    text = dump(mapping)
    found = loads(text, "f.yaml")
    assert found == mapping
    assert dump(found) == text


@settings(max_examples=200, deadline=None)
@given(st.text("ab:-[]{}&*!#|>'\"%@`,? \n\t0189.e~<=\\x", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = loads(text, "f.yaml")
    except ConfigError as error:
        assert str(error).startswith("f.yaml:")
    else:
        assert loads(dump(found), "f.yaml") == found or "nan" in repr(found)
