"""Networks as ONNX files, for runtimes that know no torch: a gene alone, or a whole descendant.

Written by torch's exporter, read back by onnxruntime and compared with torch before anything is put on disk. Needs the
extra ``onnx``.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gtl import storage
from gtl.errors import ConfigError
from gtl.learngene.artifact import Learngene
from gtl.models import ConvNet
from gtl.phenotype import thin_network

TOLERANCE = 1e-4  # largest difference from torch that is accepted
BATCHES = (1, 3)  # sizes that the check runs; neither is the size that was exported
INPUT = "images"


@dataclass(frozen=True)
class OnnxReport:
    """What was written.

    Attributes:
        outputs: length of an image's output.
        opset: of the ONNX standard.
        difference: largest between onnxruntime and torch, on `BATCHES` of random images; where outputs are above 1, as a
            part of the largest.
        bytes: size of the file.
    """

    outputs: int
    opset: int
    difference: float
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """Plain form."""
        return asdict(self)


class GeneAlone(nn.Module):
    """The thin network of a gene without its head, which no gene has: images to features."""

    def __init__(self, network: ConvNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``(B, 3, H, W)`` -> ``(B, C)``, the last group's channels averaged over their places."""
        return self.network.features(images)


def gene_alone(learngene: Learngene) -> GeneAlone:
    """The gene as a network of its own, in eval mode."""
    return GeneAlone(thin_network(learngene.arch, learngene.genotype, learngene.tensors)).eval()


def export_onnx(
    network: nn.Module,
    out: Path,
    *,
    image_size: int,
    output: str = "logits",
    notes: Mapping[str, str] | None = None,
) -> OnnxReport:
    """Write a network as one ONNX file, whole or not at all: input ``images``, float32 ``(batch, 3, size, size)``.

    Args:
        network: maps images to one tensor ``(B, C)``. It is exported as it evaluates (norms with their statistics).
        image_size: height and width; the batch may be of any size.
        output: name of the output.
        notes: written into the file's metadata.

    Raises:
        ConfigError: a name that does not end in .onnx, the extra is not installed, the network cannot be exported, or the file
            would answer differently.
        StorageError: another file is there, or the disk refused.
    """
    storage.check_new(out, ".onnx", "an ONNX file")
    onnx, runtime = _libraries()
    network = copy.deepcopy(network).cpu().float().eval()
    model = _converted(network, image_size, output)
    _strip(model)
    for key, value in (notes or {}).items():
        model.metadata_props.add(key=key, value=value)
    data = model.SerializeToString(deterministic=True)
    try:
        onnx.checker.check_model(data)
    except Exception as error:  # the checker's own types differ between versions
        raise ConfigError(f"the network gives a file that ONNX's checker refuses: {_reason(error)}") from error
    difference, outputs = _compare(runtime, data, network, image_size)
    opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    storage.publish_new(out, data)
    return OnnxReport(outputs, opset, difference, len(data))


def _libraries() -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise ConfigError(
            f"ONNX files need onnx, onnxscript and onnxruntime ({error}): pip install 'gtl[onnx]'"
        ) from None
    return onnx, onnxruntime


def _converted(network: nn.Module, image_size: int, output: str) -> Any:
    """The network as an ONNX model."""
    images = torch.zeros(2, 3, image_size, image_size)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's, about its own future
            program = torch.onnx.export(
                network,
                (images,),
                dynamo=True,
                verbose=False,
                input_names=[INPUT],
                output_names=[output],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
    except Exception as error:  # whatever a network of anyone's makes the exporter stumble over
        raise ConfigError(
            f"torch cannot export {type(network).__name__} for images of {image_size} x {image_size}: {_reason(error)}"
        ) from error
    assert program is not None  # None: only the exporter before this one
    return program.model_proto


def _strip(model: Any) -> None:
    """Take out what the exporter notes about where the code was: paths of this machine."""
    model.doc_string = ""
    for graph in (model.graph, *model.functions):
        parts = [graph, *graph.node, *graph.value_info]
        if graph is model.graph:
            parts += [*graph.input, *graph.output, *graph.initializer]
        for part in parts:
            part.doc_string = ""
            del part.metadata_props[:]


def _compare(runtime: Any, data: bytes, network: nn.Module, image_size: int) -> tuple[float, int]:
    """Largest difference between onnxruntime and torch as `OnnxReport` tells it, and the length of an output.

    Raises:
        ConfigError: it is above TOLERANCE.
    """
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    generator, difference, outputs = torch.Generator().manual_seed(0), 0.0, 0
    for count in BATCHES:
        images = torch.randn(count, 3, image_size, image_size, generator=generator)
        with torch.no_grad():
            expected = network(images)
        (answer,) = session.run(None, {INPUT: images.numpy()})
        found = torch.from_numpy(answer)
        apart = float((found - expected).abs().max()) if found.shape == expected.shape else float("inf")
        apart /= max(1.0, float(expected.abs().max()))
        if not apart <= TOLERANCE:
            raise ConfigError(
                f"onnxruntime answers differently from torch by {apart:.2g}, more than {TOLERANCE:g}; not written"
            )
        difference, outputs = max(difference, apart), expected.shape[1]
    return difference, outputs


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
