"""Bytes on the wire per evaluation, against the genes that have to travel: a cluster whose workers are all elsewhere.

Counted by the kernel, on the loopback interface that the nodes talk through. `scaling.py` runs this in a network
namespace of its own where the system allows it, so that nobody else's bytes are counted.
"""

from __future__ import annotations

import fcntl
import os
import socket
import statistics
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import sleeping
from figure import Figure, rounded

from gtl.config import ClusterSection
from gtl.genotype import Genotype
from gtl.individual import Job, ParentGene
from gtl.models import gene_layout, spec_of
from gtl.population.blobs import BlobStore
from gtl.population.ray_pool import RayPool, Room
from gtl.population.retry import Call
from gtl.population.signals import Signals

ALONE = "GTL_OWN_NETWORK"  # set by who started this process in a network namespace of its own
GENE = 860_000  # bytes of a gene of a quarter-width VGG11 at a budget of 20 %
LIFE = 0.1  # seconds
UP = 0x1 | 0x40  # IFF_UP, IFF_RUNNING


def measure(small: bool) -> Iterator[Figure]:
    """The ratio, several times: evaluations, then the same time idle."""
    from ray.cluster_utils import Cluster

    alone = os.environ.get(ALONE) == "1"
    if alone:
        raise_loopback()
    jobs, repetitions = (10, 2) if small else (60, 5)
    os.environ["RAY_AUTH_MODE"] = "disabled"
    head = {"num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        room = Room(address=cluster.address, workers=2)
        ready = 0

        def told(report: object) -> None:
            nonlocal ready
            ready = report.ready  # type: ignore[attr-defined]

        with (
            Signals() as signals,
            RayPool(room, ClusterSection(), sleeping.prepare, None, signals=signals, report=told) as pool,
        ):
            while ready < 2:
                list(pool.run([Call(f"wake-{n}", "wake", sleeping.wake) for n in range(2)]))
            measured = [once(pool, jobs, repetition) for repetition in range(repetitions)]
    finally:
        with suppress(Exception):
            cluster.shutdown()
    yield Figure(
        "bytes on the wire per evaluation, against those of its parent's gene and its own",
        [ratio for ratio, _, _ in measured], "ratio", most=1.1,
        notes={
            "gene bytes": GENE, "evaluations": jobs, "workers": 2, "nodes": 3,
            "bytes on the wire per evaluation": rounded(statistics.median(wire for _, wire, _ in measured)),
            "counted by the pool, against the wire": [rounded(counted) for _, _, counted in measured],
            "includes": "headers of TCP and IP, jobs, Ray's calls; without what an idle cluster says in the same time",
            "network": "alone in its namespace" if alone else "loopback shared with other programs",
        },
    )  # fmt: skip


def once(pool: RayPool, jobs: int, repetition: int) -> tuple[float, float, float]:
    """Ratio to the genes, bytes on the wire of an evaluation, and what the pool counted as a share of those."""
    genes = BlobStore()
    layout = gene_layout("vgg11", dict(spec_of("vgg11", num_classes=10, width=0.25).widths))
    full, calls = Genotype.full(layout.groups), []
    for number in range(jobs):
        digest = genes.put_bytes(os.urandom(GENE))  # of its own for every child: no node has it yet
        parents, name = (ParentGene("parent", digest, full),), f"r{repetition}-{number}"
        job = Job(name, 1, full, parents, lives=True, seed=number, critic_seed=1, critic_tasks=1, task_seed=1)
        calls.append(Call(name, "life", sleeping.sleeper(LIFE, LIFE, GENE), (job.text,), (digest,)))
    pool.traffic.sent = pool.traffic.received = 0
    before, began = received(), time.monotonic()
    results = [value for arrived in pool.run(calls, genes.get_bytes) for _, value in arrived]
    took, busy = time.monotonic() - began, received() - before
    time.sleep(1.0)
    before = received()
    time.sleep(took)
    idle = received() - before
    travelled = sum(len(gene) + int(evaluation.metrics["fetched"]) for gene, evaluation in results)
    wire = busy - idle
    return wire / travelled, wire / jobs, (pool.traffic.sent + pool.traffic.received) / wire


def received() -> int:
    """Bytes that the loopback interface has carried."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[0])
    raise RuntimeError("no loopback interface")


def raise_loopback() -> None:
    """In a new network namespace it is down."""
    with socket.socket() as some:
        fcntl.ioctl(some, 0x8914, struct.pack("16sH14x", b"lo", UP))  # SIOCSIFFLAGS
