"""Kubernetes: a KubeRay RayJob, and the ConfigMap with the configuration and the start script that it reads."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from textwrap import indent

from gtl.cluster.render import LOG_BYTES, START, block, check_word, fill, quoted, start_script
from gtl.config import Config
from gtl.config_file import dump_config
from gtl.errors import ConfigError

LAUNCH, MOUNT = "/launch", "/runs"
MAX_NAME = 47  # KubeRay appends to the names of what it makes, and Kubernetes allows 63
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_MEMORY = re.compile(r"[1-9][0-9]*(Mi|Gi|Ti|M|G|T)")


@dataclass(frozen=True)
class KubeRay:
    """What a user chooses for a RayJob.

    Attributes:
        image: container image with gtl and ``ray[default]`` in it, the same for all pods.
        claim: persistent volume claim for the run directory; only the head pod mounts it.
        workers: worker pods beside the head pod, which has the same resources and works as well.
        run: run directory, below the mounted claim; by default named after the configuration.
        deadline: seconds after which KubeRay ends the job; None: never.
        retries: how often a failed or lost job is started again.
    """

    image: str
    claim: str
    ray_version: str
    workers: int = 1
    gpus: int = 1
    cpus: int = 4
    memory: str = "16Gi"
    namespace: str = "default"
    name: str | None = None
    run: str | None = None
    deadline: int | None = None
    retries: int = 20


def kuberay_files(config: Config, options: KubeRay) -> dict[str, str]:
    """``configmap.yaml`` and ``rayjob.yaml``; no other YAML, so that the folder can be applied as a whole.

    Raises:
        ConfigError: an option that Kubernetes would refuse.
    """
    run = options.run or f"{MOUNT}/{config.name}"
    if not run.startswith(f"{MOUNT}/") or ".." in run.split("/"):
        raise ConfigError(f"--run {run!r}: must lie below {MOUNT}/, where the claim is mounted")
    if not _MEMORY.fullmatch(options.memory):
        raise ConfigError(f"--memory {options.memory!r}: write for example 16Gi")
    derived = re.sub(r"[^a-z0-9]+", "-", f"gtl-{config.name}")[:MAX_NAME].strip("-")
    name = _label("--name", options.name or derived, MAX_NAME)
    shared = {"name": quoted(name), "namespace": quoted(_label("--namespace", options.namespace)), "launch": LAUNCH}
    resources = {"cpu": str(options.cpus), "memory": options.memory}
    if options.gpus:
        resources["nvidia.com/gpu"] = str(options.gpus)
    container = fill(
        "container.yaml",
        image=quoted(check_word("--image", options.image)),
        resources=json.dumps(resources),
        log_bytes=LOG_BYTES,
    ).rstrip()
    workers = fill("workers.yaml", workers=options.workers, container=indent(container, " " * 16))
    job = fill(
        "rayjob.yaml",
        **shared,
        entrypoint=quoted(f"bash {LAUNCH}/{START}"),
        retries=options.retries,
        deadline="" if options.deadline is None else f"  activeDeadlineSeconds: {options.deadline}\n",
        ray_version=quoted(check_word("--ray-version", options.ray_version)),
        container=indent(container, " " * 14),
        mount=MOUNT,
        claim=quoted(_label("--claim", options.claim)),
        workers=workers.rstrip() if options.workers else "",
    )
    texts = {"start": block(start_script(run), 4), "config": block(dump_config(config), 4)}
    return {"configmap.yaml": fill("configmap.yaml", **shared, **texts), "rayjob.yaml": job.rstrip() + "\n"}


def _label(option: str, text: str, longest: int = 63) -> str:
    if not _LABEL.fullmatch(text) or len(text) > longest:
        raise ConfigError(
            f"{option} {text[:80]!r}: at most {longest} small letters, digits and dashes, no dash at either end"
        )
    return text
