"""`measure`: what a learngene is worth. From a gene and a few options to its evidence; the door to `gtl fewshot`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gtl.config import Config
from gtl.data.request import DataRequest
from gtl.data.sources import parse_source
from gtl.errors import DataError
from gtl.learngene.artifact import Learngene
from gtl.learngene.evidence import STARTS, Bench, Evidence, config_of
from gtl.world import data_request, make_world


def measure(
    learngene: Learngene,
    data: str | Sequence[str] = "",
    *,
    shots: Sequence[int] = (),
    seeds: int | None = None,
    starts: Sequence[str] = STARTS,
    data_root: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> list[Evidence]:
    """Few-shot evidence for a gene, one entry per data source. Options left out are the gene's own configuration's.

    Args:
        learngene: the gene.
        data: ``NAME`` or ``NAME:PATH`` of one or several sources, whose novel classes are the test; "" is the source
            that the gene was evolved on.
        shots: training images a class.
        seeds: repetitions.
        starts: which of STARTS to compare.
        data_root: where the data that the gene was evolved on lies, if it has a place.
        say: called with a line now and then.

    Raises:
        DataError: the gene's own data, which references and learning rates need, is not to be found; or a source has
            too few images for the shots.
    """
    config = config_of(learngene)
    texts = [data] if isinstance(data, str) else list(data)
    requests = [parse_source(text) if text else None for text in texts]
    own_paths = [r.root for r in requests if r is not None and r.source == config.data.source and r.root is not None]
    root = str(data_root) if data_root is not None else next(iter(own_paths), None)
    changes: dict[str, Any] = {"shots": tuple(shots)} if shots else {}
    if seeds is not None:
        changes["seeds"] = seeds
    config = Config.model_validate(
        config.model_copy(
            update={
                "fewshot": config.fewshot.model_copy(update=changes),
                "data": config.data.model_copy(update={"root": root}),
            }
        ).model_dump()
    )
    try:
        world = make_world(config)
    except DataError as error:
        raise DataError(
            f"references and learning rates need the images that the gene was evolved on ({config.data.source}): {error} "
            "Say where they are with --data-root PATH (data_root=)."
        ) from None
    bench = Bench.prepare(learngene, world, starts, say)
    return [bench.evidence(_test_request(request, config), say) for request in requests]


def _test_request(request: DataRequest | None, config: Config) -> DataRequest:
    """What to load novel classes from: the gene's own source as configured, or another at the gene's image size."""
    own = data_request(config.data)
    if request is None or request.source == own.source:
        return own if request is None or request.root is None else replace(own, root=request.root)
    return replace(request, image_size=config.data.image_size)
