"""Pair losses against loops over all pairs and triples; without the package a word on how to get it."""

import sys

import pytest
import torch
from torch.nn.functional import normalize

from embedood import config, models, objectives, pair_losses, runtime

LABELS = torch.tensor([0, 0, 0, 1, 1, 2, 1, 2])


def on_the_sphere(seed=0):
    return normalize(torch.randn(8, 3, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("margin", [0.4, 0.9])
def test_triplet_by_a_slow_loop(margin):
    z = on_the_sphere()
    kept = []
    for a in range(8):
        for p in range(8):
            for n in range(8):
                if a == p or LABELS[a] != LABELS[p] or LABELS[a] == LABELS[n]:
                    continue
                near, far = (z[a] - z[p]).square().sum(), (z[a] - z[n]).square().sum()
                if near < far < near + margin:
                    kept.append(near - far + margin)
    assert len(kept) > 3
    torch.testing.assert_close(pair_losses.triplet(z, LABELS, margin), torch.stack(kept).mean())


@pytest.mark.parametrize("margin", [1.0, 1.4])
def test_pair_contrastive_by_a_slow_loop(margin):
    z = on_the_sphere(1)
    pulled, pushed = [], []
    for i in range(8):
        for j in range(8):
            distance = (z[i] - z[j]).norm()
            if i != j and LABELS[i] == LABELS[j]:
                pulled.append(distance)
            elif LABELS[i] != LABELS[j] and distance < margin:
                pushed.append(margin - distance)
    assert len(pushed) > 3
    wanted = torch.stack(pulled).mean() + torch.stack(pushed).mean()
    torch.testing.assert_close(pair_losses.pair_contrastive(z, LABELS, margin), wanted)


def test_no_semi_hard_triple_gives_zero_and_a_gradient():
    z = torch.eye(3)[[0, 0, 1, 1]].requires_grad_()
    loss = pair_losses.triplet(z, torch.tensor([0, 0, 1, 1]), margin=0.2)
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(z.grad).all()


def test_half_precision_around_a_loss_does_not_reach_into_it():
    z = on_the_sphere(2)
    for loss in (pair_losses.triplet, pair_losses.pair_contrastive):
        with torch.autocast("cpu", torch.bfloat16):
            inside = loss(z, LABELS)
        assert torch.equal(inside, loss(z, LABELS))


@pytest.mark.parametrize("name", ["triplet", "pair_contrastive"])
def test_the_objective_takes_its_margin_from_the_experiment(name):
    sphere = {"objective": name, "head": "cosine_of_features", "pair_margin": 0.9}
    experiment = config.preset("cross_entropy", shift=0, flip=0.0, **sphere)

    class Same(torch.nn.Module):
        """Takes the first pixels of an image for its embedding."""

        def forward(self, images):
            z = images[:, :, 0, 0]
            return models.Forward(z, z, None)

    images = on_the_sphere()[:, :, None, None].expand(8, 3, 4, 4).contiguous()
    step = objectives.of(experiment)(Same(), images, LABELS, runtime.generator(0))
    assert step.terms["loss"] == getattr(pair_losses, name)(on_the_sphere(), LABELS, 0.9)
    assert step.logits is None
    assert name in objectives.LEAVE_THE_HEAD


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    with pytest.raises(ImportError, match=r"pip install 'embedood\[pairs\]'"):
        pair_losses.triplet(on_the_sphere(), LABELS)
