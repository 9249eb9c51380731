"""The learngene with other ways to fine-tune its descendants, as entrants of a comparison (`gtl.learngene.opponents`).

All inherit the same gene and cost the same training images before their birth; what differs is how they learn after it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from gtl.learngene.setting import Entrant, Setting, cost
from gtl.learngene.starts import gene_start
from gtl.transfer.fine_tuning import fine_tuning


def tuned(setting: Setting, name: str) -> Entrant:
    """The learngene, its descendants fine-tuned by the rule of that name, with the configuration's options."""
    gene, section = setting.learngene, setting.world.config.transfer
    rule = fine_tuning(name, section.options_of(name), genotype=gene.genotype)
    about = {"rule": rule.name, **rule.options}
    entrant = setting.gene(f"learngene + {rule.name}", gene.genotype, dict(gene.tensors), cost(gene), fine_tuning=about)
    start = replace(gene_start(setting.world.host, gene.genotype, gene.tensors), training=rule)
    return replace(entrant, start=start)


def child_tuning(setting: Setting) -> list[Entrant]:
    """With Child-Tuning, task-free and task-driven (Xu et al. 2021, arXiv 2109.05687)."""
    return [tuned(setting, "child-tuning-free"), tuned(setting, "child-tuning-driven")]


def subnetwork_annealing(setting: Setting) -> list[Entrant]:
    """Shrinking to the gene's circuit while they learn (Whitaker & Whitley 2024, arXiv 2401.08830)."""
    return [tuned(setting, "subnetwork-annealing")]


def weight_mixup(setting: Setting) -> list[Entrant]:
    """Mixed with what they inherited, layer by layer (Somayajula et al. 2024, arXiv 2403.12918)."""
    return [tuned(setting, "weight-mixup")]


TUNED_OPPONENTS: dict[str, Callable[[Setting], list[Entrant]]] = {
    "child-tuning": child_tuning,
    "subnetwork-annealing": subnetwork_annealing,
    "weight-mixup": weight_mixup,
}
