"""Deadlines and attempts, without any process."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtl.config import ClusterSection
from gtl.individual import Status
from gtl.population.retry import REMEMBERED, Call, Deadlines, Lost, Queue


def calls(count: int) -> list[Call]:
    return [Call(f"c{number}", "life", print) for number in range(count)]


def test_a_deadline_is_a_multiple_of_the_median_and_never_below_the_least() -> None:
    deadlines = Deadlines(ClusterSection(deadline=10.0, deadline_factor=3.0, first_deadline=100.0))
    assert deadlines.seconds("life") == 100.0
    deadlines.finished("life", 1.0)
    assert deadlines.seconds("life") == 10.0
    for seconds in (20.0, 30.0):
        deadlines.finished("life", seconds)
    assert deadlines.seconds("life") == 60.0, "three times the middle one"
    assert deadlines.seconds("criticism") == 100.0, "kinds do not mix"


@given(st.lists(st.floats(0.001, 1e4), min_size=1, max_size=3 * REMEMBERED))
def test_the_median_is_of_recent_calls(durations: list[float]) -> None:
    deadlines = Deadlines(ClusterSection(deadline=1e-9, deadline_factor=1.0))
    for seconds in durations:
        deadlines.finished("life", seconds)
    assert deadlines.seconds("life") == statistics.median_high(durations[-REMEMBERED:])


def test_calls_come_in_their_order() -> None:
    queue = Queue(calls(3), attempts=3)
    assert [queue.next_for("a", {"a"}).key for _ in range(3)] == ["c0", "c1", "c2"]  # type: ignore[union-attr]
    assert queue.next_for("a", {"a"}) is None and len(queue) == 0


def test_what_cost_a_worker_is_tried_first_and_elsewhere() -> None:
    queue = Queue(calls(3), attempts=3)
    first = queue.next_for("a", {"a", "b"})
    assert first is not None and queue.failed(first, "a", "died", 1.0) is None
    here = queue.next_for("a", {"a", "b"})
    assert here is not None and here.key == "c1", "on the same node it waits"
    there = queue.next_for("b", {"a", "b"})
    assert there is not None and there.key == "c0"
    assert queue.failed(there, "b", "died", 1.0) is None
    again = queue.next_for("a", {"a", "b"})
    assert again is not None and again.key == "c0", "every node had it: any will do"
    lost = queue.failed(again, "a", "signal 9", 2.5)
    assert lost == Lost(Status.LOST, "cost 3 workers on 2 nodes; the last: signal 9", 2.5)
    assert len(queue) == 1


def test_where_all_others_are_gone_the_same_node_will_do() -> None:
    queue = Queue(calls(1), attempts=3)
    call = queue.next_for("a", {"a", "b"})
    assert call is not None
    queue.failed(call, "a", "died", 1.0)
    assert queue.next_for("a", {"a"}) == call


def test_put_back_costs_nothing() -> None:
    queue = Queue(calls(1), attempts=1)
    for _ in range(10):
        call = queue.next_for("a", {"a"})
        assert call is not None
        queue.put_back(call)
    assert len(queue) == 1
    call = queue.next_for("a", {"a"})
    assert call is not None and isinstance(queue.failed(call, "a", "died", 0.0), Lost)


@pytest.mark.parametrize(("late", "status"), [(3, Status.TIMED_OUT), (2, Status.TIMED_OUT), (1, Status.LOST)])
def test_mostly_late_is_timed_out(late: int, status: Status) -> None:
    queue = Queue(calls(1), attempts=3)
    for attempt in range(3):
        call = queue.next_for("a", {"a"})
        assert call is not None
        lost = queue.failed(call, "a", "?", 1.0, timed_out=attempt < late)
    assert lost is not None and lost.status is status


def test_no_call_is_lost_or_doubled_whatever_happens() -> None:
    draw = random.Random(0)
    for _ in range(200):
        count = draw.randint(0, 12)
        queue, nodes = Queue(calls(count), attempts=2), ["a", "b", "c"][: draw.randint(1, 3)]
        ended: list[str] = []
        while len(queue):
            node = draw.choice(nodes)
            call = queue.next_for(node, nodes)
            if call is None:
                continue
            fate = draw.random()
            if fate < 0.5 or (fate < 0.8 and queue.failed(call, node, "died", 0.0) is not None):
                ended.append(call.key)
            elif fate >= 0.8:
                queue.put_back(call)
        assert sorted(ended) == sorted(f"c{n}" for n in range(count))
