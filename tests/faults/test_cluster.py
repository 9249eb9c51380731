"""Faults of a cluster: nodes that die, leave, join, starve and stutter under a run. Its learngene stays what it was."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
from clusters import Nodes, quiet, silent_port
from test_one_node import Driver, alive, reasons, same, undisturbed, within  # noqa: F401 - a fixture of theirs, too

from gtl.individual import Status
from gtl.lineage import read_rows

pytestmark = [pytest.mark.ray, pytest.mark.timeout(280)]
RETRIED = re.compile(r"workers .* is tried again: ")


def slowly(generation: str, seconds: int) -> list[str]:
    """Arguments of the driver: each of three individuals sleeps at its first attempt, so the generation takes its time."""
    return [f"--fault={generation}-i000{number}=sleep{seconds}*1" for number in range(3)]


SECOND = slowly("g0002", 4)


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's choices for Ray are none of ours."""
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def shared() -> Iterator[Nodes]:
    """One cluster for all tests that leave its head alone. It asks for no token."""
    with Nodes(1, 1, 1) as nodes:
        yield nodes


@pytest.fixture
def cluster(shared: Nodes) -> Iterator[Nodes]:
    """Three nodes, one CPU each; afterwards the drivers have left no worker there."""
    while len(shared.nodes) < 3:
        shared.add(1)
    yield shared
    assert within(20, lambda: not shared.processes("ray::_Worker")), "workers outlive their driver"


@pytest.fixture
def folder() -> Iterator[Path]:
    """For a Ray of a driver's own: pytest's folders have names too long for its sockets."""
    found = Path(tempfile.mkdtemp(prefix="gtl-", dir="/tmp"))
    yield found
    shutil.rmtree(found, ignore_errors=True)


def drive(nodes: Nodes, run: Path, *options: str, **environment: str) -> Driver:
    """A driver on a cluster."""
    return Driver(run, "--address", nodes.address, *options, **{**nodes.environment, **environment})


def began(run: Path) -> list[tuple[str, str]]:
    """Every attempt, in order: individual and node."""
    log = run.with_name(f"{run.name}-attempts.log")
    return [(name, node) for name, node in map(str.split, log.read_text().splitlines())] if log.exists() else []


def busy(run: Path, generation: str, nodes: Sequence[str]) -> str:
    """Wait until an individual of this generation is alive on one of these nodes; which."""
    found: list[str] = []

    def look() -> bool:
        found[:] = [node for name, node in began(run) if name.startswith(generation) and node in nodes]
        return bool(found)

    assert within(90, look), began(run)
    return found[-1]


def says(driver: Driver, text: str) -> bool:
    """Whether any line of its does."""
    return any(text in line for line in driver.lines)


# --- nodes come and go ---------------------------------------------------------------------------------------------


def test_f7_node_killed(cluster: Nodes, undisturbed: Path, tmp_path: Path) -> None:  # noqa: F811
    """Its raylet, while individuals live there: the others go on with them."""
    run = tmp_path / "run"
    driver = drive(cluster, run, "--workers", "3", *SECOND)
    driver.until("generation 1")
    node = busy(run, "g0002", cluster.nodes[1:])
    killed = time.monotonic()
    cluster.kill(node)
    driver.until("generation 2")
    assert time.monotonic() - killed < 60
    assert driver.end() == (0, "")
    assert any(RETRIED.match(line) for line in driver.lines) and says(driver, " is gone"), driver.lines
    assert node not in {where for name, where in began(run) if name.startswith(("g0003", "final"))}
    assert same(run, undisturbed)


@pytest.mark.slow
def test_f8_node_drained(cluster: Nodes, undisturbed: Path, tmp_path: Path) -> None:  # noqa: F811
    """A cloud's notice: one node may finish its individual, another is taken before that. Neither counts as an attempt."""
    run = tmp_path / "run"
    driver = drive(cluster, run, "--workers", "3", "--attempts", "1", *SECOND, *slowly("g0003", 6))
    driver.until("generation 1")
    one = busy(run, "g0002", cluster.nodes[1:])
    cluster.drain(one, 120)
    assert re.search(r"node .* will be taken away, and gets no more work", told(driver, "taken away"))
    before = len(began(run))
    driver.until("generation 2")
    assert not any(RETRIED.match(line) for line in driver.lines), "it was left the time to finish"
    other = busy(run, "g0003", cluster.nodes[1:])
    cluster.drain(other, 120)
    told(driver, "taken away")
    cluster.kill(other)
    assert driver.end() == (0, "")
    assert any(RETRIED.match(line) for line in driver.lines), "and this one was not"
    assert one not in {node for _, node in began(run)[before:]}
    assert same(run, undisturbed)


def told(driver: Driver, text: str) -> str:
    """Read on to a line of the workers' with this text."""
    while text not in (line := driver.until("workers")):
        pass
    return line


@pytest.mark.slow
def test_f10_node_joins_late(cluster: Nodes, undisturbed: Path, tmp_path: Path) -> None:  # noqa: F811
    """One with more CPUs than the others: it gets workers and they get work; nothing else changes."""
    run = tmp_path / "run"
    # workers of a new node may need a quarter of a minute to start on a busy machine: the run waits as long
    driver = drive(cluster, run, "--workers", "4", *slowly("g0002", 20), "--fault=*=delay")
    driver.until("generation 1")
    late = cluster.add(2)
    try:
        assert "room for 2 workers" in told(driver, " joined")
        assert driver.end() == (0, "")
    finally:
        cluster.kill(late)
    assert late in {node for _, node in began(run)}
    assert same(run, undisturbed)


@pytest.mark.slow
def test_f3_poison_on_a_cluster(cluster: Nodes, tmp_path: Path) -> None:
    """One that kills every worker is tried on another node each time, and given up; the others finish."""
    run = tmp_path / "run"
    driver = drive(cluster, run, "--workers", "3", "--fault", "g0002-i0000=kill")
    assert driver.end() == (0, "")
    nodes = [node for name, node in began(run) if name == "g0002-i0000"]
    assert len(nodes) == 3 and len(set(nodes)) >= 2
    rows = read_rows(run / "lineage.jsonl")
    (verdict,) = [row for row in rows if row["event"] == "evaluation" and row["id"] == "g0002-i0000"]
    assert verdict["status"] == Status.LOST
    assert re.match(r"cost 3 workers on [23] nodes; the last: ", reasons(run)["g0002-i0000"])
    assert {row["status"] for row in rows if row["event"] == "evaluation" and row is not verdict} == {Status.OK}


# --- the head, the network, the memory -----------------------------------------------------------------------------


@pytest.mark.slow
def test_f9_head_killed(undisturbed: Path, tmp_path: Path) -> None:  # noqa: F811
    """The driver goes down with it, without a word; on a new cluster the run goes on."""
    run, soon = tmp_path / "run", {"RAY_gcs_rpc_server_reconnect_timeout_s": "5"}
    with Nodes(1, 1, **soon) as first:
        driver = drive(first, run, "--workers", "2", *SECOND, "--fault=g0003-i0000=hang*1")
        driver.until("evaluated g0002")
        first.behead()
        beheaded = time.monotonic()
        code, _ = driver.end()
        assert code != 0 and time.monotonic() - beheaded < 60
    with Nodes(2) as second:
        driver = drive(second, run, "--workers", "2", *SECOND)
        assert driver.end() == (0, "")
        assert not says(driver, "generation 1"), "from where it was"
    assert same(run, undisturbed)


@pytest.mark.slow
def test_f12_slow_and_flaky_network(undisturbed: Path, tmp_path: Path) -> None:  # noqa: F811
    """Calls that arrive up to 0.3 s late, or never; and calls whose answers never arrive."""
    lost = {"num_failures": 5, "req_failure_prob": 25, "resp_failure_prob": 25}
    losing = ["CoreWorkerService.grpc_client.PushTask", "NodeManagerService.grpc_client.RequestWorkerLease"]
    late = ["CoreWorkerService.grpc_server.PushTask", "CoreWorkerService.grpc_server.GetObjectStatus"]
    late += [f"ActorInfoGcsService.grpc_server.{method}" for method in ("RegisterActor", "CreateActor")]
    late += ["NodeManagerService.grpc_server.RequestWorkerLease", "NodeInfoGcsService.grpc_server.GetAllNodeInfo"]
    flaky = {  # not for all methods ("*"): Ray's own start does not bear that
        "RAY_testing_asio_delay_us": ",".join(f"{method}=0:300000" for method in late),
        "RAY_testing_rpc_failure": json.dumps(dict.fromkeys(losing, lost)),
    }
    run = tmp_path / "run"
    with Nodes(1, 1, **flaky) as nodes:
        driver = drive(nodes, run, "--workers", "2", "--attempts", "6", "--fault", "*=delay")
        code, error = driver.end()
        assert code == 0, error
    assert [line for line in driver.lines if line.startswith("generation")] == [f"generation {n}" for n in range(4)]
    assert same(run, undisturbed)


@pytest.mark.slow
def test_f13_host_out_of_memory(undisturbed: Path, tmp_path: Path, folder: Path) -> None:  # noqa: F811
    """An individual that takes 2 GB where there is 1: Ray ends it, and it is tried again with fewer beside it."""
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines()}
    used = sizes["MemTotal"] - sizes["MemAvailable"]
    if sizes["MemAvailable"] < 6 << 20:
        pytest.skip("too little memory to waste any")
    starved = {
        "RAY_memory_usage_threshold": str(round((used + (3 << 19)) / sizes["MemTotal"], 3)),
        "RAY_memory_monitor_refresh_ms": "100",
        "RAY_TMPDIR": str(folder),
    }
    run = tmp_path / "run"
    driver = Driver(run, "--workers", "2", "--fault", "g0002-i0001=allocate2560*1", **quiet(**starved))
    code, error = driver.end()
    assert code == 0, error
    assert says(driver, "has too little memory for 2 workers, going on with 1"), driver.lines
    assert same(run, undisturbed)


# --- who may use the cluster ---------------------------------------------------------------------------------------


def holding(text: str, *folders: Path) -> list[Path]:
    """Files that hold a text."""
    files = [path for top in folders for path in top.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in files if text.encode() in path.read_bytes()]


def stopped(driver: Driver) -> bool:
    """It has shown what it was to show; whether it goes in peace."""
    driver.process.terminate()
    return driver.end()[0] == 75


def test_f15_token_by_default(undisturbed: Path, tmp_path: Path, folder: Path) -> None:  # noqa: F811
    """A driver's own Ray makes a token that only the user can read, and no log or command line shows it."""
    home, run = tmp_path / "home", tmp_path / "run"
    driver = Driver(run, "--workers", "2", **quiet(HOME=str(home), RAY_TMPDIR=str(folder)))
    driver.until("generation 1")
    path = home / ".ray" / "auth_token"
    token, processes = path.read_text().strip(), driver.ray()
    commands = b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in alive(processes))
    assert driver.end() == (0, "")
    assert len(token) >= 32 and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"raylet" in commands and token.encode() not in commands
    assert token not in "".join(driver.lines) and not says(driver, "asks for no token")
    assert any(folder.rglob("raylet.out")) and not holding(token, folder, run)
    assert within(20, lambda: not alive(processes)), "nothing of its Ray stays"
    assert same(run, undisturbed)


@pytest.mark.slow
def test_f15_no_token_works_with_a_warning(tmp_path: Path, folder: Path) -> None:
    home = tmp_path / "home"
    chosen = quiet(HOME=str(home), RAY_TMPDIR=str(folder), RAY_AUTH_MODE="disabled")
    driver = Driver(tmp_path / "run", "--workers", "2", **chosen)
    driver.until("message warning: Ray asks for no token")
    assert stopped(driver) and not (home / ".ray").exists()


@pytest.mark.slow
def test_f15_token_of_a_cluster(undisturbed: Path, tmp_path: Path) -> None:  # noqa: F811
    """With it a driver works; without it, or with another, it says so at once. Nowhere is it written down."""
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("5ec2e7" * 8)
    wrong.write_text("badbad" * 8)
    right.chmod(0o644)
    with Nodes(2, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(right)) as nodes:
        unset = {name: value for name, value in nodes.environment.items() if not name.startswith("RAY_AUTH")}
        at = ("--address", nodes.address, "--workers", "2")
        for settings, complaint in (
            ({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}, "asks for a token, and there is none here"),
            ({"RAY_AUTH_TOKEN_PATH": str(wrong)}, "refuses our token"),
            ({"RAY_AUTH_MODE": "disabled"}, "asks for a token, but here RAY_AUTH_MODE=disabled"),
        ):
            driver = Driver(tmp_path / "refused", *at, **unset, **settings)
            driver.until("begun")
            begun = time.monotonic()
            code, error = driver.end()
            assert code == 69 and complaint in error and nodes.address in error and error.count("\n") == 1, error
            assert "badbad" not in error and time.monotonic() - begun < 15
            assert not (tmp_path / "refused").exists()
        driver = Driver(tmp_path / "run", *at, **unset, RAY_AUTH_TOKEN_PATH=str(right))
        assert driver.end() == (0, "")
        assert not says(driver, "asks for no token")
        assert stat.S_IMODE(right.stat().st_mode) == 0o600
        assert any(nodes.folder.rglob("raylet.out")) and not holding("5ec2e7" * 8, nodes.folder, tmp_path / "run")
    assert same(tmp_path / "run", undisturbed)


def test_f15_cluster_without_token(cluster: Nodes, tmp_path: Path) -> None:
    """Refused to those who insist on one; who just has one for elsewhere is warned, and never sends it."""
    unset = {name: value for name, value in cluster.environment.items() if not name.startswith("RAY_AUTH")}
    token = tmp_path / "token"
    token.write_text("5ec2e7" * 8)
    at = ("--address", cluster.address, "--workers", "2")
    driver = Driver(tmp_path / "run", *at, **unset, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token))
    code, error = driver.end()
    assert code == 69 and "asks for no token, but here RAY_AUTH_MODE=token" in error
    driver = Driver(tmp_path / "run", *at, **unset, RAY_AUTH_TOKEN_PATH=str(token))
    driver.until(f"message warning: the cluster at {cluster.address} asks for no token")
    assert stopped(driver)


# --- addresses -----------------------------------------------------------------------------------------------------


def test_no_cluster_at_the_address(tmp_path: Path) -> None:
    address = f"127.0.0.1:{silent_port()}"
    driver = Driver(tmp_path / "run", "--address", address)
    driver.until("begun")
    begun = time.monotonic()
    code, error = driver.end()
    assert code == 69 and time.monotonic() - begun < 15
    assert f"no cluster at {address}: nothing answers there" in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(find_spec("grpc") is not None, reason="then Ray's client is installed, and works")
def test_client_address_names_what_is_missing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"ray://127.0.0.1:{server.getsockname()[1]}"
        code, error = Driver(tmp_path / "run", "--address", address).end()
    assert code == 69 and error.startswith(f"ClusterError: {address} needs Ray's client: pip install 'ray[client]'")


# --- the same for any number of workers ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2", "3"])
def test_f37_worker_count_never_shows_on_a_cluster(
    cluster: Nodes,
    undisturbed: Path,  # noqa: F811
    tmp_path: Path,
    workers: str,
) -> None:
    """Random delays, and an address that says no more than that there is a cluster."""
    options = ("--address", "auto", "--workers", workers, *SECOND, "--fault", "*=delay")
    driver = Driver(tmp_path / "run", *options, **cluster.environment)
    assert driver.end() == (0, "")
    nodes = {node for _, node in began(tmp_path / "run")}
    assert len(nodes) <= int(workers) and (len(nodes) == 1) == (workers == "1")
    assert same(tmp_path / "run", undisturbed)
