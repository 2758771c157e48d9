from dataclasses import replace

import torch
from torch import nn

from stableavatar.model.weights import random_network, weights_hash
from stableavatar.presets import RandomWeights, tiny


def test_random_weights_depend_on_their_seed_alone() -> None:
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = random_network(lambda: nn.Linear(3, 3), 1)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(6)
    assert torch.equal(first.weight, random_network(lambda: nn.Linear(3, 3), 1).weight)
    assert not torch.equal(first.weight, random_network(lambda: nn.Linear(3, 3), 2).weight)
    assert not first.weight.requires_grad and not first.training


def test_hash_changes_with_anything_the_weights_depend_on() -> None:
    preset = tiny()
    assert weights_hash(preset) == weights_hash(tiny())
    assert len(weights_hash(preset)) == 32
    assert weights_hash(replace(preset, weights=RandomWeights(seed=1))) != weights_hash(preset)
    assert weights_hash(replace(preset, vae={"base_dim": 16})) != weights_hash(preset)
    assert weights_hash(replace(preset, num_steps=9)) == weights_hash(preset)
