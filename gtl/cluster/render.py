"""From values to files: templates, quoting for the shell and for YAML, and the folder that they are written to."""

from __future__ import annotations

import json
import re
import shlex
import string
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from gtl import storage
from gtl.config import Config
from gtl.errors import ConfigError, StorageError

START, CONFIG = "start.sh", "config.yaml"
LOG_BYTES = 64 << 20  # of one of Ray's log files, before it is rotated; Ray's own default is 512 MiB
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+=,-]{0,199}")


class _Template(string.Template):
    delimiter = "@@"  # a dollar belongs to the shell, a single @ to "$@"


def fill(template: str, **values: object) -> str:
    """Text of a file in ``templates/`` with every ``@@{name}`` replaced.

    Raises:
        KeyError: a value is missing.
    """
    text = resources.files("gtl.cluster").joinpath("templates", template).read_text("utf-8")
    return _Template(text).substitute({name: str(value) for name, value in values.items()})


def check_line(option: str, text: str) -> str:
    """The text, if it is one line without control characters.

    Raises:
        ConfigError: it is not, or it is empty.
    """
    if not text.strip() or not text.isprintable():
        raise ConfigError(f"{option} {text[:80]!r}: must be one line of printable text, and not empty")
    return text


def check_path(option: str, text: str) -> str:
    """The text, if it can stand as a path in any command.

    Raises:
        ConfigError: control characters, or a beginning that a command or a shell takes for something else.
    """
    check_line(option, text)
    if text[0] in "-~":
        raise ConfigError(
            f"{option} {text[:80]!r}: must not begin with {text[0]!r}; write ./{text[:20]} or the whole path"
        )
    return text


def check_word(option: str, text: str) -> str:
    """The text, if it needs no quoting anywhere.

    Raises:
        ConfigError: it has other characters than letters, digits and ``. _ : / @ + = , -``, or begins with a mark.
    """
    if not _WORD.fullmatch(text):
        raise ConfigError(
            f"{option} {text[:80]!r}: only letters, digits and . _ : / @ + = , - (first a letter or digit)"
        )
    return text


def quoted(text: str) -> str:
    """A YAML scalar that reads back as exactly this text: JSON's quoting, with what YAML cannot hold as escapes."""
    return "".join(
        char if char.isprintable() else f"\\U{ord(char):08x}" for char in json.dumps(text, ensure_ascii=False)
    )


def block(text: str, indent: int) -> str:
    """A YAML scalar for a file's text: a literal block, or quoted where a block would not read back the same."""
    lines = text.split("\n")
    literal = len(lines) > 1 and lines[-1] == "" and lines[-2] != "" and lines[0][:1] not in ("", " ")
    if not literal or not all(line.isprintable() for line in lines):
        return quoted(text)
    return "|\n" + "\n".join(" " * indent + line if line else "" for line in lines[:-1])


def tree(value: object, indent: int = 0) -> str:
    """YAML lines of nested mappings and lists of plain values. Texts are quoted; keys are ours, and plain."""
    pad = " " * indent
    if isinstance(value, Mapping) and value:
        return "\n".join(f"{pad}{key}:{_below(child, indent)}" for key, child in value.items())
    if isinstance(value, list) and value:
        return "\n".join(f"{pad}- {tree(child, indent + 2).lstrip()}" for child in value)
    return pad + (quoted(value) if isinstance(value, str) else json.dumps(value))


def _below(value: object, indent: int) -> str:
    nested = bool(value) and isinstance(value, Mapping | list)
    return f"\n{tree(value, indent + 2)}" if nested else f" {tree(value)}"


def start_script(run: str) -> str:
    """``start.sh``: go on with the run if there is one, otherwise start it.

    Raises:
        ConfigError: a path that cannot be used in a command.
    """
    return fill(START, run=shlex.quote(check_path("--run", run)))


def write_folder(folder: Path, files: Mapping[str, str]) -> None:
    """Write the files into a new or empty folder, all or none.

    Raises:
        StorageError: the folder is not empty, or the disk refused.
    """
    with storage.guard(folder, sum(map(len, files.values()))):
        taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    try:
        if not taken:
            storage.publish_folder(folder, {name: text.encode() for name, text in files.items()})
    except FileExistsError:
        taken = True
    if taken:
        raise StorageError(f"{folder} exists and is not an empty folder; give a new one with --out")


def notes(config: Config) -> list[str]:
    """What a user should know about paths in a configuration that is about to run elsewhere."""
    paths = {"data.root": config.data.root, "founders.checkpoint": config.founders.checkpoint}
    return [
        f"{key} = {path}: is looked up on the cluster{'' if Path(path).is_absolute() else ', in the folder of start.sh'}"
        for key, path in paths.items()
        if path is not None
    ]
