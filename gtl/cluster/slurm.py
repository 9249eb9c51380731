"""SLURM: an sbatch script around ``ray symmetric-run`` that stops in time and queues itself again."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from gtl.cluster.render import CONFIG, LOG_BYTES, START, check_line, check_path, check_word, fill, start_script
from gtl.config import Config
from gtl.config_file import dump_config
from gtl.errors import ConfigError

_TIME = re.compile(r"\d+|\d+(:\d\d){1,2}|\d+-\d+(:\d\d){0,2}")


@dataclass(frozen=True)
class Slurm:
    """What a user chooses for a SLURM job.

    Attributes:
        run: run directory; a relative one lies in the launch folder.
        setup: shell lines that make ``gtl`` and ``ray`` available on a node.
        sbatch: further options of sbatch, one each.
        requeues: how often the job may queue itself again, so that one that makes no progress ends.
    """

    nodes: int = 1
    gpus_per_node: int = 1
    cpus_per_node: int = 8
    time: str = "24:00:00"
    partition: str | None = None
    account: str | None = None
    run: str = "run"
    venv: str | None = None
    setup: tuple[str, ...] = ()
    sbatch: tuple[str, ...] = ()
    requeues: int = 100


def slurm_files(config: Config, options: Slurm) -> dict[str, str]:
    """``job.sh``, ``start.sh`` and ``config.yaml``.

    Raises:
        ConfigError: an option that SLURM or a shell would misunderstand.
    """
    if not _TIME.fullmatch(options.time):
        raise ConfigError(f"--time {options.time!r}: write minutes, HH:MM:SS or DAYS-HH:MM:SS, for example 1-12:00:00")
    for line in options.sbatch:
        if not check_line("--sbatch", line).startswith("-"):
            raise ConfigError(f"--sbatch {line!r}: give an option of sbatch, for example --sbatch=--qos=long")
    directives = {
        "job-name": f"gtl-{config.name}",
        "nodes": options.nodes,
        "cpus-per-task": options.cpus_per_node,
        "gpus-per-node": options.gpus_per_node or None,
        "time": options.time,
        "partition": options.partition and check_word("--partition", options.partition),
        "account": options.account and check_word("--account", options.account),
    }
    lines = [f"#SBATCH --{key}={value}" for key, value in directives.items() if value is not None]
    # symmetric-run refuses a node with another Ray on it, and at its end stops every Ray of the user there
    lines += ["#SBATCH --exclusive", "#SBATCH --mem=0", *(f"#SBATCH {line}" for line in options.sbatch)]
    setup = [check_line("--setup", line) for line in options.setup]
    if options.venv is not None:
        setup.append(f"source {shlex.quote(check_path('--venv', options.venv) + '/bin/activate')}")
    job = fill(
        "slurm.sh",
        name=config.name,
        directives="\n".join(lines),
        setup="\n".join(setup) or ": # gtl and ray are on PATH already",
        log_bytes=LOG_BYTES,
        requeues=options.requeues,
    )
    return {"job.sh": job, START: start_script(options.run), CONFIG: dump_config(config)}
