"""Random genes, and the means to forge files of them."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import safetensors.torch
import torch

from gtl.genotype import ChannelMask, Genotype
from gtl.learngene import container
from gtl.learngene.artifact import Learngene
from gtl.models import gene_layout

WIDTHS = {"vgg11": [f"conv{i}" for i in range(1, 9)]}
WIDTHS["resnet12"] = [f"stage{i}.{part}" for i in range(1, 5) for part in ("a", "b", "out")]


def make_gene(arch: str = "vgg11", seed: int = 0, **records: Any) -> Learngene:
    """A random gene of a small network of that family."""
    draw = np.random.default_rng(seed)
    widths = {group: int(draw.integers(3, 9)) for group in WIDTHS[arch]}
    masks = {g: ChannelMask(w, draw.choice(w, int(draw.integers(1, w + 1)), replace=False)) for g, w in widths.items()}
    genotype = Genotype(masks)
    layout = gene_layout(arch, widths)
    tensors = {}
    for name in layout.inherited:
        shape = list(layout.shapes[name])
        for axis, (group, stride) in layout.axes[name].items():
            shape[axis] = genotype.counts[group] * stride
        tensors[name] = torch.from_numpy(draw.random(shape, dtype=np.float32))
    records = {
        "shares": {"circuit": 0.125, "circuit_parameters": 321},
        "provenance": {"config": {"seed": 3, "rate": 1e-3}, "data": "glyphs \u00e9", "lineage": ["g0000-i0001"]},
        "evidence": [{"accuracy": 0.5, "interval": [0.4, 0.6], "n": 600, "seeds": [0, 1]}],
        **records,
    }
    return Learngene(arch, genotype, tensors, **records)


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header as a dict, and the tensors' bytes."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(header: dict[str, Any] | bytes, payload: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + payload


def resealed(data: bytes, change: Callable[[dict[str, Any]], None] = lambda document: None) -> bytes:
    """The file with its document changed and both hashes right again: what a forger would write."""
    header, payload = split(data)
    document = json.loads(header["__metadata__"]["gtl"])
    document["sha256"] = hashlib.sha256(payload).hexdigest()
    change(document)
    text = json.dumps(document)
    header["__metadata__"] = {"gtl": text, "gtl_sha256": hashlib.sha256(text.encode()).hexdigest()}
    return join(header, payload)


def with_tensors(gene: Learngene, changes: Mapping[str, torch.Tensor | None]) -> bytes:
    """The gene's file with tensors exchanged (None: left out), and all hashes right."""
    _, tensors = safetensors_of(gene)
    merged = {name: tensor for name, tensor in {**tensors, **changes}.items() if tensor is not None}
    return resealed(container.encode(merged, split(gene.to_bytes())[0]["__metadata__"]))


def safetensors_of(gene: Learngene) -> tuple[bytes, dict[str, torch.Tensor]]:
    data = gene.to_bytes()
    return data, safetensors.torch.load(data)


def edited(data: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    header, payload = split(data)
    change(header)
    return join(header, payload)
