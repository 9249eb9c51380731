"""Ray itself: joining a cluster or starting one of this machine alone, quietly; and what its errors mean."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from gtl.errors import ClusterError
from gtl.population.ray_pool.admission import OPEN, agree, hide_token, knock, switch, token_mode

# Read by Ray when it is imported or started. Set only where the user has not chosen.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ROTATION_MAX_BYTES": str(64 << 20),
    "RAY_ROTATION_BACKUP_COUNT": "2",
}
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # makes a Ray of one machine listen on 127.0.0.1 alone


@dataclass(frozen=True)
class Room:
    """Where workers may be.

    Attributes:
        address: of a running cluster (``auto``, ``host:port``, ``ray://host:port``); None: this machine alone.
        workers: at most so many; 0: as many as there is room for.
        device: ``auto`` (GPUs where the cluster has any), ``cpu`` or ``cuda``.
        cpus: of each worker that computes on CPUs.
        gpus: share of a GPU of each worker that computes on one.
        own_gpus: GPUs that a Ray of this machine alone may use.
    """

    address: str | None = None
    workers: int = 0
    device: str = "cpu"
    cpus: int = 1
    gpus: float = 1.0
    own_gpus: int = 0


def connect(room: Room) -> tuple[Any, bool, str]:
    """Start a Ray of this machine alone, or join a cluster. Quiet, without telemetry.

    Returns:
        The ray module; whether it was connected here (else it is to be left connected); a warning, or "".

    Raises:
        ClusterError: no cluster answers at the address, it refuses our token, or Ray cannot start here.
    """
    for name, value in {**ENVIRONMENT, **(LOOPBACK if room.address is None else {})}.items():
        os.environ.setdefault(name, value)
    if room.address not in (None, "auto"):
        knock(str(room.address))
    try:
        import ray
    except ImportError as error:
        raise ClusterError(
            f"ray cannot be imported ({error}). Install it (pip install 'ray>=2.54'), or evolve in one process: "
            "--workers 1"
        ) from None
    if ray.is_initialized():
        return ray, False, ""  # of the program that uses us: we work in it, and leave it as it is
    own: dict[str, Any] = {"num_cpus": room.workers or 1, "num_gpus": room.own_gpus, "include_dashboard": False}
    with token_mode() as chosen:
        try:
            address, guarded = _enter(room.address, chosen)
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **(own if room.address is None else {}),
            )
        except ClusterError:
            raise
        except Exception as error:
            where = "Ray cannot start on this machine" if room.address is None else f"no cluster at {room.address}"
            raise ClusterError(f"{where}: {sentence(error)}. `gtl doctor` looks for the cause.") from None
    hide_token()
    _silence(ray)
    return ray, True, "" if guarded else OPEN.format(f"the cluster at {address}" if room.address else "Ray")


def _enter(address: str | None, chosen: str | None) -> tuple[str, bool]:
    """What `ray.init` is to be given, and whether a token guards it; the mode is set."""
    if address is None:
        switch(chosen or "token")
        return "local", chosen != "disabled"
    if address.startswith("ray://"):
        try:
            import grpc  # noqa: F401
        except ImportError:
            raise ClusterError(
                f"{address} needs Ray's client: pip install 'ray[client]'. Or start gtl on a machine of the cluster, "
                "with --address auto"
            ) from None
        return address, True  # it asks for itself
    from ray._private.services import canonicalize_bootstrap_address

    logging.getLogger("ray").setLevel(logging.ERROR)  # it would list every other Ray of this machine
    found = canonicalize_bootstrap_address(address)
    if found is None:
        raise ClusterError(f"no cluster at {address}. Start one (ray start --head) or give its HOST:PORT")
    knock(found)
    return found, agree(found, chosen)


def _silence(ray: Any) -> None:
    """Ray prints a paragraph whenever a worker dies, whatever log_to_driver says; we say it ourselves, in a line."""
    with suppress(Exception):
        ray._private.worker.print_to_stdstream = lambda *_, **__: None


def own_node(ray: Any) -> str:
    """The node that this process is on; "" where Ray's client (``ray://``) is on no node at all."""
    from ray.util.client import ray as client

    elsewhere = client.is_connected()  # type: ignore[no-untyped-call]
    return "" if elsewhere else str(ray.get_runtime_context().get_node_id())


def draining(ray: Any) -> set[str]:
    """Nodes that were told to finish, as a cloud does before it takes a machine away."""
    with suppress(Exception):
        return set(ray._private.state.state.get_draining_nodes())
    return set()


def is_memory(error: Exception) -> bool:
    """Whether a worker ran out of memory, of its host or of its GPU."""
    names = {kind.__name__ for one in (error, getattr(error, "cause", None)) for kind in type(one).__mro__}
    return bool(names & {"OutOfMemoryError", "MemoryError"}) or "running low on memory" in str(error)


def sentence(error: Exception) -> str:
    """Ray's messages are pages long; one sentence of them."""
    text = str(getattr(error, "cause", None) or error).strip()
    if "raised in its creation task" in text:  # a traceback: its last line says what
        return text.splitlines()[-1].strip()[:300]
    text = " ".join(text.split())
    for marker in ("Worker exit detail: ", "The actor is dead because "):
        if marker in text:
            text = text.split(marker, 1)[1]
    return f"{type(error).__name__}: {text.split('. ')[0][:200]}" if text else type(error).__name__
