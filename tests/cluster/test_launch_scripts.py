"""The scripts that `gtl launch` renders, when they run: start.sh, and the SLURM job on a real Ray."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gtl.cluster import render
from gtl.cluster.slurm import Slurm, slurm_files
from gtl.config import Config
from gtl.config_file import parse_config
from gtl.errors import GtlError

TEXT = "name: tiny\ndata: {source: glyphs}\n"
CONFIG = parse_config(TEXT, "tiny")
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


def write(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def _fake_gtl(folder: Path) -> dict[str, str]:
    """An environment in which gtl is a script that writes down its words."""
    folder.mkdir(exist_ok=True)
    (folder / "gtl").write_text('#!/bin/sh\nprintf \'%s\\0\' "$@" >"$WORDS"\n')
    (folder / "gtl").chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "WORDS": str(folder / "words")}


# ---- what start.sh does --------------------------------------------------------------------------------------------


def _start(folder: Path, run: str = "run") -> tuple[int, list[str], str]:
    write(folder, {"start.sh": render.start_script(run), "config.yaml": TEXT})
    environment = _fake_gtl(folder / "bin")
    done = subprocess.run(
        ["bash", folder / "start.sh"], env=environment, capture_output=True, text=True, check=False, cwd="/"
    )
    words = Path(environment["WORDS"])
    return done.returncode, words.read_text().split("\0")[:-1] if words.exists() else [], done.stderr


def test_start_resumes_a_run(tmp_path: Path) -> None:
    write(tmp_path / "run", {"run.json": "{}"})
    assert _start(tmp_path)[:2] == (0, ["resume", "run", "--address", "auto"])


def test_start_puts_aside_what_a_killed_start_left(tmp_path: Path) -> None:
    left = {"config.yaml": TEXT, "lineage.jsonl": "", "run.json.tmp.0123456789ab": ""}
    write(tmp_path / "run", left)
    code, words, _ = _start(tmp_path)
    assert (code, words[0]) == (0, "evolve")
    (aside,) = tmp_path.glob("run.killed-*")
    assert sorted(path.name for path in aside.iterdir()) == sorted(left)
    assert not (tmp_path / "run").exists()


def test_start_takes_an_empty_folder_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    code, words, _ = _start(tmp_path)
    assert (code, words[0]) == (0, "evolve")
    assert (tmp_path / "run").is_dir()


@pytest.mark.parametrize("name", ["thesis.tex", "lineage.jsonl", ".hidden"])
def test_start_leaves_the_files_of_others_alone(tmp_path: Path, name: str) -> None:
    write(tmp_path / "run", {"config.yaml": TEXT, name: "mine"})
    code, words, message = _start(tmp_path)
    assert (code, words) == (2, [])
    assert name in message
    assert (tmp_path / "run" / name).read_text() == "mine"


@settings(max_examples=40, deadline=None)
@example('it\'s "mine" $(touch x) `touch x` \\ ; touch x')
@example("a\ntouch x")
@example("$HOME/@@{run}")
@example("*")
@given(texts)
def test_a_run_path_reaches_gtl_as_it_is_or_is_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("launch")
    try:
        files = slurm_files(CONFIG, Slurm(run=text))
    except GtlError:
        assert not text.strip() or not text.isprintable() or text[0] in "-~"
        return
    write(folder, files)
    environment = _fake_gtl(folder / "bin")
    if not Path(text).is_absolute():  # for others, files of this machine decide whether the run exists
        subprocess.run(["bash", folder / "start.sh"], env=environment, check=True, cwd="/")
        words = Path(environment["WORDS"]).read_text().split("\0")
        assert words == ["evolve", "config.yaml", "--out", text, "--address", "auto", ""]
    done = subprocess.run(["bash", "-n", folder / "job.sh"], check=False)
    assert done.returncode == 0
    assert not (folder / "x").exists()


# ---- the SLURM job, with stand-ins for SLURM and gtl, on a real Ray ------------------------------------------------

SRUN = '#!/bin/bash\nwhile [ "$1" != ray ]; do shift; done\nexec "$@"\n'
SCONTROL = '#!/bin/bash\necho "$@" >>"$NOTES/scontrol"\n'
DRIVER = """#!{python}
import json, os, signal, stat, sys, time
from pathlib import Path
import ray

notes, words = Path(os.environ["NOTES"]), sys.argv[1:]
ray.init(address=words[words.index("--address") + 1], log_to_driver=False)
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
secret = token.read_bytes().strip()
seen = [p.name for p in Path("/proc").glob("[0-9]*") if secret in (p / "cmdline").read_bytes()]
seen += [str(p) for p in Path(os.environ["RAY_TMPDIR"]).rglob("*.*") if p.is_file() and secret in p.read_bytes()]
record = dict(words=words, mode=stat.S_IMODE(token.stat().st_mode), seen=seen, usage=os.environ["RAY_USAGE_STATS_ENABLED"],
              answer=ray.get(ray.remote(num_cpus=1)(lambda: 42).remote()), auth=os.environ["RAY_AUTH_MODE"])
with (notes / "driver").open("a") as file:
    file.write(json.dumps(record) + "\\n")
if words[0] == "evolve":
    run = Path(words[words.index("--out") + 1])
    run.mkdir()
    (run / "run.json").write_text("{{}}")
    while not stopped:
        time.sleep(0.1)
    sys.exit(75)
"""
# Its own process namespace: symmetric-run refuses to start beside another Ray, and at its end stops every Ray it sees.
ALONE = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc")
STORY = """
bash job.sh >first.log 2>&1 & job=$!
for _ in $(seq 600); do [ -e "run/$AWAITED" ] && break; kill -0 "$job" || break; sleep 0.1; done
kill -TERM "$job"; wait "$job"; echo "first $?"
pgrep gcs_server >/dev/null && echo "ray is still there"
SLURM_RESTART_COUNT=1 bash job.sh >second.log 2>&1; echo "second $?"
ls -d .job-* 2>/dev/null
"""
SMALL = """
name: small
data: {source: glyphs, images_per_class: 12, image_size: 28, train_classes: 6, val_classes: 4, novel_classes: 4}
model: {arch: vgg11, width: 0.0625}
founders: {epochs: 2, training: {batch_size: 16}}
gene: {budget: 0.3, initial_share: [0.1, 0.3]}
evolution: {population: 4, generations: 4, tournament: {size: 2}}
life: {steps: 60, n_way: 3, training: {batch_size: 16}}
critic: {fit_images: 4, score_images: 6}
fewshot: {shots: [2], test_images: 4, learning_rates: [0.05]}
compute: {precision: float32}
"""


def _two_jobs(root: Path, config: Config, tools: dict[str, str], awaited: str) -> tuple[list[str], str]:
    """Run the SLURM job, stop it by TERM when the run has a file of that name, and run it again; what was said, logs."""
    if shutil.which("unshare") is None or subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs user and process namespaces")
    folder = write(root / "launch", slurm_files(config, Slurm(cpus_per_node=1, gpus_per_node=0)))
    tools = {"srun": SRUN, "scontrol": SCONTROL, **tools}
    for name in tools:
        (write(root / "bin", tools) / name).chmod(0o755)
    job = str(os.getpid())
    environment = {
        "HOME": str(root),
        "PATH": f"{root / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "NOTES": str(root),
        "AWAITED": awaited,
        "OMP_NUM_THREADS": "1",
        "RAY_worker_niceness": "0",  # as for all tests
        "SLURM_SUBMIT_DIR": str(folder),
        "SLURM_JOB_ID": job,
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_CPUS_PER_TASK": "1",
    }
    try:
        done = subprocess.run(
            [*ALONE, "bash", "-c", STORY],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )
    finally:
        shutil.rmtree(f"/tmp/gtl-{job}", ignore_errors=True)
    logs = "".join((folder / name).read_text() for name in ("first.log", "second.log"))
    assert (root / "scontrol").is_file(), logs
    assert (root / "scontrol").read_text() == f"requeue {job}\n"
    return done.stdout.splitlines(), done.stderr + logs


@pytest.mark.slow
@pytest.mark.ray
def test_slurm_job_stops_in_time_queues_itself_again_and_resumes(tmp_path: Path) -> None:
    said, logs = _two_jobs(tmp_path, CONFIG, {"gtl": DRIVER.format(python=sys.executable)}, "run.json")
    assert said == ["first 75", "second 0"], logs
    first, second = map(json.loads, (tmp_path / "driver").read_text().splitlines())
    assert (first["words"][0], second["words"][:2]) == ("evolve", ["resume", "run"])
    for record in (first, second):
        assert (record["answer"], record["mode"], record["auth"], record["usage"]) == (42, 0o600, "token", "0")
        assert record["seen"] == []  # the token: in no command line, in no log


@pytest.mark.ray
@pytest.mark.slow
def test_slurm_job_evolves_a_gene_in_two_pieces(tmp_path: Path) -> None:
    said, logs = _two_jobs(tmp_path, parse_config(SMALL, "small"), {}, "gen-000001")
    assert said == ["first 75", "second 0"], logs
    assert (tmp_path / "launch" / "run" / "learngene.safetensors").is_file()
