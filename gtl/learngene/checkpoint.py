"""Checkpoints of any origin: a state dict in a file, read without running code, as the tensors of a host.

Safetensors, or what `torch.save` wrote, read with torch's weights-only reader, which knows tensors and plain containers.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from gtl import storage
from gtl.errors import ConfigError
from gtl.layout import ChannelLayout
from gtl.learngene.container import MAX_HEADER
from gtl.models import FAMILIES, ArchSpec, ConvNet, gene_layout, spec_of
from gtl.surgery import GeneTensors, gather

TORCH_FILES = (".pt", ".pth", ".bin", ".ckpt", ".tar")  # what people call the files that torch.save writes
WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "net")  # keys that training loops put weights under
MAX_WRAPPERS = 4
COUNTERS = ".num_batches_tracked"  # of norms: no weights, and not in every file
MAX_FILE = 1 << 32  # bytes: many times the largest host with its optimiser's states
# torchvision's vgg11_bn is VGG11 with a bias before every norm: number of its module -> group, and what it is there
VGG11_BN = {
    number + after: (group, kind)
    for number, group in zip(
        (0, 4, 8, 11, 15, 18, 22, 25), FAMILIES["vgg11"].base_widths["64-128-256-512"], strict=True
    )
    for after, kind in enumerate(("conv", "norm"))
}

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A trained network as a host's tensors.

    Attributes:
        name: of the file, without its folder.
        sha256: of the file's bytes, in hex.
        tensors: float32, as `gather` gives them for the full genotype.
        ignored: names of tensors in the file that a host does not have (heads, optimiser states).
    """

    name: str
    sha256: str
    tensors: GeneTensors
    ignored: tuple[str, ...]

    @property
    def source(self) -> dict[str, str]:
        """What a learngene tells about where it was cut from."""
        return {"name": self.name, "sha256": self.sha256}


def read_checkpoint(path: Path, host: ArchSpec, key: str = "") -> Checkpoint:
    """Read a user's trained network.

    Args:
        path: a safetensors file, or one of TORCH_FILES with a state dict, perhaps under one of WRAPPERS. Names may have a
            prefix (``module.``, ``_orig_mod.``). torchvision's ``vgg11_bn`` is understood, too.
        host: what it has to be; its number of classes does not count.
        key: of the configuration, for messages.

    Raises:
        ConfigError: no such file, none that can be read without running code, or another network; names the tensor, what
            was found, what is needed and the remedy.
    """
    name = f"{key}: {path}" if key else str(path)
    data, state = _read(path, key)
    if host.arch == "vgg11":
        state = _of_torchvision(state)
    prefix = _prefix(state, _layout(host).inherited, name)
    tensors = fitting({n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}, host, name)
    used = {prefix + tensor for tensor in tensors}
    ignored = tuple(sorted(tensor for tensor in state if tensor not in used and not tensor.endswith(COUNTERS)))
    return Checkpoint(path.name, hashlib.sha256(data).hexdigest(), tensors, ignored)


def load_weights(network: nn.Module, path: Path, *, without: str = "") -> None:
    """Fill a network, in place, with a user's trained weights.

    Args:
        network: any; gtl's own are read as `read_checkpoint` reads them, of others the file must have all names.
        path: as `read_checkpoint` takes it.
        without: name of a module, the classifier, that stays as it is, whatever the file has for it.

    Raises:
        ConfigError: as `read_checkpoint`.
    """
    own = network.state_dict()
    if isinstance(network, ConvNet):
        found = read_checkpoint(path, network.spec).tensors
    else:
        _, state = _read(path)
        left_out = tuple(name for name in own if without and name.startswith(f"{without}."))
        wanted = [name for name in own if name not in left_out and not name.endswith(COUNTERS)]
        prefix = _prefix(state, wanted, str(path))
        for name in wanted:
            shape = tuple(state[prefix + name].shape) if prefix + name in state else None
            if shape != tuple(own[name].shape):
                raise ConfigError(
                    f"{path} has {f'{name} of shape {shape}' if shape is not None else f'no {name}'}, this "
                    f"{type(network).__name__} needs {tuple(own[name].shape)}; say which network it is"
                )
        found = {name: state[prefix + name] for name in wanted}
    network.load_state_dict({**own, **found})


def load_network(network: nn.Module, path: Path) -> None:
    """Load a whole state dict, head included, into a network; names in the file may have a prefix. In place.

    Args:
        path: as of `read_checkpoint`.

    Raises:
        ConfigError: no such file, none that can be read without running code, or not exactly this network's tensors.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    _, state = _read(path)
    prefix = _prefix(state, tuple(wanted), str(path))
    own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    wrong = [
        f"{name} is {tuple(own[name].shape) if name in own else 'missing'}, needed is {wanted.get(name, 'no such tensor')}"
        for name in dict.fromkeys((*wanted, *own))
        if name not in own or tuple(own[name].shape) != wanted.get(name)
    ]
    if wrong:
        raise ConfigError(
            f"{path} is not the state dict of this {type(network).__name__}: {'; '.join(wrong[:3])}"
            f"{f', and {len(wrong) - 3} more' if len(wrong) > 3 else ''}. Give the network's own options"
        )
    network.load_state_dict(own, strict=True)


def fitting(state: Mapping[str, torch.Tensor], host: ArchSpec, name: str = "the state dict") -> GeneTensors:
    """The tensors of a state dict that a gene of this host inherits, as float32; the head is left out.

    Args:
        name: what the state dict is called in messages.

    Raises:
        ConfigError: a tensor is missing, of another shape or not finite.
    """
    layout = _layout(host)
    for tensor in layout.inherited:
        found = tuple(state[tensor].shape) if tensor in state else None
        if found != layout.shapes[tensor]:
            raise ConfigError(
                f"{name} has {f'{tensor} of shape {found}' if found is not None else f'no {tensor}'}, the configured "
                f"{host.arch} needs {layout.shapes[tensor]}. {_remedy(state)}"
            )
    tensors = gather({tensor: state[tensor].float() for tensor in layout.inherited}, layout, layout.full())
    broken = next((tensor for tensor, value in tensors.items() if not bool(torch.isfinite(value).all())), None)
    if broken is not None:
        raise ConfigError(f"{name}: {broken} has values that are not finite; its training diverged, give another")
    return tensors


def _read(path: Path, key: str = "") -> tuple[bytes, State]:
    """Bytes of a checkpoint, and the state dict in it."""
    name = f"{key}: {path}" if key else str(path)
    by_torch = path.suffix.lower() in TORCH_FILES
    data = _bytes(path, name, key, MAX_FILE if by_torch else MAX_HEADER)
    return data, _torch_state(data, name) if by_torch else _safetensors_state(data, name)


def _bytes(path: Path, name: str, key: str, longest_header: int) -> bytes:
    try:
        stream, size = storage.open_regular(path)
        with stream:
            if size > MAX_FILE:
                raise ConfigError(
                    f"{name} has {size} bytes, more than the limit of {MAX_FILE}; save the weights alone, without the "
                    "optimiser's states"
                )
            start = stream.read(8)
            header = int.from_bytes(start, "little")
            if longest_header < header <= size - 8:  # of safetensors; the library would take seconds for it
                raise ConfigError(
                    f"{name} has a header of {header} bytes, more than the limit of {longest_header}; is it one network?"
                )
            stream.seek(0)
            return stream.read(size)
    except FileNotFoundError:
        raise ConfigError(f"{f'{key}: ' if key else ''}there is no file {path}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ConfigError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _safetensors_state(data: bytes, name: str) -> State:
    try:
        return safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{name} is not a readable safetensors file ({error}); files that torch.save wrote end in "
            f"{', '.join(TORCH_FILES)}"
        ) from None


def _torch_state(data: bytes, name: str) -> State:
    """The tensors of a file that torch.save wrote. Anything in it but tensors and plain containers is refused."""
    _check_archive(data, name)
    try:
        document = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a file of anyone's makes the reader stumble over
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise ConfigError(
            f"{name} cannot be read without running code from it, or is damaged ({reason}). Save the weights alone: "
            "torch.save(network.state_dict(), PATH), or save_file of safetensors.torch"
        ) from None
    for _ in range(MAX_WRAPPERS):
        if not isinstance(document, Mapping):
            break
        inner = next((document[key] for key in WRAPPERS if isinstance(document.get(key), Mapping)), None)
        if inner is None:
            found = {str(key): value for key, value in document.items() if isinstance(value, torch.Tensor)}
            if found:
                return found
            break
        document = inner
    raise ConfigError(f"{name} holds {_what(document)}, not a state dict (looked under {', '.join(WRAPPERS)} too)")


def _check_archive(data: bytes, name: str) -> None:
    """Raise ConfigError if a torch file would grow when it is opened: torch.save compresses nothing, torch.load unpacks it."""
    if not data.startswith(b"PK\3\4"):
        return  # torch's older format, or nothing that torch reads
    again = "Save the weights again: torch.save(network.state_dict(), PATH)"
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        raise ConfigError(f"{name} is damaged ({error}). {again}") from None
    unpacked = sum(member.file_size for member in members)
    if unpacked > len(data) or any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ConfigError(
            f"{name} is compressed, {len(data)} bytes that say they become {unpacked}; torch.save compresses nothing. {again}"
        )


def _what(document: Any) -> str:
    if isinstance(document, Mapping):
        return f"the keys {', '.join(map(str, list(document)[:6]))[:200]}" if document else "nothing"
    return f"a {type(document).__name__}"


def _prefix(state: Mapping[str, torch.Tensor], wanted: Sequence[str], name: str) -> str:
    """What stands before all names: nothing, or what DataParallel, torch.compile or a training framework put there.

    Raises:
        ConfigError: several networks of this kind are in the file, none of them without a prefix.
    """
    prefixes = _prefixes(state, wanted[0])
    whole = [prefix for prefix in prefixes if all(prefix + tensor in state for tensor in wanted)]
    if len(whole) > 1 and "" not in whole:
        raise ConfigError(
            f"{name} holds several networks, under {', '.join(sorted(whole))}; save the state dict of the one you want"
        )
    return min(whole or prefixes or [""], key=len)


def _prefixes(state: Mapping[str, torch.Tensor], wanted: str) -> list[str]:
    """What stands before a name, wherever it is in the state dict."""
    found = [key.removesuffix(wanted) for key in state if key.endswith(wanted)]
    return [prefix for prefix in found if not prefix or prefix.endswith(".")]


def _of_torchvision(state: State) -> State:
    """torchvision's names as gtl's. A bias before a norm only moves what the norm subtracts, so it goes in there."""
    pattern = re.compile(r"((?:.*\.)?)features\.(\d+)\.(weight|bias|running_mean|running_var)")
    renamed = {}
    biases = {}
    for key, tensor in state.items():
        match = pattern.fullmatch(key)
        group, kind = VGG11_BN.get(int(match[2]), ("", "")) if match else ("", "")
        if match is None or not group:
            renamed[key] = tensor
        elif kind == "conv" and match[3] == "bias":
            biases[f"{match[1]}{group}.norm.running_mean"] = tensor
        else:
            renamed[f"{match[1]}{group}.{kind}.{match[3]}"] = tensor
    for mean, bias in biases.items():
        if mean in renamed and renamed[mean].shape == bias.shape:
            renamed[mean] = renamed[mean] - bias
    return renamed


def _remedy(state: Mapping[str, torch.Tensor]) -> str:
    """Which configuration the state dict would fit, if any."""
    for arch, family in FAMILIES.items():
        for widths, base in family.base_widths.items():
            names = gene_layout(arch, dict(base)).inherited
            for prefix in _prefixes(state, names[0]):
                channels = (*state[prefix + names[0]].shape, 0)[0]
                width = channels / next(iter(base.values()))
                if not 0 < width <= 4:
                    continue
                needed = _layout(spec_of(arch, num_classes=1, width=width, family=widths)).shapes
                if all(prefix + n in state and tuple(state[prefix + n].shape) == needed[n] for n in names):
                    return f"It is a network of model.arch={arch} model.family={widths} model.width={width:g}."
    return "Set model.arch, model.family and model.width to the checkpoint's network."


def _layout(host: ArchSpec) -> ChannelLayout:
    return gene_layout(host.arch, dict(host.widths))
