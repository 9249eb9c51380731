"""gtl launch: what is rendered, what is refused, and what the scripts do when they run.

After a wanted change of a template: GTL_UPDATE_GOLDEN=1 pytest tests/cluster/test_launch.py, and read the difference.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import gtl
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gtl.cluster import kuberay, ray_up, render, slurm
from gtl.cluster.kuberay import KubeRay, kuberay_files
from gtl.cluster.ray_up import RayUp, ray_up_files
from gtl.cluster.slurm import Slurm, slurm_files
from gtl.config_file import dump_config, load_config, parse_config
from gtl.errors import ConfigError, StorageError

GOLDEN = Path(__file__).parent / "golden"
TEXT = "name: tiny\ndata: {source: glyphs}\n"
CONFIG = parse_config(TEXT, "tiny")
SLURM = Slurm(
    nodes=4,
    time="1-12:00:00",
    partition="gpu",
    account="genes",
    run="/shared/runs/it's mine",
    venv="/shared/my venv",
    setup=("module load cuda/12",),
    sbatch=("--qos=long",),
)
KUBERAY = KubeRay(
    image="registry.example/gtl:0.1", claim="runs", ray_version="2.60.0", workers=3, namespace="lab", deadline=86400
)
SETUP = ("pip install 'ray[default]==2.60.0' gtl",)
AWS = RayUp("aws", SETUP, workers=3, region="us-west-2", instance="g5.xlarge", image="ami-0123456789abcdef0", spot=True)
GCP = RayUp(
    "gcp",
    SETUP,
    workers=2,
    region="us-west1",
    zone="us-west1-a",
    project="lab-1",
    instance="g2-standard-8",
    image="projects/p/global/images/i",
)
LOCAL = RayUp("local", SETUP, ips=("10.0.0.1", "10.0.0.2"), ssh_user="lab", ssh_key="~/.ssh/lab key")
TARGETS: dict[str, Callable[[], dict[str, str]]] = {
    "slurm": lambda: slurm_files(CONFIG, SLURM),
    "kuberay": lambda: kuberay_files(CONFIG, KUBERAY),
    "ray-up-aws": lambda: ray_up_files(CONFIG, AWS),
    "ray-up-gcp": lambda: ray_up_files(CONFIG, GCP),
    "ray-up-local": lambda: ray_up_files(CONFIG, LOCAL),
}
# The fields of ray.io/v1 that the RayJob uses, as KubeRay's CRD reference (1.6) lists them.
RAYJOB = {
    "submissionMode",
    "entrypoint",
    "backoffLimit",
    "shutdownAfterJobFinishes",
    "ttlSecondsAfterFinished",
    "activeDeadlineSeconds",
    "rayClusterSpec",
}
RAYCLUSTER = {"rayVersion", "authOptions", "enableInTreeAutoscaling", "headGroupSpec", "workerGroupSpecs"}
HEAD = {"serviceType", "enableIngress", "rayStartParams", "template"}
WORKERS = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


def write(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


# ---- what is rendered ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_golden(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (slurm, kuberay, ray_up):  # what a configuration dumps to is not this test's business
        monkeypatch.setattr(module, "dump_config", lambda _: TEXT)
    files = TARGETS[target]()
    folder = GOLDEN / target
    if os.environ.get("GTL_UPDATE_GOLDEN"):
        shutil.rmtree(folder, ignore_errors=True)
        write(folder, files)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {k: v.encode() for k, v in files.items()}


@pytest.mark.parametrize("target", TARGETS)
def test_everything_parses(target: str, tmp_path: Path) -> None:
    for name, text in TARGETS[target]().items():
        assert text.endswith("\n")
        if name.endswith(".sh"):
            path = tmp_path / name
            path.write_text(text)
            done = subprocess.run(["bash", "-n", path], capture_output=True, text=True, check=False)
            assert (done.returncode, done.stderr) == (0, "")
        else:
            assert isinstance(yaml.safe_load(text), dict)


def test_rayjob_has_the_fields_of_the_api_and_no_others() -> None:
    files = kuberay_files(CONFIG, KUBERAY)
    job, configmap = yaml.safe_load(files["rayjob.yaml"]), yaml.safe_load(files["configmap.yaml"])
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    cluster = spec["rayClusterSpec"]
    assert (set(spec), set(cluster)) == (RAYJOB, RAYCLUSTER)
    assert (set(cluster["headGroupSpec"]), set(cluster["workerGroupSpecs"][0])) == (HEAD, WORKERS)
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    head = cluster["headGroupSpec"]["template"]["spec"]
    worker = cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in worker["env"]
    assert worker["resources"]["limits"] == {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "1"}
    mounts = {mount["name"]: mount["mountPath"] for mount in head["containers"][0]["volumeMounts"]}
    assert mounts == {"launch": "/launch", "runs": "/runs"}
    assert head["volumes"][0]["configMap"]["name"] == configmap["metadata"]["name"] == "gtl-tiny"
    assert configmap["data"]["config.yaml"] == dump_config(CONFIG)
    assert configmap["data"]["start.sh"] == render.start_script("/runs/tiny")


def test_no_workers_no_gpus_no_deadline() -> None:
    spec = yaml.safe_load(
        kuberay_files(CONFIG, KubeRay(image="i", claim="c", ray_version="2.60.0", workers=0, gpus=0))["rayjob.yaml"]
    )["spec"]
    assert "workerGroupSpecs" not in spec["rayClusterSpec"]
    assert "activeDeadlineSeconds" not in spec
    limits = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"cpu": "4", "memory": "16Gi"}


@pytest.mark.parametrize("options", [AWS, GCP, LOCAL], ids=lambda options: options.provider)
def test_ray_up_file_is_valid_for_ray(options: RayUp) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    from importlib.util import find_spec

    ray = find_spec("ray")
    assert ray is not None
    assert ray.origin is not None
    schema = json.loads((Path(ray.origin).parent / "autoscaler" / "ray-schema.json").read_text())
    cluster = yaml.safe_load(ray_up_files(CONFIG, options)["cluster.yaml"])
    jsonschema.validate(cluster, schema)
    assert cluster["setup_commands"][1:] == list(SETUP)
    for command in (cluster["head_start_ray_commands"][1], cluster["worker_start_ray_commands"][1]):
        assert "RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0" in command
    assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][1]


def test_slurm_directives_come_before_the_first_command() -> None:
    job = slurm_files(CONFIG, SLURM)["job.sh"].splitlines()
    first = next(i for i, line in enumerate(job) if line and not line.startswith("#"))
    directives = [line for line in job if line.startswith("#SBATCH")]
    assert directives == [line for line in job[:first] if line.startswith("#SBATCH")]
    for wanted in ("--signal=B:TERM@120", "--requeue", "--open-mode=append", "--nodes=4", "--exclusive", "--qos=long"):
        assert f"#SBATCH {wanted}" in directives


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TEXT)
    return path


def test_cli_writes_a_folder_and_says_what_is_next(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "folder"
    assert gtl("launch", "slurm", config, "--set", "data.root=pictures", "--out", out) == 0
    said = capsys.readouterr()
    assert said.out.split() == [str(out / name) for name in ("job.sh", "start.sh", "config.yaml")]
    assert "sbatch job.sh" in said.err
    assert "data.root = pictures" in said.err
    assert load_config(out / "config.yaml").data.root == "pictures"
    assert gtl("launch", "kuberay", config, "--image", "i", "--claim", "c", "--out", tmp_path / "k") == 0
    words = ("--provider", "local", "--ip", "10.0.0.1", "--setup", "true", "--out", tmp_path / "r")
    assert gtl("launch", "ray-up", config, *words) == 0


def test_a_broken_config_is_refused_before_anything_is_written(
    config: Path,
    tmp_path: Path,
) -> None:
    assert gtl("launch", "slurm", config, "--set", "seed=-1", "--out", tmp_path / "out") == 2
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    assert gtl("launch", "slurm", config, "--out", folder) == 74
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    assert gtl("launch", "slurm", config, "--out", folder / "notes.txt") == 74
    (folder / "notes.txt").unlink()
    render.write_folder(folder, {"a": "b"})
    with pytest.raises(StorageError, match="not an empty folder"):
        render.write_folder(folder, {"a": "c"})
    assert (folder / "a").read_text() == "b"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: slurm_files(CONFIG, Slurm(time="soon")), "--time"),
        (lambda: slurm_files(CONFIG, Slurm(partition="gpu; rm -rf x")), "--partition"),
        (lambda: slurm_files(CONFIG, Slurm(account="a\n#SBATCH --uid=0")), "--account"),
        (lambda: slurm_files(CONFIG, Slurm(sbatch=("--qos=a\nrm -rf x",))), "--sbatch"),
        (lambda: slurm_files(CONFIG, Slurm(sbatch=("qos",))), "--sbatch"),
        (lambda: slurm_files(CONFIG, Slurm(setup=("a\nb",))), "--setup"),
        (lambda: slurm_files(CONFIG, Slurm(run="~/run")), "--run"),
        (lambda: slurm_files(CONFIG, Slurm(run="--out")), "--run"),
        (lambda: slurm_files(CONFIG, Slurm(venv="-v")), "--venv"),
        (lambda: kuberay_files(CONFIG, KubeRay("i:\n- x", "c", "2.60.0")), "--image"),
        (lambda: kuberay_files(CONFIG, KubeRay("i", "c: d", "2.60.0")), "--claim"),
        (lambda: kuberay_files(CONFIG, KubeRay("i", "c", "2.60.0", name="a" * 48)), "--name"),
        (lambda: kuberay_files(CONFIG, KubeRay("i", "c", "2.60.0", run="/tmp/run")), "--run"),
        (lambda: kuberay_files(CONFIG, KubeRay("i", "c", "2.60.0", run="/runs/../etc")), "--run"),
        (lambda: kuberay_files(CONFIG, KubeRay("i", "c", "2.60.0", memory="much")), "--memory"),
        (lambda: ray_up_files(CONFIG, RayUp("azure", SETUP)), "--provider"),
        (lambda: ray_up_files(CONFIG, RayUp("local", SETUP)), "--ip"),
        (lambda: ray_up_files(CONFIG, RayUp("local", ())), "--setup"),
        (lambda: ray_up_files(CONFIG, RayUp("aws", SETUP, image="ami", instance="t")), "--region"),
        (lambda: ray_up_files(CONFIG, RayUp("aws", SETUP, region="r", instance="t")), "--image"),
        (lambda: ray_up_files(CONFIG, RayUp("gcp", SETUP, region="r", image="i", instance="t", zone="z")), "--project"),
    ],
)
def test_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@settings(max_examples=200, deadline=None)
@example("\u2028: [x\U0001f600")
@example('it\'s "x" \\ # - ? {}')
@given(texts)
def test_any_text_reads_back_from_yaml(text: str) -> None:
    assert yaml.safe_load(render.quoted(text)) == text
    many = f"{text}\nsecond: line\n"
    assert yaml.safe_load(f"a: {render.block(many, 2)}\nb: 1\n") == {"a": many, "b": 1}
    assert yaml.safe_load(render.tree({"a": [text, {"b": text}], "c": {}, "d": 1})) == {
        "a": [text, {"b": text}],
        "c": {},
        "d": 1,
    }
