"""What is asked of a data source, and the seeded class split for sources that have no published one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gtl.data.images import ROLES, Role
from gtl.errors import DataError
from gtl.seeds import rng

SMALLEST, LARGEST = 28, 84  # the input sizes that the networks are built for
DEFAULT_SHARES: Mapping[Role, float] = {"train": 0.6, "val": 0.2, "novel": 0.2}


@dataclass(frozen=True)
class DataRequest:
    """What is wanted from one source.

    Attributes:
        source: registry name, see `gtl.data.sources.describe`.
        root: folder or file, for sources that read one; a leading ``~`` is the home folder.
        image_size: pixels per side, 28 to 84; None is the source's own default.
        images_per_class: glyphs renders exactly this many; elsewhere a seeded draw of at most this many.
        min_per_class: a class with fewer usable images is an error.
        train_classes, val_classes, novel_classes: class counts, for sources without a published split. None takes
            a share of what the given counts leave over (60 : 20 : 20 by default).
        split_seed: seed of the class split and of the draw.
        skip_bad: how many unreadable images are tolerated.
        download: fetch the data set where the source can do so.
        mirror: whether mirror images keep their class; None is the source's own answer.

    Raises:
        DataError: a value out of range.
    """

    source: str
    root: str | None = None
    image_size: int | None = None
    images_per_class: int | None = None
    min_per_class: int = 1
    train_classes: int | None = None
    val_classes: int | None = None
    novel_classes: int | None = None
    split_seed: int = 0
    skip_bad: int = 0
    download: bool = False
    mirror: bool | None = None

    def __post_init__(self) -> None:
        for name, least in (
            ("images_per_class", 1),
            ("min_per_class", 1),
            ("train_classes", 0),
            ("val_classes", 0),
            ("novel_classes", 0),
            ("skip_bad", 0),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise DataError(f"{self.source}: {name} is {value}, it must be at least {least}")
        if self.image_size is not None and not SMALLEST <= self.image_size <= LARGEST:
            raise DataError(
                f"{self.source}: image_size is {self.image_size}, it must lie in {SMALLEST}..{LARGEST}: "
                "the networks are built for these sizes"
            )
        if self.images_per_class is not None and self.images_per_class < self.min_per_class:
            raise DataError(
                f"{self.source}: images_per_class {self.images_per_class} is below min_per_class {self.min_per_class}"
            )
        if self.root is not None and (not self.root or "\0" in self.root):
            raise DataError(f"{self.source}: {self.root!r} is no path; give the folder or file that holds the images")

    @property
    def class_counts(self) -> dict[Role, int | None]:
        """The three class counts by role."""
        return {"train": self.train_classes, "val": self.val_classes, "novel": self.novel_classes}

    def mirror_or(self, default: bool) -> bool:
        """The user's word on mirror images, or the source's."""
        return default if self.mirror is None else self.mirror

    def path(self, wanted: str) -> Path:
        """The root as an existing path.

        Args:
            wanted: what the source looks for there, for the message.

        Raises:
            DataError: no root was given, or nothing lies there.
        """
        remedy = f"give {self.source}:PATH, where PATH is {wanted}"
        if self.root is None:
            raise DataError(f"{self.source} needs a path: {remedy}")
        path = Path(self.root).expanduser()
        try:
            found = path.exists()
        except OSError as error:  # no permission on the way there, or a name that is too long
            raise DataError(f"{self.source}: {path}: {error.strerror}; {remedy}") from error
        if not found:
            raise DataError(f"{self.source}: {path} does not exist; {remedy}")
        return path

    def refuse_class_counts(self) -> None:
        """Raise DataError if class counts were given to a source whose split is published."""
        given = [f"{role}_classes={count}" for role, count in self.class_counts.items() if count is not None]
        if given:
            raise DataError(f"{self.source} comes with its own class split; remove {', '.join(given)}")


def check_roles(roles: Sequence[Role], class_lists: Mapping[Role, tuple[str, ...]], source: str) -> None:
    """Raise DataError if a wanted role has no classes in this source."""
    for role in roles:
        if not class_lists.get(role):
            has = ", ".join(f"{len(class_lists.get(r, ()))} {r}" for r in ROLES)
            raise DataError(
                f"{source}: there are no {role} classes ({has}); ask for another role, or give {role}_classes "
                "if the source has no published split"
            )


def check_names(names: Iterable[str], where: str) -> tuple[str, ...]:
    """Class names as a tuple.

    Raises:
        DataError: a name is empty, twice there, or holds characters that do not print (they would make class lists
            that read alike hash differently).
    """
    names = tuple(names)
    seen: set[str] = set()
    for name in names:
        if not name or not name.isprintable():
            raise DataError(f"{where}: class name {name!r} is empty or does not print; rename the class")
        if name in seen:
            raise DataError(f"{where}: class name {name!r} appears twice; class names must differ")
        seen.add(name)
    return names


def split_classes(
    names: Sequence[str], request: DataRequest, shares: Mapping[Role, float] = DEFAULT_SHARES
) -> dict[Role, tuple[str, ...]]:
    """Seeded, disjoint class lists of all three roles.

    One permutation of the sorted names is cut into novel, val and train, in this order, so that the novel classes stay
    the same when only the number of train classes changes, and do not depend on the order in which names came.

    Args:
        names: the classes that there are.
        request: the counts and `split_seed`.
        shares: how roles without a count divide what the given counts leave over.

    Raises:
        DataError: more classes are asked for than there are, or a role with a share would go empty.
    """
    total = len(names)
    counts = _fill_counts(total, request, shares)
    order = rng(request.split_seed, "class split").permutation(total)
    shuffled = [sorted(names)[i] for i in order]
    lists: dict[Role, tuple[str, ...]] = {}
    start = 0
    for role in ("novel", "val", "train"):
        chosen = set(shuffled[start : start + counts[role]])
        lists[role] = tuple(name for name in names if name in chosen)
        start += counts[role]
    return {role: lists[role] for role in ROLES}


def _fill_counts(total: int, request: DataRequest, shares: Mapping[Role, float]) -> dict[Role, int]:
    """Counts of all roles; those not given share the rest, each with a share above zero gets at least one class."""
    given = {role: count for role, count in request.class_counts.items() if count is not None}
    spare = total - sum(given.values())
    asked = ", ".join(f"{role}_classes={count}" for role, count in given.items())
    if spare < 0:
        raise DataError(
            f"{request.source}: {asked} are {sum(given.values())} classes, there are {total}; ask for fewer"
        )
    open_roles = [role for role in ROLES if role not in given and shares[role] > 0]
    if spare < len(open_roles):
        raise DataError(
            f"{request.source}: {total} classes{f' with {asked}' if asked else ''} leave {spare} for "
            f"{', '.join(open_roles)}; each needs at least one: add classes or set the counts (0 is allowed)"
        )
    counts: dict[Role, int] = {role: given.get(role, 0) for role in ROLES}
    weight = sum(shares[role] for role in open_roles)
    for role in reversed(open_roles[1:]):
        counts[role] = max(1, round(spare * shares[role] / weight))
    if open_roles:
        rest = spare - sum(counts[role] for role in open_roles[1:])
        counts[open_roles[0]] = rest
    return counts
