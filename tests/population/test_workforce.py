"""Who evaluates is decided before anything starts, and what results depend on is fixed in the configuration."""

from __future__ import annotations

import pytest
import torch
from pico import config

from gtl.config_file import config_hash
from gtl.errors import ConfigError
from gtl.population import workforce
from gtl.population.workforce import Workforce, settle


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workforce, "cores", lambda: 8)
    monkeypatch.setattr(workforce, "usual_threads", lambda: 8)


@pytest.mark.parametrize(
    ("threads", "configured", "given", "workers", "settled"),
    [
        (0, 0, None, 1, 1),  # all threads of this process: one worker is all there is to use (tests have one thread)
        (2, 0, None, 4, 2),  # 8 cores, 2 for each
        (2, 3, None, 3, 2),
        (2, 3, 1, 1, 2),  # the command line says more than the file
        (0, 0, 4, 4, 2),  # shared out
        (1, 0, None, 4, 1),  # no more than individuals
        (0, 0, 100, 4, 2),
        (16, 0, None, 1, 16),
    ],
)
def test_workers_and_threads(threads: int, configured: int, given: int | None, workers: int, settled: int) -> None:
    asked = config(compute={"threads": threads}, cluster={"workers": configured}, evolution={"population": 4})
    found, force = settle(asked, given)
    assert (force, found.compute.threads) == (Workforce(workers), settled)
    assert force.in_process == (workers == 1)
    same = {"compute": asked.compute, "cluster": asked.cluster, "founders": asked.founders}
    assert found.model_copy(update=same) == asked, "nothing else changes"
    assert settle(found, given) == (found, force), "nor when the run is resumed"


@pytest.mark.parametrize(
    ("own", "of_workers", "workers", "address", "settled"),
    [
        (0, 1, 1, None, 8),  # however many workers there are, for they would wait
        (0, 1, 4, None, 8),
        (0, 16, 1, None, 16),  # more than the cores, because that was asked for
        (3, 1, 4, None, 3),
        (0, 2, 4, "auto", 2),  # of a cluster's node, a worker has only its own
    ],
)
def test_the_ancestor_trains_on_all_cores(
    own: int, of_workers: int, workers: int, address: str | None, settled: int
) -> None:
    asked = config(compute={"threads": of_workers}, founders={"threads": own})
    found, _ = settle(asked, workers, address)
    assert (found.founders.threads, found.compute.threads) == (settled, of_workers)
    assert settle(found, 1, address)[0].founders.threads == settled, "nor does it change when the run is resumed"


def test_a_hundred_cores_are_too_many_for_one_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workforce, "usual_threads", lambda: 100)
    assert settle(config(compute={"threads": 1}))[0].founders.threads == workforce.ANCESTOR_THREADS


def test_gpus_are_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    auto = {"compute": {"device": "auto"}, "evolution": {"population": 50}}
    assert settle(config(**auto))[1] == Workforce(2, None, 2)
    assert settle(config(**auto, cluster={"workers_per_gpu": 3}))[1] == Workforce(6, None, 2)
    assert settle(config(compute={"device": "cpu"}))[1] == Workforce(1)
    assert settle(config(compute={"device": "cuda:1"}))[1] == Workforce(1, None, 1)


def test_a_cluster_is_used_up_to_the_population() -> None:
    small = config(evolution={"population": 5})
    found, force = settle(small, None, "auto")
    assert force == Workforce(5, "auto") and not force.in_process and found.compute.threads == 1
    assert settle(small, 2, "node-1:6379")[1] == Workforce(2, "node-1:6379")
    assert not settle(small, 1, "auto")[1].in_process, "one worker of a cluster is still the cluster's"


def test_no_workers_are_refused() -> None:
    with pytest.raises(ConfigError, match="--workers 0: at least one is needed"):
        settle(config(), 0)


def test_how_it_is_spread_changes_no_hash() -> None:
    threads = {"compute": {"threads": 1}, "founders": {"threads": 2}}
    asked = config(**threads)
    assert config_hash(asked) == config_hash(config(**threads, cluster={"workers": 7, "attempts": 1}))
    assert config_hash(settle(asked, 2)[0]) == config_hash(settle(asked, 1)[0]) == config_hash(asked)
