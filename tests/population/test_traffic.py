"""Genes in Ray's store: put once, and only as long as a call needs them."""

from __future__ import annotations

from types import SimpleNamespace

from gtl.population.ray_pool.traffic import References, Traffic, size
from gtl.population.retry import Call


def call(name: str, *blobs: str) -> Call:
    return Call(name, "life", None, (), blobs)


def test_a_shared_parent_is_put_once_and_leaves_with_its_last_child() -> None:
    put: list[bytes] = []
    ray = SimpleNamespace(put=lambda data: put.append(data) or f"object {len(put)}")
    traffic = Traffic()
    calls = [call("one", "a", "b"), call("two", "b"), call("twice", "c", "c")]
    references = References(ray, str.encode, traffic, calls)
    assert [references[digest] for each in calls for digest in each.blobs] == [
        "object 1", "object 2", "object 2", "object 3", "object 3",
    ]  # fmt: skip
    assert put == [b"a", b"b", b"c"] and traffic.sent == 3
    references.release(calls[0])
    assert set(references) == {"b", "c"}
    references.release(calls[1])
    references.release(calls[2])
    assert not references


def test_size_counts_bytes_alone() -> None:
    assert size((b"gene", {"fitness": 0.5})) == 4 and size(b"ab") == 2 and size(None) == 0
