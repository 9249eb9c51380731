"""Mixers: each is the formula of its source, and none changes a child that inherits nothing."""

from __future__ import annotations

import typing

import pytest
import torch

from gtl.errors import ConfigError
from gtl.transfer.mixers import STRENGTHS, LearnableMixer, agreement, make_mixer
from gtl.transfer_section import TransferSection

SHAPES = ((5, 12), (5, 12, 4, 3))


def pair(shape: tuple[int, ...], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=draw), torch.randn(shape, generator=draw)


def mixer(name: str, strength: float | None = None, channels: int = 12) -> torch.nn.Module:
    return make_mixer(name, strength, channels, torch.Generator().manual_seed(1))


def inner(q: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """The gate of the released code, written out."""
    return torch.sigmoid(torch.einsum("bc...,bc...->b...", q, p) / 12**0.5).unsqueeze(1)


@pytest.mark.parametrize("shape", SHAPES)
def test_genetic_is_the_released_attention(shape: tuple[int, ...]) -> None:
    """``q + L (p - GA)`` with ``GA = s p + (1 - s) q``, which is ``q + L (1 - s) (p - q)``: more where they disagree."""
    q, p = pair(shape)
    s = inner(q, p)
    attended = s * p + (1 - s) * q
    found = mixer("genetic")(q, p)
    torch.testing.assert_close(found, q + 0.6 * (p - attended))
    torch.testing.assert_close(found, q + 0.6 * (1 - s) * (p - q))


@pytest.mark.parametrize("shape", SHAPES)
def test_genetic_agree_turns_the_sign(shape: tuple[int, ...]) -> None:
    q, p = pair(shape)
    torch.testing.assert_close(mixer("genetic-agree", 0.4)(q, p), q + 0.4 * inner(q, p) * (p - q))
    both = mixer("genetic", 0.4)(q, p) + mixer("genetic-agree", 0.4)(q, p)
    torch.testing.assert_close(both, 2 * q + 0.4 * (p - q), msg="together they inherit the whole strength")


@pytest.mark.parametrize("shape", SHAPES)
def test_static_is_seven_parts_parent(shape: tuple[int, ...]) -> None:
    q, p = pair(shape)
    torch.testing.assert_close(mixer("static")(q, p), 0.3 * q + 0.7 * p)


def test_learnable_is_lepokets() -> None:
    """arXiv 2609.16637, equations 4 to 8, written out with its matrices."""
    q, p = pair((5, 12))
    found = mixer("learnable", 0.3)
    assert isinstance(found, LearnableMixer)
    query, key, value = (q @ found.query.weight.T, p @ found.key.weight.T, p @ found.carried.weight.T)
    first = torch.sigmoid((query * key).sum(1, keepdim=True) / 12**0.5)
    hidden = torch.relu((query * key) @ found.hidden.weight.T + found.hidden.bias)
    second = torch.sigmoid(hidden @ found.out.weight.T + found.out.bias)
    torch.testing.assert_close(found(q, p), q + 0.3 * (first + second) / 2 * (value - q))


@pytest.mark.parametrize("name", STRENGTHS)
@pytest.mark.parametrize("shape", SHAPES)
def test_without_strength_nothing_changes(name: str, shape: tuple[int, ...]) -> None:
    q, p = pair(shape)
    assert torch.equal(mixer(name, 0.0)(q, p), q)


@pytest.mark.parametrize("name", STRENGTHS)
def test_maps_are_mixed_place_by_place(name: str) -> None:
    """Each place as if it were a sample: no sum over places, which would shrink all activations."""
    q, p = pair((2, 12, 4, 3))
    mix = mixer(name)
    places = [t.permute(0, 2, 3, 1).reshape(-1, 12) for t in (q, p)]
    alone = mix(*places).reshape(2, 4, 3, 12).permute(0, 3, 1, 2)
    torch.testing.assert_close(mix(q, p), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["static", "genetic", "genetic-agree"])
def test_a_child_that_has_it_already_is_left_alone(name: str) -> None:
    q, _ = pair((2, 12, 4, 3))
    torch.testing.assert_close(mixer(name)(q, q), q)


def test_gates_are_shares() -> None:
    q, p = pair((5, 12, 2, 2))
    for name in STRENGTHS:
        gate = mixer(name).gate(10 * q, p).detach()
        assert gate.shape == (5, 1, 2, 2) and float(gate.min()) >= 0 and float(gate.max()) <= 1, name
    assert agreement(q, q).min() > 0.5


def test_half_precision_stays_what_it_is() -> None:
    q, p = pair((5, 12))
    assert mixer("genetic")(q.bfloat16(), p.bfloat16()).dtype == torch.bfloat16


def test_the_learnable_one_is_drawn_by_its_seed() -> None:
    one, other = mixer("learnable"), make_mixer("learnable", None, 12, torch.Generator().manual_seed(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), mixer("learnable").parameters(), strict=True))
    assert not torch.equal(one.query.weight, other.query.weight)


def test_names_are_the_configurations() -> None:
    assert typing.get_args(TransferSection.model_fields["mixer"].annotation) == tuple(STRENGTHS)
    with pytest.raises(ConfigError, match="there is no mixer 'blender'; choose one of static, genetic"):
        mixer("blender")
