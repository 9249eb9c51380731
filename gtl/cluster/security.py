"""Checks of what lets others in or tells them something: Ray's token, its ports, its usage statistics; the address."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gtl.cluster.check import Check
from gtl.cluster.processes import PROC, SERVERS, Process, Table, ray_above
from gtl.errors import ConfigError

KNOCK = 5.0  # seconds that a port has to answer
_LISTENING = "0A"


@dataclass(frozen=True)
class Address:
    """Host and port of a running cluster."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """``HOST:PORT``, ``[IPV6]:PORT`` or ``ray://HOST:PORT``.

        Raises:
            ConfigError: it is none of these.
        """
        host, _, port = text.removeprefix("ray://").rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise ConfigError(f"--address {text!r} is no address of a cluster; give HOST:PORT, such as 10.0.0.5:6379")
        return cls(host.strip("[]"), int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can be meant."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def answers(address: Address) -> Check:
    """Whether something listens at the cluster's address. That it is Ray shows only when a run joins it."""
    try:
        socket.create_connection((address.host, address.port), timeout=KNOCK).close()
    except OSError as error:
        reason = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
        remedy = "start the head (ray start --head), correct --address, or open the port in the firewall"
        return Check("address", "problem", f"{address}: {reason}", remedy)
    return Check("address", "ok", f"{address} answers")


def token(address: Address | None = None) -> Check:
    """Whether Ray asks who it is: the mode, and where the token is kept. The token itself is never shown.

    As Ray 2.60 reads it: RAY_AUTH_MODE without regard to case, everything but "token" meaning disabled; the token from
    RAY_AUTH_TOKEN, else the file RAY_AUTH_TOKEN_PATH, else ~/.ray/auth_token; what is empty does not count.
    """
    name = "token"
    mode = os.environ.get("RAY_AUTH_MODE")
    away = address is not None and not address.is_loopback
    if mode is not None and mode.lower() not in {"token", "disabled"}:
        found = f"RAY_AUTH_MODE={mode!r}, which Ray silently takes for disabled"
        return Check(name, "problem", found, "export RAY_AUTH_MODE=token")
    if mode is not None and mode.lower() == "disabled":
        found = "switched off by RAY_AUTH_MODE=disabled: who reaches a port of Ray runs code as you"
        return Check(name, "problem" if away else "warning", found, "export RAY_AUTH_MODE=token, on every node")
    own = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(own) if own else Path.home() / ".ray" / "auth_token"
    if os.environ.get("RAY_AUTH_TOKEN"):
        found = "the token is in RAY_AUTH_TOKEN; environments show in process listings and crash reports"
        return Check(name, "warning", found, f"keep it in {path} with mode 0600, and unset RAY_AUTH_TOKEN")
    try:
        status = path.stat()
        empty = not path.read_bytes().strip()
    except FileNotFoundError:
        status, empty = None, True
    except OSError as error:
        return Check(name, "problem", f"{path} cannot be read: {error.strerror}", f"chmod 600 {path}, as its owner")
    if status is None or empty:
        found = f"{path} is {'not there' if status is None else 'empty'}"
        if own:
            return Check(name, "problem", f"{found}; Ray refuses to start", "correct or unset RAY_AUTH_TOKEN_PATH")
        if address is not None:
            remedy = f"copy it from the head node to {path}, then chmod 600 {path}"
            return Check(name, "problem" if away else "warning", f"{found}; the cluster at {address} needs one", remedy)
        return Check(name, "ok", "none yet; the first run on several workers makes one")
    bits = stat.S_IMODE(status.st_mode)
    if os.name == "posix" and bits != 0o600:
        found = f"{path} has mode {bits:04o}" + ("; others can read it" if bits & 0o077 else "")
        return Check(name, "problem", found, f"chmod 600 {path}")
    if mode is None and away:
        found = f"{path}, mode 0600, but RAY_AUTH_MODE is not set: nodes that join do not ask for the token"
        return Check(name, "warning", found, "export RAY_AUTH_MODE=token, on every node")
    return Check(name, "ok", f"{path}, mode 0600")


def statistics() -> Check:
    """Whether Ray would send usage statistics to its makers. gtl switches that off for the Ray that it starts."""
    name = "statistics"
    off = "export RAY_USAGE_STATS_ENABLED=0"
    chosen = os.environ.get("RAY_USAGE_STATS_ENABLED")
    if chosen == "0":
        return Check(name, "ok", "off (RAY_USAGE_STATS_ENABLED=0)")
    if chosen == "1":
        return Check(name, "warning", "Ray reports its use: RAY_USAGE_STATS_ENABLED=1", off)
    if chosen is not None:
        return Check(name, "problem", f"RAY_USAGE_STATS_ENABLED={chosen!r}: Ray refuses all but 0 and 1", off)
    own = os.environ.get("RAY_USAGE_STATS_CONFIG_PATH")
    path = Path(own) if own else Path.home() / ".ray" / "config.json"
    setting = None
    with suppress(OSError, ValueError):  # Ray too takes a file that it cannot read for none
        content = json.loads(path.read_text("utf-8"))
        setting = content.get("usage_stats") if isinstance(content, dict) else None
    if setting is True:
        return Check(name, "warning", f"Ray reports its use, as {path} says", f"{off}, or: ray disable-usage-stats")
    if setting not in (None, False):
        return Check(name, "problem", f"usage_stats in {path} is neither true nor false: Ray refuses it", off)
    known = (
        f"off ({path})" if setting is False else "off in gtl's runs; `ray start` by hand needs --disable-usage-stats"
    )
    return Check(name, "ok", known)


def ports(table: Table) -> Check:
    """Whether ports of this user's Ray can be reached from other machines, and if so, whether Ray asks for its token."""
    name = "ports"
    if not table or not (PROC / "self/net/tcp").exists():
        return Check(name, "ok", "not looked at: this system has no /proc")
    found = [(process, host, port) for process in table.values() if process.role for host, port in _listening(process)]
    if not found:
        return Check(name, "ok", "no Ray of yours is listening")
    outside = [each for each in found if not ipaddress.ip_address(each[1]).is_loopback]
    if not outside:
        return Check(name, "ok", f"{len(found)} of Ray, all on this machine's loopback")
    shown = [
        f"{process.role} ({process.pid}) on {'*' if _any(host) else host}:{port}" for process, host, port in outside
    ]
    text = ", ".join(shown[:6]) + (f" and {len(shown) - 6} more" if len(shown) > 6 else "")
    private = "keep them in a private network: the token travels unencrypted"
    if any(asks_token(process, table) is False for process, _, _ in outside):
        remedy = "restart that Ray with RAY_AUTH_MODE=token, on every node"
        return Check(name, "problem", f"open to other machines, without a token: {text}", remedy)
    if any(process.role == "dashboard" for process, _, _ in outside):
        remedy = "ray start --dashboard-host=127.0.0.1, and ssh -L 8265:127.0.0.1:8265 to look at it"
        return Check(name, "warning", f"the dashboard is open to other machines: {text}", remedy)
    return Check(name, "warning", f"open to other machines, with a token: {text}", private)


def asks_token(process: Process, table: Table) -> bool | None:
    """Whether a process of Ray asks for a token, by its environment or that of the servers above it; None: unknown."""
    for each in (process, *ray_above(process, table)):
        if each is process and each.role not in (*SERVERS, "dashboard"):
            continue  # a renamed worker's environment is overwritten
        try:
            environment = (PROC / str(each.pid) / "environ").read_bytes()
        except OSError:
            continue
        if b"=" in environment:
            found = re.search(rb"(?:^|\0)RAY_AUTH_MODE=([^\0]*)", environment)
            return found is not None and found[1].lower() == b"token"
    return None


def _any(host: str) -> bool:
    return ipaddress.ip_address(host).is_unspecified


def _listening(process: Process) -> Iterator[tuple[str, int]]:
    """Addresses and ports on which a process listens."""
    inodes = set()
    with suppress(OSError):  # it has ended meanwhile
        for entry in (PROC / str(process.pid) / "fd").iterdir():
            with suppress(OSError):
                if found := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(entry)):
                    inodes.add(found[1])
    if not inodes:
        return
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (PROC / str(process.pid) / "net" / table).read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == _LISTENING and words[9] in inodes:
                    host, _, port = words[1].partition(":")
                    yield _decode(host), int(port, 16)


def _decode(text: str) -> str:
    """An address as the kernel writes it: words of four bytes, each in the machine's own order."""
    raw = bytes.fromhex(text)
    if sys.byteorder == "little":
        raw = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
    found = ipaddress.ip_address(raw)
    mapped = getattr(found, "ipv4_mapped", None)
    return str(mapped or found)
