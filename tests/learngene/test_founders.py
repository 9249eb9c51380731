"""The ancestor: trained in parts as in one piece, with the threads that the configuration says."""

from __future__ import annotations

import pytest
import torch
from tiny_run import tiny

from gtl.descent import Descent
from gtl.learngene import founders
from gtl.learngene.founders import ancestor_part
from gtl.life import World
from gtl.resuming import Saved
from gtl.surgery import GeneTensors
from gtl.world import make_world


def in_parts(world: World, seconds: float) -> tuple[GeneTensors, int]:
    """The ancestor of parts of about so many seconds, and their number."""
    part: Saved | tuple[GeneTensors, int] | None = None
    count = 0
    while part is None or isinstance(part, Saved):
        part, count = ancestor_part(world, part, seconds), count + 1
    return part[0], count


def test_the_ancestor_trains_with_its_own_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(tiny(compute={"threads": 1}, founders={"threads": 2}))
    with_threads, real = [], Descent.step

    def step(*args: object) -> None:
        with_threads.append(torch.get_num_threads())
        real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(Descent, "step", step)
    whole, parts = in_parts(world, 1e9)
    assert parts == 1 and set(with_threads) == {2} and len(with_threads) == founders.ancestor_steps(world.config, 84)
    assert torch.get_num_threads() == 1, "lives come after it in the same process"
    pieces, parts = in_parts(world, 0.0)
    assert parts > 2 and all(torch.equal(pieces[name], tensor) for name, tensor in whole.items())
