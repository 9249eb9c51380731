"""gtl launch: render the files that start a run on a cluster."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from gtl.cli.common import Overrides, say
from gtl.cluster.kuberay import KubeRay, kuberay_files
from gtl.cluster.ray_up import RayUp, ray_up_files
from gtl.cluster.render import notes, write_folder
from gtl.cluster.slurm import Slurm, slurm_files
from gtl.config import Config
from gtl.config_file import load_config

app = typer.Typer(no_args_is_help=True)

ConfigFile = Annotated[Path, typer.Argument(help="YAML file, see configs/. It is checked now and copied, resolved.")]
Out = Annotated[Path | None, typer.Option(help="New folder for the files; by default NAME-slurm and so on, here.")]
Setup = Annotated[list[str] | None, typer.Option(help="Shell line that makes gtl and ray available; repeatable.")]


@app.command()
def slurm(
    config: ConfigFile,
    set_: Overrides = None,
    out: Out = None,
    nodes: Annotated[int, typer.Option(min=1)] = 1,
    gpus_per_node: Annotated[int, typer.Option(min=0)] = 1,
    cpus_per_node: Annotated[int, typer.Option(min=1)] = 8,
    time: Annotated[str, typer.Option(help="Time limit of one job; the run goes on in the next.")] = "24:00:00",
    partition: Annotated[str | None, typer.Option()] = None,
    account: Annotated[str | None, typer.Option()] = None,
    run: Annotated[str, typer.Option(help="Run directory; a relative one lies in the folder of the files.")] = "run",
    venv: Annotated[str | None, typer.Option(help="Virtual environment to activate.")] = None,
    setup: Setup = None,
    sbatch: Annotated[
        list[str] | None, typer.Option(help="Further option of sbatch, as --sbatch=--qos=long; repeatable.")
    ] = None,
    requeues: Annotated[int, typer.Option(min=0, help="How often the job may queue itself again.")] = 100,
) -> None:
    """An sbatch script that resumes after every time limit."""
    settled = load_config(config, set_ or ())
    options = Slurm(
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        cpus_per_node=cpus_per_node,
        time=time,
        partition=partition,
        account=account,
        run=run,
        venv=venv,
        setup=tuple(setup or ()),
        sbatch=tuple(sbatch or ()),
        requeues=requeues,
    )
    folder = _write(settled, slurm_files(settled, options), out, "slurm")
    say(f"next: cd {folder} && sbatch job.sh")


@app.command()
def kuberay(
    config: ConfigFile,
    image: Annotated[str, typer.Option(help="Container image with gtl and ray[default].")],
    claim: Annotated[str, typer.Option(help="Persistent volume claim for the run directory.")],
    set_: Overrides = None,
    out: Out = None,
    workers: Annotated[int, typer.Option(min=0, help="Worker pods beside the head pod, which works as well.")] = 1,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of every pod; the head trains the ancestor on its own.")] = 1,
    cpus: Annotated[int, typer.Option(min=1, help="CPUs of every pod.")] = 4,
    memory: Annotated[str, typer.Option(help="Memory of every pod.")] = "16Gi",
    namespace: Annotated[str, typer.Option()] = "default",
    name: Annotated[str | None, typer.Option(help="Name of the RayJob; by default gtl-NAME.")] = None,
    run: Annotated[str | None, typer.Option(help="Run directory below /runs/, where the claim is mounted.")] = None,
    ray_version: Annotated[
        str | None, typer.Option(help="Ray in the image; by default the one installed here.")
    ] = None,
    deadline: Annotated[int | None, typer.Option(min=1, help="Seconds after which KubeRay ends the job.")] = None,
    retries: Annotated[int, typer.Option(min=0, help="How often a lost job is started again.")] = 20,
) -> None:
    """A KubeRay RayJob that resumes after every loss of its pods."""
    settled = load_config(config, set_ or ())
    options = KubeRay(
        image=image,
        claim=claim,
        ray_version=ray_version or version("ray"),
        workers=workers,
        gpus=gpus,
        cpus=cpus,
        memory=memory,
        namespace=namespace,
        name=name,
        run=run,
        deadline=deadline,
        retries=retries,
    )
    folder = _write(settled, kuberay_files(settled, options), out, "kuberay")
    say(f"next: kubectl apply -f {folder}")


@app.command("ray-up")
def ray_up(
    config: ConfigFile,
    provider: Annotated[str, typer.Option(help="aws, gcp or local (machines that you can log in to).")],
    set_: Overrides = None,
    out: Out = None,
    setup: Setup = None,
    workers: Annotated[int, typer.Option(min=0, help="Machines beside the head, which works as well.")] = 1,
    region: Annotated[str | None, typer.Option()] = None,
    zone: Annotated[str | None, typer.Option(help="Availability zone.")] = None,
    project: Annotated[str | None, typer.Option(help="GCP project.")] = None,
    instance: Annotated[str | None, typer.Option(help="Instance or machine type, for example g5.xlarge.")] = None,
    image: Annotated[str | None, typer.Option(help="AMI, or source image of GCP.")] = None,
    disk_gb: Annotated[int, typer.Option(min=10)] = 200,
    spot: Annotated[bool, typer.Option("--spot", help="Rent workers that may be taken away.")] = False,
    ip: Annotated[
        list[str] | None, typer.Option(help="Machine of a local cluster, the head first; repeatable.")
    ] = None,
    ssh_user: Annotated[str, typer.Option()] = "ubuntu",
    ssh_key: Annotated[str | None, typer.Option(help="Private key; for clouds Ray makes one.")] = None,
    run: Annotated[str, typer.Option(help="Run directory on the head; a relative one lies in ~/gtl.")] = "run",
) -> None:
    """A cluster file for `ray up`."""
    settled = load_config(config, set_ or ())
    options = RayUp(
        provider=provider,
        setup=tuple(setup or ()),
        workers=workers,
        region=region,
        zone=zone,
        project=project,
        instance=instance,
        image=image,
        disk_gb=disk_gb,
        spot=spot,
        ips=tuple(ip or ()),
        ssh_user=ssh_user,
        ssh_key=ssh_key,
        run=run,
    )
    folder = _write(settled, ray_up_files(settled, options), out, "ray-up")
    say(f"next: the three lines at the top of {folder / 'cluster.yaml'}")


def _write(config: Config, files: dict[str, str], out: Path | None, target: str) -> Path:
    folder = out if out is not None else Path(f"{config.name}-{target}")
    write_folder(folder, files)
    for name in files:
        print(folder / name)
    for note in notes(config):
        say(f"note: {note}")
    return folder
