"""Machines that Ray starts or logs in to by itself: a cluster file for ``ray up``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from gtl.cluster.render import (
    CONFIG,
    LOG_BYTES,
    START,
    check_line,
    check_path,
    check_word,
    fill,
    quoted,
    start_script,
    tree,
)
from gtl.config import Config
from gtl.config_file import dump_config
from gtl.errors import ConfigError

PROVIDERS = ("aws", "gcp", "local")
ENVIRONMENT = f"RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 RAY_ROTATION_MAX_BYTES={LOG_BYTES}"


@dataclass(frozen=True)
class RayUp:
    """What a user chooses for ``ray up``.

    Attributes:
        setup: shell lines that install gtl and ``ray[default]`` on a machine.
        workers: machines beside the head, which has the same type and works as well.
        image: machine image (AMI or GCP source image); Ray's own default is too old for torch.
        spot: workers may be taken away at any time, for less money. The head never is.
        ips: the machines of a local cluster, the head first.
    """

    provider: str
    setup: tuple[str, ...]
    workers: int = 1
    region: str | None = None
    zone: str | None = None
    project: str | None = None
    instance: str | None = None
    image: str | None = None
    disk_gb: int = 200
    spot: bool = False
    ips: tuple[str, ...] = ()
    ssh_user: str = "ubuntu"
    ssh_key: str | None = None
    run: str = "run"


def ray_up_files(config: Config, options: RayUp) -> dict[str, str]:
    """``cluster.yaml``, ``start.sh`` and ``config.yaml``.

    Raises:
        ConfigError: an option is missing for the provider, or cannot be used.
    """
    if options.provider not in PROVIDERS:
        raise ConfigError(f"--provider {options.provider!r}: one of {', '.join(PROVIDERS)}")
    if not options.setup:
        raise ConfigError("--setup is missing: give the shell lines that install gtl and ray[default] on a machine")
    setup = tuple(check_line("--setup", line) for line in options.setup)
    auth = {"ssh_user": check_word("--ssh-user", options.ssh_user)}
    if options.ssh_key is not None:
        auth["ssh_private_key"] = check_line("--ssh-key", options.ssh_key)
    provider, node_types, workers = _local(options) if options.provider == "local" else _cloud(options)
    cluster = fill(
        "cluster.yaml",
        name=quoted(re.sub(r"[^a-z0-9]+", "-", f"gtl-{config.name}")[:40].strip("-")),
        workers=workers,
        provider=tree({"type": options.provider, **provider}, 2),
        auth=tree(auth, 2),
        node_types=tree(node_types) if node_types else "# node types: Ray finds out what each machine has",
        setup=tree(list(setup), 2),
        env=ENVIRONMENT,
    )
    return {"cluster.yaml": cluster, START: start_script(check_path("--run", options.run)), CONFIG: dump_config(config)}


def _local(options: RayUp) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Provider section, node types and number of workers for machines that are there already."""
    if not options.ips:
        raise ConfigError("--ip is missing: give the machines one by one, the head first")
    head, *others = (check_word("--ip", ip) for ip in options.ips)
    return {"head_ip": head, "worker_ips": others}, {}, len(others)


def _cloud(options: RayUp) -> tuple[dict[str, Any], dict[str, Any], int]:
    """The same for machines that are rented."""
    image = check_word("--image", _given("--image", options.image))
    instance = check_word("--instance", _given("--instance", options.instance))
    provider: dict[str, Any] = {"region": check_word("--region", _given("--region", options.region))}
    head: dict[str, Any]
    spot: dict[str, Any]
    disk: dict[str, Any]
    if options.provider == "aws":
        if options.zone is not None:
            provider["availability_zone"] = check_word("--zone", options.zone)
        provider["cache_stopped_nodes"] = True  # `ray down` stops machines and keeps the head's disk, with the run
        disk = {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": options.disk_gb}}
        head = {"InstanceType": instance, "ImageId": image, "BlockDeviceMappings": [disk]}
        spot = {"InstanceMarketOptions": {"MarketType": "spot"}}
    else:
        provider["availability_zone"] = check_word("--zone", _given("--zone", options.zone))
        provider["project_id"] = check_word("--project", _given("--project", options.project))
        boot = {"diskSizeGb": options.disk_gb, "sourceImage": image}
        disk = {"boot": True, "autoDelete": True, "type": "PERSISTENT", "initializeParams": boot}
        fixed = {"onHostMaintenance": "TERMINATE"}  # machines with GPUs cannot be moved
        head = {"machineType": instance, "disks": [disk], "scheduling": [fixed]}
        spot = {"scheduling": [{**fixed, "preemptible": True}]}
    worker = head | spot if options.spot else head
    count = options.workers
    types = {
        "head": {"node_config": head, "resources": {}, "min_workers": 0, "max_workers": 0},
        "worker": {"node_config": worker, "resources": {}, "min_workers": count, "max_workers": count},
    }
    return provider, {"head_node_type": "head", "available_node_types": types}, count


def _given(option: str, value: str | None) -> str:
    if value is None:
        raise ConfigError(f"{option} is missing: rented machines need it")
    return value
