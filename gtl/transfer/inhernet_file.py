"""InherNets as files: a plain state dict, with a record of ranks and experts from which the network is built again.

The record is JSON in the file's metadata, under ``inhernet``. Reading it runs no code: a network is only built by the names
that gtl and torchvision have, and whoever has another gives it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import nn

from gtl import storage
from gtl.errors import ConfigError
from gtl.learngene.container import canonical_json, strict_json
from gtl.models import FAMILIES
from gtl.models.base import MAX_WIDTH
from gtl.models.named import by_name
from gtl.transfer.inhernet_options import MAX_EXPERTS
from gtl.transfer.low_rank import inherited_layers, inherited_like

KEY, FORMAT = "inhernet", 1
NETWORK: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "classes": int,
    "width": (int, float),
    "family": str,
}  # arguments of `by_name`


def describe(inheritor: nn.Module) -> dict[str, Any]:
    """What tells an InherNet from the network that it inherits from: rank and experts of every inherited layer, as JSON."""
    layers = {name: [layer.rank, layer.experts] for name, layer in inherited_layers(inheritor).items()}
    return {"format": FORMAT, "layers": layers}


def rebuild(network: nn.Module, record: Mapping[str, Any]) -> nn.Module:
    """Give a network, in place, the inherited layers of a record, every parameter in them zero: ready for a state dict.

    Args:
        network: built as the source was, with whatever weights.
        record: as `describe` gives it.

    Raises:
        ConfigError: the record is not one, or is of another network.
    """
    for name, (rank, experts) in _layers_of(record).items():
        try:
            layer = network.get_submodule(name)
        except AttributeError:
            raise ConfigError(f"the record has an inherited layer {name!r}, which this network has not") from None
        if not isinstance(layer, nn.Conv2d | nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups != 1):
            raise ConfigError(f"the record has an inherited layer {name!r}, here it is a {type(layer).__name__}")
        most = min(layer.weight.shape[0], layer.weight[0].numel())
        if rank > most:
            raise ConfigError(f"the record has rank {rank} for {name!r}, here the largest is {most}: another network")
        network.set_submodule(name, inherited_like(layer, rank, experts))
    return network


def save_inhernet(inheritor: nn.Module, path: Path | str, network: Mapping[str, Any] | None = None) -> None:
    """Write an InherNet as one safetensors file.

    Args:
        network: what `gtl.models.named.by_name` needs to build the source: ``name``, ``classes``, and for gtl's own ``width``
            and ``family``. None, or a name of the user's: whoever loads the file brings the network.

    Raises:
        StorageError: the file is there already, or cannot be written.
    """
    record = describe(inheritor) | ({} if network is None else {"network": dict(network)})
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in inheritor.state_dict().items()}
    storage.publish_new(Path(path), safetensors.torch.save(tensors, {KEY: canonical_json(record)}))


def load_inhernet(path: Path | str, network: nn.Module | None = None) -> nn.Module:
    """Build the InherNet in a file, without its source; in eval mode.

    Args:
        network: built as the source was, with whatever weights, for a file of a user's own network; is changed.

    Raises:
        ConfigError: not a file of an InherNet, or not of this network.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get(KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path} cannot be read as a safetensors file: {error}") from None
    if text is None:
        raise ConfigError(f"{path} is not a file of an InherNet: its metadata has no {KEY!r}")
    try:
        record = strict_json(text)
    except ValueError as error:
        raise ConfigError(f"{path}: its record is not acceptable JSON: {error}") from None
    rebuilt = rebuild(_source(path, record) if network is None else network, record)
    try:
        rebuilt.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"{path} does not fit this network: {reason}") from None
    return rebuilt.eval()


def _source(path: Path | str, record: Any) -> nn.Module:
    """A network as the record names it.

    Raises:
        ConfigError: it names none, or one that only the user has.
    """
    found = record.get("network") if isinstance(record, dict) else None
    if not isinstance(found, dict) or not all(isinstance(found.get(n), NETWORK[n]) for n in ("name", "classes")):
        raise ConfigError(
            f"{path} does not say which network it is; build it and give it to load_inhernet(path, network)"
        )
    if not 1 <= found["classes"] <= MAX_WIDTH:
        raise ConfigError(f"{path} says that it has {found['classes']} classes; there can be 1 to {MAX_WIDTH}")
    if ":" in found["name"]:
        raise ConfigError(
            f"{path} is of your own {found['name']!r}; build it and give it to load_inhernet(path, network)"
        )
    wanted = ("width", "family") if found["name"] in FAMILIES else ()
    options = {name: found[name] for name in wanted if isinstance(found.get(name), NETWORK[name])}
    return by_name(found["name"], found["classes"], **options)


def _layers_of(record: Any) -> dict[str, tuple[int, int]]:
    """Name -> rank and experts.

    Raises:
        ConfigError: not a record of this format.
    """
    if (
        not isinstance(record, Mapping)
        or record.get("format") != FORMAT
        or not isinstance(record.get("layers"), Mapping)
    ):
        raise ConfigError(f"not a record of an InherNet of format {FORMAT}; a newer gtl may have written it")
    layers = {}
    for name, entry in record["layers"].items():
        # type() and not isinstance: JSON's true is an int to isinstance
        if not isinstance(entry, list) or [type(value) for value in entry] != [int, int]:
            raise ConfigError(f"the record's layer {name!r} is {str(entry)[:40]}, not a rank and a number of experts")
        rank, experts = entry
        if rank < 1 or not 1 <= experts <= MAX_EXPERTS:
            raise ConfigError(f"the record's layer {name!r} has rank {rank} and {experts} experts, which cannot be")
        layers[name] = (rank, experts)
    return layers
