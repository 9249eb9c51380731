"""The configuration's transfer section: how descendants inherit otherwise than by a learngene alone (docs/transfer.md).

No gene depends on it, so it may differ between runs that are the same. Rules of fine-tuning have the options, and the
defaults, of their classes in `gtl.transfer`.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from gtl.section import Rate, Section, Share


class ChildTuningFreeSection(Section):
    """Task-free Child-Tuning."""

    probability: Share = Field(0.3, description="that a parameter takes part in a step")


class ChildTuningDrivenSection(Section):
    """Task-driven Child-Tuning."""

    share: Share = Field(0.3, description="of the parameters outside the head that learns")
    images: int = Field(512, ge=1, le=1_000_000, description="training images that the information is estimated on")


class SubnetworkAnnealingSection(Section):
    """Stochastic subnetwork annealing."""

    initial: Rate = Field(1.0, description="probability at the first step that what is outside the circuit takes part")
    duration: Share = Field(0.5, description="share of the steps over which it falls to zero")
    schedule: Literal["cosine", "linear"] = Field("cosine", description="how it falls")
    unit: Literal["parameter", "channel"] = Field("parameter", description="what is drawn")


class WeightMixupSection(Section):
    """Weight mixup."""

    initial: Rate = Field(1.0, description="every layer's share of what it learned, at first")
    search: float = Field(0.5, ge=0.0, lt=1.0, description="share of the steps in which the shares are learned")
    held_out: float = Field(0.2, gt=0.0, lt=1.0, description="share of each class's images that they are learned from")
    every: int = Field(5, ge=2, le=1_000_000, description="each so many-th step of the search is the shares'")
    rate: Share = Field(0.02, description="learning rate of the shares")


class InherNetSection(Section):
    """InherNet as a start of descendants. Its size is the learngene's."""

    experts: int = Field(3, ge=1, le=64, description="up-projections of every layer; fewer where they do not fit")
    shrink: Rate = Field(0.01, description="of the activations' moment towards the identity, where they weigh")
    deviation: float = Field(
        0.005, ge=0.0, le=100.0, description="of experts from their mean at birth, where activations weigh"
    )
    first: Literal["dense", "low-rank"] = Field("dense", description="form of the first convolution")
    released_scaling: bool = Field(
        False, description="start at 1 / experts, as the published code does; for comparisons"
    )


class TransferSection(Section):
    """What a parent does meanwhile, by which rule a descendant is fine-tuned, and what an InherNet is."""

    mixer: Literal["static", "genetic", "genetic-agree", "learnable"] = Field(
        "genetic", description="HKT: how the features of child and parent become one"
    )
    strength: float | None = Field(
        None, ge=0.0, le=1.0, description="HKT: of the mixer; that of the released code if left out"
    )
    taps: tuple[str, ...] = Field(
        ("pooled",),
        min_length=1,
        description="HKT: behind which stages features meet: vgg11 has conv1 to conv8, resnet12 stage1 to stage4, all have "
        "pooled; conv4=stage2 where the child's and the parent's differ",
    )
    paths: tuple[Literal["child", "mixed", "parent"], ...] = Field(
        ("child", "mixed", "parent"), min_length=1, description="HKT: whose losses are summed"
    )
    released: bool = Field(False, description="HKT: do as the released code does, defects included; for comparisons")
    distill: Share = Field(0.5, description="distillation: share of the loss that asks for the parent's answers")
    temperature: float = Field(4.0, gt=0.0, le=100.0, description="distillation: by which the answers are softened")
    fine_tuning: Literal[
        "plain", "child-tuning-free", "child-tuning-driven", "subnetwork-annealing", "weight-mixup"
    ] = Field("plain", description="gtl descend: rule by which a descendant is fine-tuned")
    child_tuning_free: ChildTuningFreeSection = ChildTuningFreeSection()
    child_tuning_driven: ChildTuningDrivenSection = ChildTuningDrivenSection()
    subnetwork_annealing: SubnetworkAnnealingSection = SubnetworkAnnealingSection()
    weight_mixup: WeightMixupSection = WeightMixupSection()
    inhernet: InherNetSection = InherNetSection()

    @property
    def lessons(self) -> dict[str, Any]:
        """What a parent's lessons depend on, as JSON: everything but rules of fine-tuning and InherNets."""
        others = {name for name, value in self if isinstance(value, Section)}
        return self.model_dump(mode="json", exclude={"fine_tuning", *others})

    def options_of(self, rule: str) -> dict[str, Any]:
        """Options of a rule of fine-tuning; none of one that has no section."""
        section = getattr(self, rule.replace("-", "_"), None)
        return dict(section) if isinstance(section, Section) else {}
