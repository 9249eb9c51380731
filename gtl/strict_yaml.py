"""Strict YAML: the part of the language that configurations need, without its surprises. Alone in importing yaml.

Plain scalars follow YAML 1.2: ``1e-3`` and ``1E3`` are floats; ``yes``, ``12:30:45``, ``1_000``, ``0x10`` and dates are
text; ``010`` is refused. Also refused: tags, anchors and aliases, duplicate keys, keys that are not text, more than one
document, control characters, and anything larger, longer or deeper than the limits below. Nothing is constructed from
a file but dict, list, str, int, float, bool and None, so reading one runs no code.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NoReturn

import yaml

from gtl import storage
from gtl.errors import ConfigError

MAX_BYTES = 1 << 18  # reading takes up to a microsecond a byte
MAX_DEPTH = 20
MAX_NODES = 10_000
MAX_DIGITS = 100

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """What a file says, and where it says it.

    Attributes:
        values: the mapping at the top.
        places: path of every key and list item -> ``file:line:column``.
    """

    values: dict[str, Any]
    places: dict[KeyPath, str]


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Mapping in the file at `path`.

    Raises:
        ConfigError: not readable, or not strict YAML; names file, line, column and the remedy.
    """
    return read(path).values


def loads(text: str, name: str) -> dict[str, Any]:
    """Mapping in `text`; `name` stands for the file in messages.

    Raises:
        ConfigError: not strict YAML.
    """
    return parse(text, name).values


def read(path: str | os.PathLike[str]) -> Document:
    """Like `load`, with the place of every key."""
    name = os.fspath(path)
    try:
        stream, size = storage.open_regular(path)
        with stream:
            if size > MAX_BYTES:
                raise _too_large(name, size)
            raw = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{name}: no such file; check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise ConfigError(f"{name!r}: cannot be read ({reason}); check the path and its permissions") from None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8")
        raise ConfigError(
            f"{name}:{_position(before)}: byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from None
    return parse(text, name)


def parse(text: str, name: str) -> Document:
    """Like `loads`, with the place of every key."""
    builder = _Builder(text, name)
    values = builder.document()
    if not isinstance(values, dict):
        raise ConfigError(f"{name}:1:1: the top level is {_kind(values)}; it must be a mapping of `key: value` lines")
    return Document(values, builder.places)


def parse_value(text: str, name: str) -> Any:
    """One scalar or a list of scalars on one line, as on the right of ``--set key=value``.

    Raises:
        ConfigError: anything else, or text that YAML would cut off as a comment.
    """
    builder = _Builder(text, name)
    if not text.strip():
        raise ConfigError(f"{name}: there is no value; write null for none or '' for empty text")
    value = builder.document()
    if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict | list) for item in value)):
        raise ConfigError(f"{name}: a mapping or a list in a list cannot be given here; set its keys one by one")
    if builder.end < len(text.rstrip()):
        raise ConfigError(f"{name}: {text[builder.end :].strip()[:80]!r} would be cut off; put the value in quotes")
    return value


def dump(mapping: Mapping[str, Any]) -> str:
    """Canonical YAML of nested mappings, lists and scalars: keys in the order given, one a line, lists on one line.

    ``loads(dump(mapping), name)`` gives the same values; numbers keep their type.

    Raises:
        ConfigError: a value of any other type.
    """
    try:
        text = yaml.dump(dict(mapping), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 30)
    except yaml.representer.RepresenterError as error:
        raise ConfigError(f"{error.args[-1]!r} cannot be written as YAML; give text, numbers or lists") from None
    return str(text)


def _too_large(name: str, size: int) -> ConfigError:
    return ConfigError(f"{name}:1:1: {size} bytes; a configuration has at most {MAX_BYTES}. Is it the right file?")


def _position(before: str) -> str:
    """``line:column`` (from 1) of the character that follows `before`."""
    return f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


def _kind(value: object) -> str:
    if value is None:
        return "empty"
    return "a list" if isinstance(value, list) else f"a single value ({str(value)[:40]!r})"


# ---- plain scalars -------------------------------------------------------------------------------------------------

_EXPONENT = r"[eE][-+]?[0-9]+"
_PLAIN: tuple[tuple[str, re.Pattern[str], Callable[[str], Any]], ...] = (
    ("null", re.compile(r"(?:~|null|Null|NULL|)\Z"), lambda text: None),
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), lambda text: text in ("true", "True", "TRUE")),
    ("int", re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z"), int),
    (
        "float",
        re.compile(rf"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*(?:{_EXPONENT})?|{_EXPONENT}))\Z"),
        float,
    ),
    (
        "float",
        re.compile(r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"),
        lambda text: float(text.replace(".", "")),
    ),
    ("leading zero", re.compile(rf"[-+]?0[0-9]+(?:\.[0-9]*)?(?:{_EXPONENT})?\Z"), str),
)


def _plain(text: str) -> tuple[str, Callable[[str], Any]]:
    """Kind of an unquoted scalar, and how it is converted."""
    for kind, pattern, convert in _PLAIN:
        if pattern.match(text):
            return kind, convert
    return "str", str


# ---- reading -------------------------------------------------------------------------------------------------------

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
_CHECK = "check quotes, brackets and indentation"
_REMEDIES = (
    ("'\\t'", "indent with spaces, not tabs"),
    ("cannot start any token", "put text that starts with this character in quotes"),
    ("mapping values are not allowed", "put text that contains ': ' in quotes, or correct the indentation"),
    ("could not find expected ':'", "write `key: value`, with a space after the colon"),
)


def _index(mark: Any) -> int:
    return int(mark.index)


class _Builder:
    """Builds one document from PyYAML's events, checking each before it is stored."""

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self.places: dict[KeyPath, str] = {}
        self.end = 0  # index behind the value at the top
        self._nodes = 0
        text = text.removeprefix("\ufeff")
        if len(text) > MAX_BYTES:
            raise _too_large(name, len(text))
        bad = _CONTROL.search(text)
        if bad:
            place = _position(text[: bad.start()])
            raise ConfigError(f"{name}:{place}: control character {bad[0]!r} in the text; remove it")
        self._loader = yaml.SafeLoader(text)

    def document(self) -> Any:
        """The only document's value."""
        self._next(yaml.StreamStartEvent)
        event = self._next()
        if isinstance(event, yaml.StreamEndEvent):
            return None
        if getattr(event, "tags", None):
            self._fail(event.start_mark, "%TAG is not supported", "remove the line")
        first = self._next()
        value = self._value(first, (), 0)
        self._next(yaml.DocumentEndEvent)
        event = self._next()
        if not isinstance(event, yaml.StreamEndEvent):
            self._fail(event.start_mark, "a second document starts here", "keep one document a file")
        return value

    def _value(self, event: yaml.Event, path: KeyPath, depth: int) -> Any:
        if path:
            self.places.setdefault(path, self._place(event.start_mark))
        if depth > MAX_DEPTH:
            self._fail(event.start_mark, f"nested deeper than {MAX_DEPTH} levels", "flatten it")
        if isinstance(event, yaml.MappingStartEvent):
            value: Any = self._mapping(path, depth)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = []
            while not isinstance(event := self._next(), yaml.SequenceEndEvent):
                value.append(self._value(event, (*path, len(value)), depth + 1))
            self.end = _index(event.end_mark)
        else:
            value = self._scalar(event)
        return value

    def _mapping(self, path: KeyPath, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key = self._key(event)
            place = self._place(event.start_mark)
            if key in values:
                first = self.places[(*path, key)]
                self._fail(
                    event.start_mark, f"the key {key[:80]!r} is given twice, first at {first}", "remove one of them"
                )
            self.places[(*path, key)] = place
            values[key] = self._value(self._next(), (*path, key), depth + 1)
        self.end = _index(event.end_mark)
        return values

    def _key(self, event: yaml.Event) -> str:
        key = self._scalar(event) if isinstance(event, yaml.ScalarEvent) else None
        if key == "<<":
            self._fail(event.start_mark, "merge keys (<<) are not supported", "use `base: other.yaml`")
        if not isinstance(key, str):
            self._fail(event.start_mark, "a key must be text", "put it in quotes or correct it")
        return key

    def _scalar(self, event: yaml.Event) -> Any:
        assert isinstance(event, yaml.ScalarEvent)
        text = str(event.value)
        self.end = _index(event.end_mark)
        if bad := _CONTROL.search(text):
            self._fail(event.start_mark, f"control character {bad[0]!r} in {text[:40]!r}", "remove it")
        if event.style is not None:
            return text
        kind, convert = _plain(text)
        if kind == "leading zero":
            remedy = "write it without leading zeros, or in quotes if it is text"
            self._fail(event.start_mark, f"{text[:40]!r} starts with a zero, which some readers take as octal", remedy)
        if kind == "int" and len(text) > MAX_DIGITS:
            self._fail(event.start_mark, f"a number of {len(text)} digits", f"write at most {MAX_DIGITS}")
        return convert(text)

    def _next(self, *expected: type[yaml.Event]) -> yaml.Event:
        """The next event; never one with a tag, an anchor or an alias."""
        try:
            event: yaml.Event = self._loader.get_event()  # type: ignore[no-untyped-call]
        except yaml.MarkedYAMLError as error:
            problem = " ".join(filter(None, (error.context, error.problem)))
            remedy = next((text for part, text in _REMEDIES if part in problem), _CHECK)
            self._fail(error.problem_mark or error.context_mark or self._loader.get_mark(), problem, remedy)
        except (yaml.YAMLError, ValueError, OverflowError) as error:  # PyYAML lets "\UFFFFFFFF" through to chr()
            self._fail(self._loader.get_mark(), str(error), "correct the escape or the directive")
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self._fail(event.start_mark, f"more than {MAX_NODES} entries", "is it the right file?")
        tag, anchor = getattr(event, "tag", None), getattr(event, "anchor", None)
        if tag is not None:
            self._fail(event.start_mark, f"the tag {str(tag)[:40]!r} is not supported", "remove it")
        if anchor is not None:
            remedy = "write the value out, or share settings by `base: other.yaml`"
            self._fail(event.start_mark, f"anchors and aliases ({str(anchor)[:40]!r}) are not supported", remedy)
        assert not expected or isinstance(event, expected)
        return event

    def _place(self, mark: Any) -> str:
        return f"{self.name}:{mark.line + 1}:{mark.column + 1}"

    def _fail(self, mark: Any, problem: str, remedy: str) -> NoReturn:
        raise ConfigError(f"{self._place(mark)}: {problem}; {remedy}") from None


# ---- writing -------------------------------------------------------------------------------------------------------


class _Dumper(yaml.SafeDumper):
    """Quotes every text that this module or a YAML 1.1 reader would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_float(dumper: _Dumper, value: float) -> yaml.ScalarNode:
    text = repr(value).replace("inf", ".inf").replace("nan", ".nan")
    if "e" in text:
        small = 1e-9 <= abs(value) < 1.0  # 0.0005 for 5e-4; otherwise 5.0e-10, a float for YAML 1.1 readers too
        text = f"{Decimal(text):f}" if small else text.replace("e", "e" if "." in text else ".0e")
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


def _represent_list(dumper: _Dumper, values: list[Any] | tuple[Any, ...]) -> yaml.SequenceNode:
    flow = not any(isinstance(value, Mapping | list | tuple) for value in values)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=flow)


_Dumper.yaml_implicit_resolvers = {
    **yaml.SafeDumper.yaml_implicit_resolvers,
    None: [(f"tag:yaml.org,2002:{kind}", pattern) for kind, pattern, _ in _PLAIN],
}
_Dumper.add_representer(float, _represent_float)
_Dumper.add_representer(list, _represent_list)
_Dumper.add_representer(tuple, _represent_list)
