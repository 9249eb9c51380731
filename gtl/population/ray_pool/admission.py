"""Getting into a cluster: whether anything answers, and whether it asks for a token. Within seconds, and quietly.

Ray's token is one password for a whole cluster. Driver and cluster must agree on whether there is one: a driver that
brings none is refused after half a minute of complaints, and one that brings a token to a cluster that asks for none
cannot start any worker. So the cluster is asked first.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gtl.errors import ClusterError

MODE = "RAY_AUTH_MODE"
OPEN = "{} asks for no token: whoever reaches it can run code there (RAY_AUTH_MODE=token on all nodes closes it)"


@contextmanager
def token_mode() -> Iterator[str | None]:
    """Inside, the environment's mode may be changed; gives the user's choice, which is back afterwards."""
    chosen = os.environ.get(MODE)
    try:
        yield chosen
    finally:
        os.environ.pop(MODE, None)
        if chosen is not None:
            os.environ[MODE] = chosen


def knock(address: str) -> None:
    """Fail at once where nothing listens: Ray itself would try for minutes.

    Raises:
        ClusterError: no address, or nothing answers there.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise ClusterError(f"{address} is no address of a cluster; give auto, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"no cluster at {address}: nothing answers there ({error}). Start one (ray start --head) or correct --address"
        ) from None


def agree(address: str, chosen: str | None) -> bool:
    """Set the mode that the cluster is in; say whether it asks for a token. To be called before `ray.init`.

    Args:
        address: ``HOST:PORT`` of a running cluster.
        chosen: the mode that the user has asked for.

    Raises:
        ClusterError: it asks for a token and there is none, or another one; or the user has ruled out what it asks for.
    """
    from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
    from ray.exceptions import AuthenticationError

    if _admits(address, "disabled"):
        if chosen not in (None, "disabled"):
            raise ClusterError(
                f"the cluster at {address} asks for no token, but here {MODE}={chosen}. Start it with {MODE}=token on "
                f"all nodes; or, where it may stay open to whoever reaches it, use it with {MODE}=disabled"
            )
        return False
    if chosen == "disabled":
        raise ClusterError(f"the cluster at {address} asks for a token, but here {MODE}=disabled. Unset that")
    bring = f"Copy the cluster's to {token_path()}, readable by you alone, or name its file in RAY_AUTH_TOKEN_PATH"
    if os.environ.get("RAY_AUTH_TOKEN"):
        bring = "Correct RAY_AUTH_TOKEN, which counts before any file"
    switch("token")
    try:
        ensure_token_if_auth_enabled(create_token_if_missing=False)
    except AuthenticationError:
        raise ClusterError(f"the cluster at {address} asks for a token, and there is none here. {bring}") from None
    if not _admits(address, "token"):
        raise ClusterError(f"the cluster at {address} refuses our token: it has another one. {bring}")
    return True


def switch(mode: str) -> None:
    """Change the mode, which Ray reads once and remembers."""
    from ray._raylet import Config  # type: ignore[attr-defined]

    os.environ[MODE] = mode
    Config.initialize("")


def token_path() -> Path:
    """Where Ray looks for the token."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def hide_token() -> None:
    """Ray writes its token readable by all; only its owner should read it."""
    path = token_path()
    with suppress(OSError):
        if path.is_file() and path.stat().st_mode & 0o077 and path.stat().st_uid == os.getuid():
            path.chmod(0o600)


def _admits(address: str, mode: str) -> bool:
    """Whether a cluster lets us in so."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError

    switch(mode)
    try:
        with _muted():
            GcsClient(address=address)
    except AuthenticationError:
        return False
    return True


@contextmanager
def _muted() -> Iterator[None]:
    """Ray's C++ complains on standard error, past Python. What it complains of, we say in a sentence."""
    kept = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
