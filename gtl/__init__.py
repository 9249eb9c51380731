"""gtl: evolve the small core of a neural network that is worth inheriting, and give it to new networks.

>>> import gtl
>>> gene = gtl.evolve("configs/glyphs.yaml").learngene   # doctest: +SKIP
>>> net = gtl.models.vgg11(num_classes=5)                # doctest: +SKIP
>>> gtl.inherit(net, gene)                               # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gtl.version import __version__

if TYPE_CHECKING:
    from gtl import models, transfer
    from gtl.descending import DescendResult, descend
    from gtl.engine import Result, evolve, resume
    from gtl.learngene.artifact import Learngene
    from gtl.learngene.diff import diff
    from gtl.learngene.inherit import InheritReport, inherit
    from gtl.learngene.inspection import inspect
    from gtl.learngene.merging import merge
    from gtl.learngene.shrinking import shrink
    from gtl.measurement import measure

__all__ = [
    "DescendResult",
    "InheritReport",
    "Learngene",
    "Result",
    "__version__",
    "descend",
    "diff",
    "evolve",
    "inherit",
    "inspect",
    "measure",
    "merge",
    "models",
    "resume",
    "shrink",
    "transfer",
]

# Names are looked up when first used, so that `import gtl` (and every value module) needs no torch.
_WHERE = {
    "evolve": "gtl.engine",
    "resume": "gtl.engine",
    "Result": "gtl.engine",
    "Learngene": "gtl.learngene.artifact",
    "inherit": "gtl.learngene.inherit",
    "InheritReport": "gtl.learngene.inherit",
    "measure": "gtl.measurement",
    "descend": "gtl.descending",
    "DescendResult": "gtl.descending",
    "inspect": "gtl.learngene.inspection",
    "diff": "gtl.learngene.diff",
    "merge": "gtl.learngene.merging",
    "shrink": "gtl.learngene.shrinking",
}


def __getattr__(name: str) -> Any:
    if name in ("models", "transfer"):
        return importlib.import_module(f"gtl.{name}")
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'gtl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
