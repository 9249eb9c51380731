"""What goes to workers and comes back: counted, and every gene in Ray's store once, for as long as a call needs it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from gtl.population.retry import Call


@dataclass
class Traffic:
    """Bytes that went to and from workers, as Ray serialises them, and calls that were answered."""

    sent: int = 0
    received: int = 0
    calls: int = 0


class References(dict[str, Any]):
    """Content hash -> object in Ray's store, put there once however many of the calls need it.

    Args:
        fetch: the bytes, by content hash.
    """

    def __init__(self, ray: Any, fetch: Callable[[str], bytes], traffic: Traffic, calls: Iterable[Call]) -> None:
        super().__init__()
        self._ray, self._fetch, self._traffic = ray, fetch, traffic
        self._needed = Counter(digest for call in calls for digest in call.blobs)

    def __missing__(self, digest: str) -> Any:
        data = self._fetch(digest)
        self._traffic.sent += len(data)
        self[digest] = self._ray.put(data)
        return self[digest]

    def release(self, call: Call) -> None:
        """It is done. What no other call needs leaves the store: the parents of ten thousand would not fit in."""
        self._needed.subtract(call.blobs)
        for digest in call.blobs:
            if not self._needed[digest]:
                self.pop(digest, None)


def size(value: Any) -> int:
    """Bytes of arguments or a result that matter: those of the jobs or tensors in it, however they are nested."""
    if isinstance(value, tuple):
        return sum(map(size, value))
    return len(value) if isinstance(value, bytes) else 0
