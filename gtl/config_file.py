"""From a YAML file to a Config and back: `base:`, ``--set``, validation, canonical dump, hash, JSON Schema."""

from __future__ import annotations

import hashlib
import json
import os
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gtl import strict_yaml
from gtl.config import Config
from gtl.errors import ConfigError
from gtl.strict_yaml import Document, KeyPath

CONFIG_FOLDER = "configs"
CHECKOUT = Path(__file__).resolve().parents[1]
SHIPPED = (  # of the checkout that gtl runs from, or where pip puts data
    CHECKOUT if (CHECKOUT / "setup.cfg").is_file() else Path(sysconfig.get_path("data"), "share", "gtl")
) / CONFIG_FOLDER
MAX_BASES = 8
MAX_PROBLEMS = 100  # shown at once; looking for what was meant takes a millisecond each
# What a run is called and where its images lie: neither changes a result (the class lists have a hash of their own).
# What cannot change a result.
NOT_HASHED: Any = {
    "name": True,
    "description": True,
    "data": {"root"},
    "founders": {"reuse"},
    "cluster": True,
    "transfer": True,
}
# Keys that came later: at these values runs are what they were before, and so is the hash.
ADDED = {("critic", "depths"): None}


def load_config(path_or_name: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config:
    """Config in a YAML file, with its bases and these overrides.

    Args:
        path_or_name: a file, or the bare name of one in ``configs/`` (``"glyphs"``: ``configs/glyphs.yaml``), here or else
            of those that come with gtl.
        overrides: ``"a.b=value"``, the value in strict YAML (``[1, 5]`` is a list). Later ones win.

    Raises:
        ConfigError: every problem at once, each with file, line, key, value and what is allowed.
    """
    path = _find(os.fspath(path_or_name))
    document = _with_bases(path, path.parent.resolve(), ())
    document = _with_overrides(document, overrides)
    return _validated(document, str(path))


def overridden(config: Config, overrides: Sequence[str]) -> Config:
    """The configuration with overrides, as `load_config` has them.

    Raises:
        ConfigError: every problem at once.
    """
    return _validated(_with_overrides(Document(config.model_dump(mode="json"), {}), overrides), "--set")


def parse_config(text: str, name: str) -> Config:
    """Config in YAML text that stands alone (no `base`); `name` stands for the file in messages.

    Raises:
        ConfigError: every problem at once.
    """
    return _validated(strict_yaml.parse(text, name), name)


def recorded_config(values: Mapping[str, Any], name: str, overrides: Sequence[str] = ()) -> Config:
    """Config from plain values, as a learngene records them; `name` stands for the file in messages.

    Raises:
        ConfigError: every problem at once.
    """
    return _validated(_with_overrides(Document(dict(values), {}), overrides), name)


def changed_config(config: Config, **sections: Mapping[str, Any]) -> Config:
    """The configuration with some keys of some sections changed, checked as a whole.

    Raises:
        ConfigError: a value that is not allowed; names the key.
    """
    values = config.model_dump()
    for section, changes in sections.items():
        values[section] = {**values[section], **changes}
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{key}: {first['msg']}, got {_show(first['input'])}") from None


def dump_config(config: Config) -> str:
    """Canonical YAML with every value written out; loads back to an equal Config."""
    return strict_yaml.dump(config.model_dump(mode="json"))


def config_hash(config: Config) -> str:
    """sha256 (hex) of the canonical JSON of everything that can change a result.

    All values count, defaults written out, except `name`, `description`, `data.root`, `founders.reuse`, `cluster`, and
    `transfer`, on which no gene depends. `compute` counts: results are reproducible for a given choice of it. Equal
    configs have equal hashes, however their files were written, and a run that was begun before there was a key of ADDED
    has the hash that it had.
    """
    values = config.model_dump(mode="json", exclude=NOT_HASHED)
    for (section, key), before in ADDED.items():
        if values[section][key] == before:
            del values[section][key]
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a configuration file."""
    found = Config.model_json_schema()
    base = {"type": "string", "description": "another file in the same folder or below it; this file's keys win"}
    found["properties"] = {"base": base, **found["properties"]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


# ---- files and overrides -------------------------------------------------------------------------------------------


def _find(given: str) -> Path:
    path = Path(given)
    if not given.isprintable():
        raise ConfigError(f"{given[:80]!r} cannot be a file; give the path of a YAML file")
    folders = Path(CONFIG_FOLDER), SHIPPED
    try:
        if path.name == given and not path.is_file():
            for folder in folders:
                if (named := folder / f"{given}.yaml").exists():
                    return named
        if path.exists():
            return path
        there = sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})
    except OSError as error:
        raise ConfigError(f"{given[:80]}: {error.strerror}; give the path of a YAML file") from None
    guess = get_close_matches(path.stem, there, n=1)
    remedy = f"did you mean {guess[0]}?" if guess else f"names that are known: {', '.join(there) or 'none'}"
    raise ConfigError(f"{given}: no such configuration; {remedy}")


def _with_bases(path: Path, root: Path, below: tuple[Path, ...]) -> Document:
    """The file's own keys over those of its base, and so on down."""
    document = strict_yaml.read(path)
    if "base" not in document.values:
        return document
    base = document.values.pop("base")
    place = document.places[("base",)]
    if not isinstance(base, str) or not base or base.startswith("~") or Path(base).is_absolute():
        raise ConfigError(f"{place}: base = {_show(base)}: give the path of a YAML file, relative to this one")
    try:
        target = (path.parent / base).resolve()
    except (OSError, RuntimeError):  # a loop of symlinks
        raise ConfigError(f"{place}: base = {_show(base)}: cannot be followed; give a regular file") from None
    if not target.is_relative_to(root):
        raise ConfigError(f"{place}: base = {_show(base)}: leads out of {root}; a base lies in that folder or below it")
    chain = (*below, path.resolve())
    if target in chain:
        raise ConfigError(f"{place}: base = {_show(base)}: this file is already based on it; break the circle")
    if len(chain) > MAX_BASES:
        raise ConfigError(f"{place}: base = {_show(base)}: more than {MAX_BASES} files deep; merge some of them")
    if not target.is_file():
        raise ConfigError(f"{place}: base = {_show(base)}: no such file; it is looked up beside {path}")
    lower = _with_bases(path.parent / base, root, chain)
    return Document(_merged(lower.values, document.values), {**lower.places, **document.places})


def _merged(low: dict[str, Any], high: dict[str, Any]) -> dict[str, Any]:
    result = dict(low)
    for key, value in high.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def _with_overrides(document: Document, overrides: Sequence[str]) -> Document:
    values, places = document.values, dict(document.places)
    for text in overrides:
        place = f"--set {_brief(text)!r}"
        dotted, equals, right = text.partition("=")
        path = tuple(dotted.strip().split("."))
        if not equals:
            raise ConfigError(f"{place}: write key=value, for example evolution.generations=20")
        node = _schema_at(path)
        if node is None:
            raise ConfigError(f"{place}: unknown key {_brief(dotted)!r}{_closest(path)}")
        if "properties" in node:
            raise ConfigError(
                f"{place}: {dotted} is a section; set its keys one by one: {', '.join(node['properties'])}"
            )
        value = strict_yaml.parse_value(right, place)
        for part in reversed(path):
            value = {part: value}
        values = _merged(values, value)
        places = {known: where for known, where in places.items() if known[: len(path)] != path} | {path: place}
    return Document(values, places)


# ---- validation ----------------------------------------------------------------------------------------------------


def _validated(document: Document, name: str) -> Config:
    try:  # through JSON: there, strict means lists for tuples and whole numbers for floats, and nothing else
        return Config.model_validate_json(json.dumps(document.values))
    except ValidationError as error:
        errors = error.errors(include_url=False)
    above = {found["loc"][:length] for found in errors for length in range(1, len(found["loc"]))}
    wrong = [found for found in errors if found["loc"] not in above]  # no "too short" where an item was wrong
    problems = [_problem(dict(found), document, name) for found in wrong[:MAX_PROBLEMS]]
    if len(problems) == 1:
        raise ConfigError(problems[0])
    more = [f"and {len(wrong) - MAX_PROBLEMS} more"] if len(wrong) > MAX_PROBLEMS else []
    raise ConfigError("\n  ".join([f"{name}: {len(wrong)} problems", *problems, *more]))


def _problem(found: dict[str, Any], document: Document, name: str) -> str:
    path: KeyPath = found["loc"]
    place = next((where for where in _upwards(path, document.places)), name)
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
    if found["type"] == "extra_forbidden":
        return f"{place}: unknown key {_brief(key)!r}{_closest(path)}"
    if found["type"] == "value_error":
        return f"{place}: {found['ctx']['error']}"
    node = _schema_at(path) or {}
    if found["type"] == "missing":
        return f"{place}: {key} is missing; it must be {_allowed(node)}"
    return f"{place}: {key} = {_show(found['input'])}: must be {_allowed(node)}{_hint(found['input'], node)}"


def _upwards(path: KeyPath, places: Mapping[KeyPath, str]) -> Iterator[str]:
    """The places of the key, of its section, and so on up; only of those that a file or an override names."""
    for length in range(len(path), 0, -1):
        if path[:length] in places:
            yield places[path[:length]]


def _show(value: object) -> str:
    return _brief(json.dumps(value, ensure_ascii=True))


def _brief(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


_SCHEMA = Config.model_json_schema()


def _schema_at(path: KeyPath) -> dict[str, Any] | None:
    """JSON Schema of a dotted key; None where there is no such key."""
    node = _resolved(_SCHEMA)
    for part in path:
        if isinstance(part, int):
            items = node.get("prefixItems", [])
            node = _resolved(items[part] if part < len(items) else node.get("items", {}))
        elif part in node.get("properties", {}):
            node = _resolved(node["properties"][part])
        else:
            return None
    return node


def _resolved(node: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in node:
        node = {**_SCHEMA["$defs"][node["$ref"].rpartition("/")[2]], **node}
    return node


def _dotted(node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, below in node.get("properties", {}).items():
        yield prefix + key
        yield from _dotted(_resolved(below), f"{prefix}{key}.")


def known_keys() -> tuple[str, ...]:
    """Every section and key of a configuration, dotted."""
    return tuple(_dotted(_SCHEMA))


def _closest(path: KeyPath) -> str:
    """What to write instead of an unknown key: a sibling, the same key elsewhere, or the list of what there is."""
    words = [str(part) for part in path]
    section = _schema_at(path[:-1])
    siblings = list(section.get("properties", {})) if section else []
    prefix = "".join(f"{word}." for word in words[:-1])
    if guess := get_close_matches(words[-1], siblings, n=1):
        return f"; did you mean {prefix}{guess[0]}?"
    guess = [key for key in known_keys() if key.rpartition(".")[2] == words[-1]]
    if not guess and not siblings:
        guess = get_close_matches(
            ".".join(words), [key for key in known_keys() if key.count(".") == len(words) - 1], n=1
        )
    if guess:
        return f"; did you mean {' or '.join(guess[:3])}?"
    return f"; known keys there: {', '.join(siblings or _SCHEMA['properties'])}"


_BOUNDS = (
    ("minimum", "at least {}"),
    ("exclusiveMinimum", "above {}"),
    ("maximum", "at most {}"),
    ("exclusiveMaximum", "below {}"),
    ("minLength", "at least {} characters"),
    ("maxLength", "at most {} characters"),
    ("pattern", "matching {}"),
)


def _allowed(node: dict[str, Any]) -> str:
    """What a key takes, in words, from its JSON Schema."""
    about = f" ({node['description']})" if "description" in node and "properties" not in node else ""
    return _type_words(node) + about


def _type_words(node: dict[str, Any]) -> str:
    node = _resolved(node)
    if "anyOf" in node:
        return ", or ".join(_type_words(choice) for choice in node["anyOf"])
    if "enum" in node:
        return f"one of {', '.join(map(str, node['enum']))}"
    if "const" in node:
        return str(node["const"])
    kind = node.get("type")
    if kind == "object":
        return f"a section with the keys {', '.join(node.get('properties', {}))}"
    if kind == "array":
        if "prefixItems" in node:
            return f"a list of {len(node['prefixItems'])}: {'; '.join(map(_type_words, node['prefixItems']))}"
        empty = "" if node.get("minItems", 0) == 0 else ", not empty"
        return f"a list{empty}, each {_type_words(node.get('items', {}))}"
    words = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "text"}
    bounds = [text.format(node[key]) for key, text in _BOUNDS if key in node]
    return ", ".join(filter(None, [words.get(str(kind), str(kind)), " and ".join(bounds)]))


def _hint(value: object, node: dict[str, Any]) -> str:
    choices = (node, *node.get("anyOf", ()))
    kinds = {choice.get("type") for choice in choices}
    if "boolean" in kinds and value in ("yes", "no", "on", "off"):
        return f"; write {'true' if value in ('yes', 'on') else 'false'}"
    if "integer" in kinds and isinstance(value, float) and value.is_integer():
        return f"; write {int(value)}" if all(value <= choice.get("maximum", value) for choice in choices) else ""
    if kinds & {"integer", "number"} and isinstance(value, str):
        try:
            number = strict_yaml.parse_value(value, "")
        except ConfigError:
            return ""
        if isinstance(number, int | float) and not isinstance(number, bool):
            return "; remove the quotes"
    if "array" in kinds and not isinstance(value, list | dict):
        return "; write it in brackets: [...]"
    if "object" in kinds and value is None:
        return "; give it keys or leave it out"
    return ""
