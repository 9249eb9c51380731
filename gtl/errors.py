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


class ClusterError(GtlError):
    """The cluster cannot be used: not reachable, no room for a worker, or its workers die faster than they work."""

    exit_code = 69


class HubError(GtlError):
    """The model hub cannot be reached, or refuses: no such repository or file, not permitted, something else is there."""

    exit_code = 69


class StoppedError(GtlError):
    """The system asked the run to stop (SIGTERM). What was finished is saved; the run can be resumed."""

    exit_code = 75


class StoppedByUserError(StoppedError):
    """The user stopped the command with Ctrl-C. What was finished is saved."""

    exit_code = 130
