"""Images for looking at learngenes that exist: of train or validation classes, and none that a gene may be tested on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gtl.config import DataSection
from gtl.data.folder import MINI_IMAGENET_SIZE
from gtl.data.images import ImageSet, Role, refuse_novel
from gtl.data.request import LARGEST, SMALLEST, DataRequest
from gtl.data.sources import load, parse_source
from gtl.errors import LearngeneError, NovelClassesError
from gtl.learngene.artifact import Learngene
from gtl.learngene.evidence import config_of
from gtl.learngene.records import look_up

USUAL_SIZE = 32  # pixels a side, where sources have no other


def image_size(gene: Learngene) -> tuple[int, bool]:
    """Pixels a side of the images that a gene was evolved on, and whether its provenance says so.

    Where it does not, they are the usual ones of its source.
    """
    recorded = look_up(gene.provenance, "config", "data", "image_size")
    if type(recorded) is int and SMALLEST <= recorded <= LARGEST:
        return recorded, True
    usual = {"mini_imagenet": MINI_IMAGENET_SIZE}
    return usual.get(str(look_up(gene.provenance, "config", "data", "source")), USUAL_SIZE), False


def load_images(genes: Sequence[Learngene], source: str, role: Role) -> ImageSet:
    """One role's images of a source. The source that a gene was evolved on is split and sized as it was then.

    Args:
        genes: what the images are for; of several, the first that knows the source decides.
        source: ``NAME`` or ``NAME:PATH``.
        role: ``train`` or ``val``.

    Raises:
        DataError: no such source, no classes of this role, or images that cannot be used.
        NovelClassesError: one of the classes is a novel class of a gene's.
    """
    request = parse_source(source)
    own = next((data for data in map(_data_of, genes) if data is not None and data.source == request.source), None)
    if own is not None:
        request = replace(DataRequest(**own.model_dump()), root=request.root)
    else:
        request = replace(request, image_size=image_size(genes[0])[0])
    images = load(request, (role,))[role]
    check_images(genes, images, f"the {role} images of {source}")
    return images


def check_images(genes: Sequence[Learngene], images: ImageSet, what: str) -> None:
    """Raise NovelClassesError if `images` are novel classes, or have a class that is novel to one of the genes.

    Another gene's split may have as train what is novel here. Classes are told by their names within one source.
    """
    refuse_novel(images, what)
    for gene in genes:
        novel = look_up(gene.provenance, "data", "lists", "novel")
        if look_up(gene.provenance, "data", "source") != images.source or not isinstance(novel, Sequence):
            continue
        clash = next((name for name in images.class_names if name in novel), None)
        if clash is not None:
            raise NovelClassesError(
                f"{what}: {clash!r} is a novel class of the learngene {gene.digest[:12]}, which it may meet only in its "
                "final evaluation. Give images of classes that are novel to none of the genes."
            )


def _data_of(gene: Learngene) -> DataSection | None:
    try:
        return config_of(gene).data
    except LearngeneError:
        return None
