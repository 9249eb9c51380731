"""Folding norms into convolutions changes how a network computes, not what."""

import copy

import pytest
import torch
from torch import nn

from gtl.models import build, spec_of
from gtl.phenotype import folded


@pytest.mark.parametrize("arch", ["vgg11", "resnet12"])
def test_a_folded_network_computes_the_same_and_leaves_the_original_alone(arch: str) -> None:
    network = build(spec_of(arch, num_classes=5, width=0.125), seed=1)
    draw = torch.Generator().manual_seed(2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # norms as training leaves them: none is the identity
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.data.uniform_(0.5, 2.0, generator=draw)
    before = copy.deepcopy(network.state_dict())
    images = torch.randn(3, 3, 32, 32, generator=draw)
    lighter = folded(network)
    with torch.no_grad():
        expected, found = network.eval().activations(images), lighter.activations(images)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in lighter.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    for group, activation in expected.items():
        torch.testing.assert_close(found[group], activation, rtol=1e-3, atol=1e-3)
        assert activation.std() > 0.1
