"""`measure`: what a learngene is worth. From a gene and a few options to its evidence; the door to `gtl fewshot`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gtl.config import ComputeSection, Config
from gtl.config_file import changed_config
from gtl.data.images import ImageSet, Role, Splits
from gtl.data.request import DataRequest
from gtl.data.sources import load, parse_source
from gtl.errors import DataError
from gtl.learngene.artifact import Learngene
from gtl.learngene.evidence import STARTS, Bench, Evidence, config_of
from gtl.life import World
from gtl.machine import cores
from gtl.training import fast_bfloat16, pick_compute
from gtl.trials import Trials
from gtl.world import data_request, make_world


def measure(
    learngene: Learngene,
    data: str | Sequence[str] = "",
    *,
    shots: Sequence[int] = (),
    seeds: int | None = None,
    starts: Sequence[str] = STARTS,
    data_root: Path | None = None,
    transfer: Mapping[str, Any] | None = None,
    workers: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> list[Evidence]:
    """Few-shot evidence for a gene, one entry per data source. Options left out are the gene's own configuration's.

    Args:
        learngene: the gene.
        data: ``NAME`` or ``NAME:PATH`` of one or several sources, whose novel classes are the test; "" is the source
            that the gene was evolved on. Learning rates are chosen on the same source's validation classes, or, where it
            has none, on those of the data that the gene was evolved on.
        shots: training images a class.
        seeds: repetitions.
        starts: which of `gtl.learngene.opponents.OPPONENTS` to compare; scratch is always among them.
        data_root: where the data that the gene was evolved on lies, if it has a place.
        transfer: keys of the configuration's transfer section (docs/transfer.md) for the compact starts that are taught.
        workers: processes that train descendants; by default one a CPU core, or one for a GPU.
        say: called with a line now and then.

    Raises:
        ConfigError: shots or seeds out of range.
        DataError: the gene's own data, which references and learning rates need, is not to be found or not the same; or
            a source has too few images for the shots.
    """
    config = config_of(learngene)
    texts = [data] if isinstance(data, str) else list(data)
    requests = [parse_source(text) if text else None for text in texts]
    own_paths = [r.root for r in requests if r is not None and r.source == config.data.source and r.root is not None]
    root = str(data_root) if data_root is not None else next(iter(own_paths), None)
    protocol: dict[str, Any] = ({"shots": tuple(shots)} if shots else {}) | (
        {"seeds": seeds} if seeds is not None else {}
    )
    compute = compute_changes(config.compute, say)
    config = changed_config(config, fewshot=protocol, data={"root": root}, compute=compute, transfer=transfer or {})
    world = _own_world(config, learngene)
    tests = [request_for(request, config, world.train.image_size) for request in requests]
    chosen_on = [_validation(request, _check_novel(request, config), world, say) for request in tests]
    if workers is None:
        workers = cores() if world.compute.device.type == "cpu" else 1
    bench = Bench.prepare(learngene, world, starts, say, Trials(workers))
    return [bench.evidence(request, say, val) for request, val in zip(tests, chosen_on, strict=True)]


def compute_changes(own: ComputeSection, say: Callable[[str], None]) -> dict[str, Any]:
    """What changes in the compute section of a gene that is measured on this machine, wherever it was evolved.

    Device, threads and memory format were chosen for that other machine. Precision stays the gene's, except bfloat16
    where it would have to be emulated, which takes many times as long.
    """
    here: dict[str, Any] = {"device": "auto", "threads": 0, "memory_format": "auto"}
    if own.precision == "bfloat16" and not fast_bfloat16(pick_compute(own.model_copy(update=here)).device):
        say("the gene was evolved in bfloat16, which this machine has not in hardware: measuring in float32")
        here["precision"] = "float32"
    return here


def _own_world(config: Config, learngene: Learngene) -> World:
    """The images that the gene was evolved on.

    Raises:
        DataError: they are not to be found, or these are others.
    """
    try:
        world = make_world(config)
    except DataError as error:
        raise DataError(
            f"references and learning rates need the images that the gene was evolved on ({config.data.source}): {error} "
            "Say where they are with --data-root PATH (data_root=)."
        ) from None
    if world.class_digest != learngene.provenance["data"]["classes"]:
        raise DataError(
            f"{config.data.source} at {config.data.root} has other classes than the gene was evolved on (class lists "
            f"{world.class_digest[:12]}, the gene's {learngene.provenance['data']['classes'][:12]}): what it trained on "
            "might pass as novel. Say where the gene's own data are with --data-root PATH (data_root=)."
        )
    return world


def request_for(
    request: DataRequest | None, config: Config, image_size: int | None, role: Role = "novel"
) -> DataRequest:
    """What to load classes from: the gene's own source as configured, or another at the gene's image size.

    All classes of a user's folder or npz are novel to the gene, unless the folder has roles of its own.

    Args:
        image_size: the gene's; None: the source's own.
        role: which classes are wanted.
    """
    own = data_request(config.data)
    if request is None or (request.source == own.source and request.root in (None, own.root)):
        return own
    request = replace(request, image_size=image_size)
    has_roles = request.root is not None and any((Path(request.root) / name).is_dir() for name in ("novel", "test"))
    if role == "novel" and request.source in ("folder", "npz") and not has_roles:
        return replace(request, train_classes=0, val_classes=0)
    return request


def _check_novel(request: DataRequest, config: Config) -> Splits:
    """Refuse a test source that cannot bear the protocol, before anything is trained. Looks at counts only.

    Returns:
        The source, with its novel classes.

    Raises:
        DataError: fewer than two novel classes, or too few images in one.
    """
    splits = load(request, ("novel",))
    counts = splits["novel"].class_counts
    need = max(config.fewshot.shots) + config.fewshot.test_images
    name, least = min(counts.items(), key=lambda item: item[1])
    if len(counts) < 2:
        raise DataError(f"{request.source} has {len(counts)} novel class; a comparison needs at least two")
    if least < need:
        raise DataError(
            f"{request.source}: novel class {name!r} has {least} images; {max(config.fewshot.shots)} to learn from and "
            f"{config.fewshot.test_images} to test on (fewshot.test_images) need {need}. Ask for fewer --shots."
        )
    return splits


def _validation(request: DataRequest, splits: Splits, world: World, say: Callable[[str], None]) -> ImageSet:
    """Which classes learning rates are chosen on: the source's own, where it has two or more with enough images.

    Args:
        splits: the source, however much of it is loaded.

    Raises:
        DataError: they cannot be read.
    """
    config = world.config
    if request == data_request(config.data):
        return world.val
    if len(splits.class_lists.get("val", ())) >= 2:
        val = load(request, ("val",))["val"]
        if min(val.class_counts.values()) > max(config.fewshot.shots):
            return val
    say(
        f"{request.source} has no validation classes of its own (two, with more than {max(config.fewshot.shots)} images "
        f"each): learning rates are chosen on those of {config.data.source}, and may not suit {request.source}"
    )
    return world.val
