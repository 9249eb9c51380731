"""Distillation: who learns is asked for a teacher's answers as well as for the labels (Hinton et al. 2015).

Lives may have the ancestor as their teacher, descendants a parent (`gtl.transfer.lessons`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from gtl.genotype import Genotype
from gtl.layout import ChannelLayout
from gtl.models import ArchSpec, build
from gtl.phenotype import frozen
from gtl.surgery import GeneTensors
from gtl.training import Compute, place

HEAD = ("head.weight", "head.bias")


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained network, asked for its answers on the student's classes. It never learns.

    Attributes:
        network: as `gtl.phenotype.frozen` gives it.
        classes: which of its outputs are the student's classes, in their order; None: all.
        share: of the loss that asks for its answers; the rest asks for the labels.
        temperature: by which both sides' logits are divided.
        label_smoothing: of the labels' part.
        compute: where it computes.
    """

    network: nn.Module
    classes: torch.Tensor | None
    share: float
    temperature: float
    label_smoothing: float
    compute: Compute

    @classmethod
    def of(
        cls,
        tensors: Mapping[str, torch.Tensor],
        host: ArchSpec,
        classes: Sequence[int] | None,
        *,
        share: float,
        temperature: float,
        label_smoothing: float,
        compute: Compute,
    ) -> Teacher:
        """Rebuild the ancestor from its tensors, head included, with a head for all train classes.

        Args:
            host: its family and widths.
            classes: the life's, as the train classes are numbered.
        """
        network = build(ArchSpec(host.arch, host.widths, len(tensors["head.bias"])))
        network.load_state_dict({**network.state_dict(), **tensors})
        chosen = None if classes is None else torch.tensor(list(classes), device=compute.device)
        return cls.copied(
            network, chosen, share=share, temperature=temperature, label_smoothing=label_smoothing, compute=compute
        )

    @classmethod
    def copied(
        cls,
        network: nn.Module,
        classes: torch.Tensor | None = None,
        *,
        share: float,
        temperature: float,
        label_smoothing: float,
        compute: Compute,
    ) -> Teacher:
        """A copy of any network that maps images to logits, where it is to compute."""
        network = frozen(network)
        place(network, compute)
        return cls(network, classes, share, temperature, label_smoothing, compute)

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        """``(1 - share) * cross-entropy + share * T^2 * KL(teacher || student)``, mean over the batch.

        Both distributions are softmaxes of logits over T; T^2 keeps the gradients' size (Hinton et al. 2015, section 2).

        Args:
            logits: float32 ``(B, classes)``, of the student.
            labels: int64 ``(B,)``.
            inputs: what the student saw: the teacher sees the same crops.
        """
        with torch.no_grad(), self.compute.context():
            answers = self.network(inputs).float()
        if self.classes is not None:
            answers = answers[:, self.classes]
        wanted, given = (F.log_softmax(each / self.temperature, dim=1) for each in (answers, logits))
        soft = F.kl_div(given, wanted, reduction="batchmean", log_target=True) * self.temperature**2
        hard = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        return (1 - self.share) * hard + self.share * soft


def head_of_circuit(
    tensors: GeneTensors, layout: ChannelLayout, genotype: Genotype, classes: Sequence[int] | None
) -> dict[str, torch.Tensor]:
    """The ancestor's head as far as it reads a circuit's channels, for the life's classes: a head to begin with.

    Args:
        tensors: of the ancestor, head included.
        layout: of the ancestor.
        genotype: the circuit's channels.
        classes: as `Teacher.of` has them.
    """
    ((last, _),) = layout.axes["head.weight"].values()
    kept = torch.tensor(list(genotype[last].kept))
    rows = slice(None) if classes is None else torch.tensor(list(classes))
    return {"head.weight": tensors["head.weight"][rows][:, kept], "head.bias": tensors["head.bias"][rows]}
