"""Muon agrees with its formula and with torch's own; what is no convolution is AdamW's."""

import pytest
import torch
from torch import nn

from embedood import muon

SETTINGS = {"lr": 0.01, "weight_decay": 0.1, "betas": (0.9, 0.99)}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten()).double()


def step(model, optimizer, seed):
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(seed)).double()
    optimizer.zero_grad()
    model(images).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("shape", [(16, 90), (90, 16), (40, 40), (1, 9)])
def test_the_orthogonal_part_has_singular_values_about_one_along_the_same_directions(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    seen = left.T @ muon.orthogonal_part(matrix, steps=8) @ right.T
    assert ((seen.diagonal() > 0.6) & (seen.diagonal() < 1.3)).all()
    assert (seen - seen.diagonal().diag()).abs().max() < 0.05


def test_the_orthogonal_part_does_not_depend_on_the_length_and_that_of_zeros_is_zero():
    matrix = torch.randn(6, 20)
    torch.testing.assert_close(muon.orthogonal_part(64 * matrix), muon.orthogonal_part(matrix))
    assert not muon.orthogonal_part(torch.zeros(3, 4)).any()


def test_convolutions_step_as_by_torchs_muon_on_their_matrices():
    ours = network()
    optimizer = muon.Muon(ours.parameters(), **SETTINGS)
    weight = ours[2].weight
    flat = nn.Parameter(weight.detach().flatten(1).clone())
    theirs = torch.optim.Muon(
        [flat], lr=0.01, weight_decay=0.1, momentum=0.9, ns_steps=3, adjust_lr_fn="match_rms_adamw"
    )
    begin = flat.detach().clone()
    for seed in range(4):
        step(ours, optimizer, seed)
        flat.grad = weight.grad.flatten(1)
        theirs.step()
    apart = (weight.flatten(1) - flat).norm() / (flat - begin).norm()
    assert apart < 0.03  # theirs computes in bfloat16, and sums in another order


def test_everything_else_steps_as_by_adamw():
    ours, theirs = network(), network()
    step(ours, muon.Muon(ours.parameters(), **SETTINGS), 0)
    step(theirs, torch.optim.AdamW(theirs.parameters(), **SETTINGS), 0)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other) == (mine.ndim == 1)


def test_restored_it_goes_on_as_if_never_stopped():
    straight, stopped = network(), network()
    through = muon.Muon(straight.parameters(), **SETTINGS)
    before = muon.Muon(stopped.parameters(), **SETTINGS)
    for seed in range(2):
        step(straight, through, seed)
        step(stopped, before, seed)
    after = muon.Muon(stopped.parameters(), lr=1.0)
    after.load_state_dict(before.state_dict())
    step(straight, through, 2)
    step(stopped, after, 2)
    for mine, other in zip(straight.parameters(), stopped.parameters(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("model", [nn.Linear(3, 2), nn.Conv2d(1, 2, 3, bias=False)])
def test_it_refuses_what_has_no_convolution_or_nothing_else(model):
    with pytest.raises(ValueError, match="takes convolutions and other parameters, got"):
        muon.Muon(model.parameters())


def test_it_refuses_groups_of_parameters():
    with pytest.raises(TypeError, match="takes parameters and not groups"):
        muon.Muon([{"params": network().parameters()}])
