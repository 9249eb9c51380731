"""`measure`: what a learngene is worth. From a gene and a few options to its evidence; the door to `gtl fewshot`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gtl.config import Config
from gtl.data.sources import parse_source
from gtl.errors import DataError
from gtl.learngene.artifact import Learngene
from gtl.learngene.evidence import STARTS, Evidence, config_of, gather_evidence
from gtl.world import data_request, make_world


def measure(
    gene: Learngene,
    *,
    data: str = "",
    shots: Sequence[int] = (),
    seeds: int | None = None,
    starts: Sequence[str] = (),
    data_root: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Evidence:
    """Few-shot evidence for a gene. Options left out are the gene's own configuration's.

    Raises:
        DataError: the gene's own data is needed for the references and is not to be found.
    """
    config = config_of(gene)
    changes: dict[str, Any] = {}
    if shots:
        changes["shots"] = tuple(shots)
    if seeds is not None:
        changes["seeds"] = seeds
    root = None if data_root is None else str(data_root)
    request = parse_source(data) if data else None
    if request is not None and root is None and request.source == config.data.source:
        root = request.root
    config = Config.model_validate(
        config.model_copy(
            update={
                "fewshot": config.fewshot.model_copy(update=changes),
                "data": config.data.model_copy(update={"root": root}),
            }
        ).model_dump()
    )
    own = data_request(config.data)
    if request is None or request.source == own.source:
        request = own if request is None or request.root is None else replace(own, root=request.root)
    else:
        request = replace(request, image_size=config.data.image_size)
    try:
        world = make_world(config)
    except DataError as error:
        raise DataError(
            f"references and learning rates need the images that the gene was evolved on ({config.data.source}): {error} "
            "Say where they are with --data-root PATH."
        ) from None
    return gather_evidence(gene, world, request, names=starts or STARTS, advance=say)
