"""The few exception types of gtl.

Every message names the value that was wrong and the remedy. `exit_code` is what the command line returns for it.
"""


class GtlError(Exception):
    """Base of every error that gtl raises on purpose."""

    exit_code = 1


class ConfigError(GtlError):
    """A configuration that cannot be run: unknown key, wrong type, impossible combination."""

    exit_code = 2


class RunError(GtlError):
    """A run directory that cannot be used as asked: another config, no whole generation, in use by another driver."""

    exit_code = 2


class DataError(GtlError):
    """Images, labels or class lists that cannot be used."""

    exit_code = 65


class NovelClassesError(DataError):
    """Novel classes were offered to something that selects. Refused, always."""


class LearngeneError(GtlError):
    """A learngene file that cannot be read or trusted."""

    exit_code = 65


class GeneMismatchError(LearngeneError):
    """A gene that does not fit the network it was offered to."""


class StorageError(GtlError):
    """Writing to disk failed (full, read-only, not permitted). The last whole generation is intact."""

    exit_code = 74


class EvolutionError(GtlError):
    """The run itself failed, for example because every individual diverged."""

    exit_code = 1


class StoppedByUserError(GtlError):
    """The user stopped the command with Ctrl-C. What was committed stays."""

    exit_code = 130
