"""gtl doctor: every check fails when what it looks for is really there."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from commands import gtl

from gtl.cli.doctor import RUNS
from gtl.cluster import disks, doctor, processes, security, software
from gtl.cluster.check import Check, size
from gtl.cluster.security import Address
from gtl.errors import ConfigError
from gtl.population.run import POPULATIONS

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
AWAY = Address("192.0.2.7", 6379)  # a network reserved for documentation
SECRET = "5ec7e7" * 8
SESSION = "session_2026-01-02_03-04-05_678901_{}"  # the last number: ours alone, other tests run beside us

# What stands in for torch where the machine has none of the GPUs that a test needs. {} is code.
TORCH = """
import types, warnings
__version__ = "2.9.0"
version = types.SimpleNamespace(cuda="12.8")
class cpu:
    _is_avx512_bf16_supported = staticmethod(lambda: False)
class cuda:
    is_available = staticmethod(lambda: False)
{}
"""
BROKEN_GPU = """
class cuda:
    is_available = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 1)
    device = staticmethod(lambda index: (_ for _ in ()).throw(RuntimeError("CUDA error: no kernel image is available")))
    get_device_properties = staticmethod(lambda index: types.SimpleNamespace(name="Tiny 1", total_memory=8 << 30))
"""
OLD_DRIVER = """
def is_available():
    warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old (found version 11040). Update it.")
    return False
cuda.is_available = staticmethod(is_available)
"""


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home without Ray's files, and none of Ray's variables; the home."""
    for name in [name for name in os.environ if name.startswith("RAY_")] + ["CUDA_VISIBLE_DEVICES"]:
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    return home


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        made = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        made = False
    if not made:
        pytest.skip("may not mount here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)


def install(folder: Path, module: str, code: str) -> None:
    """A package of one file, as programs started with PYTHONPATH=folder find it."""
    (folder / module).mkdir(parents=True)
    (folder / module / "__init__.py").write_text(code)


def program(folder: Path, name: str, answer: str) -> None:
    """An executable that prints `answer`."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{answer}\nEND\n")
    path.chmod(0o755)


def expect(check: Check, state: str, *words: str) -> None:
    """The check has this state and says these words, in what it found or in the remedy."""
    text = f"{check.found} | {check.remedy}"
    assert check.state == state, check
    assert all(word in text for word in words), f"{words} not all in: {text}"


# --- versions


def test_an_old_python() -> None:
    expect(software.python((3, 10, 14)), "problem", "3.10.14", "install Python 3.11")
    expect(software.python(), "ok")


def dist(folder: Path, name: str, version: str, *required: str) -> None:
    """Metadata of an installed package."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = [f"Requires-Dist: {line}" for line in required]
    (info / "METADATA").write_text(
        "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines, ""])
    )


def test_an_old_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expect(software.packages(), "ok", "torch", "as required")
    dist(tmp_path / "old", "ray", "2.53.1")
    monkeypatch.syspath_prepend(str(tmp_path / "old"))
    expect(software.packages(), "problem", "ray 2.53.1", "CVE-2026-27482", "'ray>=2.54'")


def test_a_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dist(tmp_path / "new", "gtllike", "1.0", "nothere-at-all (>=3,<4)", "numpy", 'unwanted; extra == "dev"')
    monkeypatch.syspath_prepend(str(tmp_path / "new"))
    found = software.packages("gtllike")
    expect(found, "problem", "nothere-at-all is missing", "pip install 'nothere-at-all>=3,<4'")
    assert "unwanted" not in found.found
    expect(software.packages("not-installed-itself"), "problem", "not installed")


@pytest.mark.parametrize(
    ("found", "wanted", "kept"),
    [
        ("2.10.0", ">=2.9", True),
        ("2.9", ">=2.9.0", True),
        ("2.15.0+cu132", ">=2.9", True),
        ("2.9.0rc1", ">=2.9", False),
        ("2.9.0.dev20250101", ">=2.9", False),
        ("2.9.0.post1", ">2.9.0", True),
        ("3.0", ">=2.9,<3", False),
        ("1.4.3", "<2,>=1.4.3", True),
        ("2.14.1", "==2.14.0", False),
        ("2.14.1", "==2.14.*", True),
        ("2.4.9", "~=2.4.2", True),
        ("2.5.0", "~=2.4.2", False),
        ("5.1", "!=5.1", False),
        ("5.1", "", True),
    ],
)
def test_versions_compare(found: str, wanted: str, kept: bool) -> None:
    assert software.satisfies(found, wanted) is kept


def test_a_pair_that_does_not_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register = '@torch.library.register_fake("torchvision::nms")\ndef nms(*_): ...'  # as torchvision does when loaded
    install(tmp_path, "torchvision", f"import torch\n{register}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    probe = software.ask_torch()
    words = ("operator torchvision::nms does not exist", "pip install --upgrade --force-reinstall torch torchvision")
    expect(software.torch(probe), "problem", *words)
    assert software.machine(probe).state == "ok", "the rest of what torch said is still used"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise ImportError('libcudart.so.13: cannot open shared object file')", "libcudart.so.13"),
        ("import os; os._exit(3)", "ended with code 3"),
        ("import time; time.sleep(60)", "did not answer"),
    ],
)
def test_a_torch_that_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, said: str) -> None:
    install(tmp_path, "torch", code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(software, "PATIENCE", 1.0)
    expect(software.torch(software.ask_torch()), "problem", "torch does not load", said)


# --- devices


def fake_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> dict[str, Any]:
    """What is found with a stand-in for torch."""
    install(tmp_path / "path", "torch", TORCH.format(code))
    install(tmp_path / "path", "torchvision", '__version__ = "0.24"')
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    return software.ask_torch()


def test_little_memory_and_few_cores() -> None:
    expect(software.machine({}, least=1 << 60), "warning", "memory available", "no bfloat16", "free memory")
    expect(software.machine({"bfloat16": True}, least=1), "ok", "bfloat16 in hardware")


@linux
def test_cores_are_those_that_we_may_use() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        expect(software.machine({}, least=1), "ok", "1 core,")
    finally:
        os.sched_setaffinity(0, before)


def test_no_gpu_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # without nvidia-smi
    expect(software.gpu({"torch": "2.9", "built_for": "CUDA 12", "gpus": [], "warnings": []}), "ok", "none")


def test_a_driver_that_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expect(software.gpu(fake_torch(tmp_path, monkeypatch, OLD_DRIVER)), "problem", "too old", "update the GPU driver")


def test_a_gpu_that_does_not_compute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = fake_torch(tmp_path, monkeypatch, BROKEN_GPU)
    expect(software.gpu(probe), "problem", "Tiny 1", "no kernel image", "torch build for this GPU")


def test_a_gpu_that_torch_does_not_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "bin", "nvidia-smi", "Tiny 1, 470.10")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    probe: dict[str, Any] = {"torch": "2.9", "gpus": [], "warnings": []}
    expect(software.gpu(probe | {"built_for": ""}), "problem", "Tiny 1, 470.10", "built for CPUs only", "CUDA build")
    expect(software.gpu(probe | {"built_for": "CUDA 12"}), "problem", "torch uses none", "must fit")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    expect(software.gpu(probe | {"built_for": "CUDA 12"}), "warning", "unset CUDA_VISIBLE_DEVICES")


def test_a_gpu_that_others_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "bin", "nvidia-smi", "4242, 8100 MiB")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    probe = {"gpus": [{"name": "Tiny 1", "memory": 8 << 30, "bfloat16": True, "error": ""}]}
    expect(software.gpu(probe), "warning", "Tiny 1, 8.0 GiB", "process 4242 holds 8100 MiB")


# --- disks and folders


def test_a_full_disk(small_disk: Path) -> None:
    expect(disks.space("run-space", small_disk / "new" / "run"), "warning", "1 MiB")
    (small_disk / "ballast").write_bytes(bytes(1_000_000))
    expect(disks.space("run-space", small_disk), "problem", "95%", "free space there")
    with pytest.raises(OSError), (small_disk / "more").open("wb", buffering=0) as stream:
        while stream.write(bytes(4096)):
            pass
    expect(disks.writable("run-folder", small_disk), "problem", "No space left")


def test_little_space(tmp_path: Path) -> None:
    expect(disks.space("run-space", tmp_path / "not" / "yet", least=1 << 60), "warning", "free of", "another disk")
    assert disks.space("run-space", tmp_path, least=0).state in {"ok", "problem"}  # problem: this disk is nearly full


@linux
def test_the_shared_memory_of_a_container(small_disk: Path) -> None:
    expect(disks.shared_memory(small_disk), "warning", "1 MiB", "--shm-size=")


def test_little_shared_memory(tmp_path: Path) -> None:
    expect(disks.shared_memory(tmp_path, memory=1 << 60), "warning", "remount")
    expect(disks.shared_memory(tmp_path / "none"), "ok", "elsewhere")


def test_the_memory_of_the_machine() -> None:
    assert disks.memory_size() > 1 << 28


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    expect(disks.writable("cache", tmp_path / "file" / "cache"), "problem", "cannot write", "choose another folder")
    expect(disks.writable("cache", tmp_path / "new" / "cache"), "ok", "can be made in")
    expect(disks.writable("cache", tmp_path), "ok")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "home"], "nothing is left behind"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_else(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    expect(disks.writable("run-folder", tmp_path / "run"), "problem", "Permission denied")
    tmp_path.chmod(0o700)


def test_a_read_only_disk(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True, capture_output=True)
    expect(disks.writable("run-folder", small_disk), "problem", "Read-only")
    expect(disks.locks(small_disk), "problem", "no lock file", "local disk")


def test_a_path_too_long_for_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("x" * 60)
    monkeypatch.setenv("RAY_TMPDIR", str(deep))
    assert disks.ray_folder() == deep / "ray"
    expect(disks.ray_writable(disks.ray_folder()), "problem", "bytes long", "RAY_TMPDIR=")
    with socket.socket(socket.AF_UNIX) as channel:  # the limit itself, with the longest name that Ray would give
        name = "/session_2026-01-02_03-04-05_678901_4194304/sockets/plasma_store"
        with pytest.raises((OSError, FileNotFoundError), match="No such file"):
            channel.bind("/" + "x" * (disks.LONGEST_RAY_FOLDER - 1) + name)  # short enough: only the folder is missing
    expect(disks.ray_writable(Path("/tmp/ray")), "ok")


def test_a_disk_whose_locks_mean_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, path = tmp_path / "runs", tmp_path / "path"
    runs.mkdir()
    expect(disks.locks(runs, mounts=tmp_path / "none"), "ok", "keeps two processes apart")
    path.mkdir()
    (path / "sitecustomize.py").write_text("import fcntl\nfcntl.flock = lambda stream, how: None\n")
    monkeypatch.setenv(
        "PYTHONPATH", str(path)
    )  # the other process gets every lock, as on mounts without a lock service
    expect(disks.locks(runs), "problem", "same exclusive lock", "local disk")
    (path / "sitecustomize.py").write_text("raise SystemExit('no Python here')\n")
    expect(disks.locks(runs), "problem", "second process")
    assert not list(runs.iterdir()), "nothing is left behind"


def test_a_network_disk(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    point = str(tmp_path / "a b").replace(" ", "\\040")
    mounts.write_text(f"/dev/sda1 / ext4 rw 0 0\nserver:/runs {point} nfs4 rw 0 0\n")
    (tmp_path / "a b").mkdir()
    expect(disks.locks(tmp_path / "a b" / "run", mounts), "warning", "nfs4", "two machines")
    expect(disks.locks(tmp_path, mounts), "ok", "ext4")


@linux
def test_runs_in_memory(small_disk: Path) -> None:
    expect(disks.locks(small_disk / "run"), "warning", "tmpfs", "lost with a restart")


@linux
def test_a_folder_whose_names_cannot_be_synced(tmp_path: Path) -> None:
    assert "EINVAL" in disks.folder_sync_trouble(Path("/proc/self"))
    assert disks.folder_sync_trouble(tmp_path) == ""


# --- token and statistics


def write_token(home: Path, mode: int = 0o600, content: str = SECRET) -> Path:
    path = home / ".ray" / "auth_token"
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    path.chmod(mode)
    return path


def test_a_token_that_others_can_read(clean: Path) -> None:
    path = write_token(clean, 0o644)  # as Ray leaves it
    expect(security.token(), "problem", "0644", f"chmod 600 {path}")
    path.chmod(0o600)
    expect(security.token(), "ok", "0600")


def test_no_token(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expect(security.token(), "ok", "none yet")
    expect(security.token(AWAY), "problem", "not there", "192.0.2.7:6379", "chmod 600")
    expect(security.token(Address("127.0.0.1", 6379)), "warning", "not there")
    write_token(clean, content=" \n")
    expect(security.token(AWAY), "problem", "empty")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(clean / "elsewhere"))
    expect(security.token(), "problem", "elsewhere is not there", "RAY_AUTH_TOKEN_PATH")


def test_authentication_switched_off(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_token(clean)
    expect(security.token(AWAY), "warning", "not set", "RAY_AUTH_MODE=token")
    monkeypatch.setenv("RAY_AUTH_MODE", "TOKEN")
    expect(security.token(AWAY), "ok")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    expect(security.token(), "warning", "runs code as you")
    expect(security.token(AWAY), "problem", "RAY_AUTH_MODE=token")
    monkeypatch.setenv("RAY_AUTH_MODE", "tokens")
    expect(security.token(), "problem", "'tokens'", "disabled")


def test_the_token_is_never_shown(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", SECRET)
    found = [security.token(), security.token(AWAY)]
    expect(found[0], "warning", "process listings", "unset RAY_AUTH_TOKEN")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    for mode in (0o600, 0o644):
        write_token(clean, mode)
        found += [security.token(), security.token(AWAY)]
    assert SECRET not in str(found)


def test_usage_statistics(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expect(security.statistics(), "ok")
    config = clean / ".ray" / "config.json"
    config.parent.mkdir()
    config.write_text('{"usage_stats": true}')
    expect(security.statistics(), "warning", str(config), "RAY_USAGE_STATS_ENABLED=0")
    config.write_text('{"usage_stats": "no"}')
    expect(security.statistics(), "problem", "neither true nor false")
    config.write_text('{"usage_stats": false}')
    expect(security.statistics(), "ok", "off")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    expect(security.statistics(), "warning", "RAY_USAGE_STATS_ENABLED=1")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "false")
    expect(security.statistics(), "problem", "'false'")


# --- processes and ports


@contextmanager
def standing_in(*words: str, code: str = "read -r line", **options: Any) -> Iterator[subprocess.Popen]:
    """A process that has these words as its command line; it ends when we do, since it only waits for its input."""
    command = [words[0], "-c", code, *words[1:]]
    with subprocess.Popen(command, executable="/bin/bash", stdin=subprocess.PIPE, **options) as process:
        assert process.stdin is not None
        listing = Path(f"/proc/{process.pid}/cmdline")
        wait_for(lambda: listing.read_bytes().startswith(words[0].encode() + b"\0"))  # until it has become bash
        try:
            yield process
        finally:
            process.stdin.close()


def wait_for(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def left() -> dict[int, str]:
    """Pid -> why it counts as left behind."""
    return {process.pid: reason for process, reason in processes.leftovers(processes.process_table(), starting=0)}


@linux
def test_a_worker_without_a_raylet() -> None:
    with standing_in("ray::Worker.evaluate") as worker:
        found = processes.orphans(processes.process_table())
        expect(found, "warning", "ray::Worker.evaluate", "no raylet", str(worker.pid), "kill ")
        assert worker.poll() is None, "it is listed, not ended"


@linux
def test_a_worker_below_a_living_raylet() -> None:
    session = SESSION.format(os.getpid())
    code = "(exec -a ray::Worker bash -c 'read -r line'); :"
    with (
        standing_in("/x/gcs_server", f"--session-name={session}") as head,
        standing_in("/x/raylet", f"--session-name={session}", code=code) as raylet,
    ):
        below: list[int] = []
        wait_for(lambda: bool(below) or bool(below.extend(roles(parent=raylet.pid, role="ray::Worker"))))
        assert not {head.pid, raylet.pid, *below} & set(left())


def roles(parent: int, role: str) -> list[int]:
    return [each.pid for each in processes.process_table().values() if each.parent == parent and each.role == role]


@linux
def test_servers_whose_session_is_gone() -> None:
    session = SESSION.format(os.getpid() + 10_000_000)
    with socket.create_server(("127.0.0.1", 0)) as control:
        port = control.getsockname()[1]
        with (
            standing_in("raylet", f"--session-name={session}", f"--gcs-address=127.0.0.1:{port}") as joined,
            standing_in("python", "/lib/ray/_private/log_monitor.py", f"--session-dir=/tmp/{session}") as log,
        ):
            assert not {joined.pid, log.pid} & set(left()), "its control service, on another machine perhaps, answers"
            control.close()
            assert "gcs_server" in left()[joined.pid]
    with (
        standing_in("python", "/lib/ray/_private/log_monitor.py", f"--session-dir=/tmp/{session}") as log,
        standing_in("gcs_server", f"--session-name={session}9") as head,
    ):
        found = left()
        assert "session has ended" in found[log.pid]
        assert "raylet is gone" in found[head.pid]
        patient = processes.leftovers(processes.process_table(), starting=3600)
        assert head.pid not in {process.pid for process, _ in patient}, "it may be starting"


@linux
def test_zombies_are_nothing_to_end() -> None:
    with standing_in("ray::Worker") as worker:
        assert worker.stdin is not None
        worker.stdin.close()
        wait_for(lambda: ") Z " in Path(f"/proc/{worker.pid}/stat").read_text())
        assert worker.pid not in left()


@contextmanager
def listening(host: str, *words: str, **options: Any) -> Iterator[Check]:
    """What the check says of one process of ours that listens; others of this machine are left out."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        socket.create_server((host, 0), family=family) as server,
        standing_in(*words, pass_fds=[server.fileno()], **options) as process,
    ):
        table = processes.process_table()
        found = security.ports({process.pid: table[process.pid]})
        assert found.state == "ok" or str(server.getsockname()[1]) in found.found
        yield found


@linux
def test_a_dashboard_open_to_others() -> None:
    words = ("python", "/lib/ray/dashboard/dashboard.py", "--host=0.0.0.0")
    asked = {"env": {**os.environ, "RAY_AUTH_MODE": "token"}}
    with listening("0.0.0.0", *words, **asked) as found:
        expect(found, "warning", "dashboard", "on *:", "--dashboard-host=127.0.0.1")
    with listening("127.0.0.1", *words, **asked) as found:
        expect(found, "ok", "loopback")


@linux
def test_ports_open_to_others_without_a_token() -> None:
    with listening("0.0.0.0", "raylet") as found:
        expect(found, "problem", "without a token", "raylet", "RAY_AUTH_MODE=token")
    with listening("0.0.0.0", "raylet", env={**os.environ, "RAY_AUTH_MODE": "token"}) as found:
        expect(found, "warning", "with a token", "private network")
    with listening("::" if socket.has_ipv6 else "0.0.0.0", "gcs_server") as found:
        expect(found, "problem", "gcs_server")


@linux
def test_addresses_as_the_kernel_writes_them() -> None:
    if sys.byteorder == "little":
        assert security._decode("0100007F") == "127.0.0.1"
        assert security._decode("00000000000000000000000001000000") == "::1"
        assert security._decode("0000000000000000FFFF00000100007F") == "127.0.0.1"


# --- clock and address


def test_a_clock_that_is_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # without timedatectl
    expect(software.clock(), "ok", "UTC")
    newer = tmp_path / "module.py"
    newer.write_text("")
    os.utime(newer, (time.time() + 86400, time.time() + 86400))
    expect(software.clock(tmp_path), "warning", "own files are from", "set the clock")


def test_a_clock_without_a_time_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "bin", "timedatectl", "no")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    expect(software.clock(), "warning", "not synchronised")
    program(tmp_path / "bin", "timedatectl", "yes")
    expect(software.clock(), "ok")


def test_a_clock_that_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software.time, "monotonic", lambda: 7.0)
    expect(software.clock(), "problem", "stands still")


def test_an_address_where_nobody_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = Address.parse(f"ray://127.0.0.1:{server.getsockname()[1]}")
        expect(security.answers(address), "ok", "answers")
    expect(security.answers(address), "problem", "refused", "ray start --head")


@linux
def test_an_address_that_stays_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "KNOCK", 0.2)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, socket.socket() as first:
        first.connect(server.getsockname())  # fills the queue; the kernel drops who comes after
        expect(security.answers(Address(*server.getsockname())), "problem", "no answer", "firewall")


@pytest.mark.parametrize("text", ["auto", "host", "host:", ":6379", "host:0", "host:70000", "host:x", ""])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        Address.parse(text)


def test_loopback() -> None:
    local = ["127.0.0.1:1", "127.8.9.1:1", "[::1]:1", "localhost:1"]
    assert [Address.parse(text).is_loopback for text in [*local, "10.0.0.1:1", "head:1"]] == [True] * 4 + [False] * 2
    assert str(Address.parse("[::1]:6379")) == "[::1]:6379"


# --- the command


def test_a_check_is_ok_or_has_a_remedy() -> None:
    for state, remedy in (("ok", "do this"), ("problem", ""), ("warning", "")):
        with pytest.raises(ValueError, match="remedy"):
            Check("x", state, "found", remedy)  # type: ignore[arg-type]
    assert [size(0), size(1500), size(5 << 30), size(3 << 40)] == ["0 bytes", "1 KiB", "5.0 GiB", "3.0 TiB"]


def test_runs_are_looked_for_where_they_are_made() -> None:
    assert RUNS == POPULATIONS


def test_the_whole_report(tmp_path: Path, clean: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_token(clean, 0o644)
    code = gtl("doctor", "--run", tmp_path / "run", "--json")
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    states = {row["name"]: row["state"] for row in document["checks"]}
    assert (code, document["ok"], states["token"]) == (1, False, "problem")
    assert len(states) == len(document["checks"]) == 17
    assert all((row["remedy"] is None) == (row["state"] == "ok") for row in document["checks"])
    assert states["python"] == states["packages"] == states["torch"] == "ok"
    assert str(path) in printed.out and SECRET not in printed.out + printed.err
    assert not (tmp_path / "run").exists()


def some(*checks: Check) -> Callable[..., Iterator[Check]]:
    return lambda runs, address: iter(checks)


def test_warnings_do_not_fail(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    checks = [Check("shm", "warning", "little " * 30, "more"), Check("gpu", "ok", "none")]
    monkeypatch.setattr(doctor, "examine", some(*checks))
    assert gtl("doctor") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[0].startswith("! shm") and lines[1].strip() == "→ more"
    assert lines[-1] == "2 checks: 1 warning"
    monkeypatch.setattr(doctor, "examine", some(*checks, Check("token", "problem", "0644", "chmod")))
    assert gtl("doctor") == 1
    assert "1 problem, 1 warning" in capsys.readouterr().out


def test_an_address_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert gtl("doctor", "--address", "auto") == 2
    assert "HOST:PORT" in capsys.readouterr().err


def test_with_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "ask_torch", dict)  # what is asked of torch has its tests above
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = Address("127.0.0.1", server.getsockname()[1])
        found = {check.name: check for check in doctor.examine(tmp_path, address)}
    expect(found["address"], "ok", "answers")
    expect(found["token"], "warning", str(address))


def test_a_check_that_fails_itself() -> None:
    def fails() -> Check:
        raise KeyError("unforeseen")

    expect(doctor._settled("gpu", fails), "problem", "KeyError", "unforeseen", "report")
    assert doctor._settled("gpu", fails).name == "gpu"
