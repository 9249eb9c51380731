"""The rules of fine-tuning by name: the plain training, and four in which a part of the descendant learns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from gtl.errors import ConfigError
from gtl.genotype import Genotype
from gtl.transfer.annealing import SubnetworkAnnealing
from gtl.transfer.child_tuning import ChildTuningDriven, ChildTuningFree
from gtl.transfer.rule import Rule
from gtl.transfer.weight_mixup import WeightMixup

PLAIN = "plain"


@dataclass(frozen=True)
class Plain(Rule):
    """Every parameter learns at every step."""

    name: ClassVar[str] = PLAIN


_KINDS: tuple[type[Rule], ...] = (Plain, ChildTuningFree, ChildTuningDriven, SubnetworkAnnealing, WeightMixup)
RULES: dict[str, Callable[..., Rule]] = {kind.name: kind for kind in _KINDS}


def fine_tuning(name: str, options: Mapping[str, Any] | None = None, *, genotype: Genotype | None = None) -> Rule:
    """A rule by its name.

    Args:
        options: its fields; what is left out has its default.
        genotype: channels of the gene that descendants start from, for rules that need to know them.

    Raises:
        ConfigError: an unknown rule or option, a value outside its interval, or a rule that needs a gene and has none.
    """
    kind = next((kind for kind in _KINDS if kind.name == name), None)
    if kind is None:
        raise ConfigError(f"unknown fine-tuning rule {name!r}; known are {', '.join(RULES)}")
    given, known = dict(options or {}), [field.name for field in fields(kind) if field.name != "genotype"]
    unknown = [option for option in given if option not in known]
    if unknown:
        raise ConfigError(f"{name} has no options {unknown}; it has {', '.join(known) or 'none'}")
    if kind is SubnetworkAnnealing:
        if genotype is None:
            raise ConfigError(
                f"{name} ends with a gene's circuit alone; start the descendant from a gene, or use another rule"
            )
        given["genotype"] = genotype
    return kind(**given)
