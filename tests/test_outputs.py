"""Outputs: rows picked, files, and logits of perturbed images."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scorer_outputs import made

from embedood import models, outputs
from embedood.splits import Part

EPSILON = 0.05


@pytest.fixture
def network():
    torch.manual_seed(0)
    model = models.CompactClassifier(9, width=4)
    with torch.no_grad():
        model(torch.rand(64, 1, 28, 28))  # gives batch norm its averages
    return model.eval()


@pytest.fixture
def part():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 1, 28, 28), dtype=np.uint8)
    return Part(pixels, np.arange(20) % 9, np.arange(20))


@pytest.mark.parametrize("rows", [slice(3, 4), np.arange(20) % 3 == 0, np.array([5, 1, 1])])
def test_rows_are_picked_and_the_head_stays_whole(rows):
    every = made(20)
    some = every[rows]
    np.testing.assert_array_equal(some.logits, every.logits[rows])
    np.testing.assert_array_equal(some.mse, every.mse[rows])
    assert some.head_weight is every.head_weight
    assert len(some) == len(every.labels[rows])


def test_perturbed_logits_come_back_from_a_file(network, part, tmp_path):
    before = outputs.compute(network, part, odin_epsilon=EPSILON)
    before.save(tmp_path / "outputs.npz")
    after = outputs.Outputs.load(tmp_path / "outputs.npz")
    for field in fields(before):
        np.testing.assert_array_equal(getattr(after, field.name), getattr(before, field.name))


def test_perturbed_images_go_down_the_gradient_of_their_predicted_class(network, part):
    images = (torch.from_numpy(part.images).float() / 255).requires_grad_()
    logits = network(images).logits / 1000
    F.cross_entropy(logits, logits.argmax(1)).backward()
    pushed = images.detach() - EPSILON * images.grad.sign()
    with torch.no_grad():
        expected = network(pushed).logits.numpy()
    found = outputs.compute(network, part, odin_epsilon=EPSILON)
    np.testing.assert_allclose(found.perturbed_logits, expected, rtol=1e-4, atol=1e-6)
    assert np.abs(found.perturbed_logits - found.logits).max() > 1e-4


def test_perturbed_logits_are_the_same_alone_in_a_batch_and_in_training_mode(network, part):
    network.train()
    together = outputs.compute(network, part, odin_epsilon=EPSILON)
    assert network.training
    alone = outputs.compute(network, part, odin_epsilon=EPSILON, batch_size=1)
    np.testing.assert_allclose(
        alone.perturbed_logits, together.perturbed_logits, rtol=1e-4, atol=1e-5
    )
    assert all(p.grad is None for p in network.parameters())


def test_without_being_asked_nothing_is_differentiated(network, part, monkeypatch):
    monkeypatch.setattr(torch.autograd, "grad", None)
    assert outputs.compute(network, part).perturbed_logits is None


def test_an_ensemble_is_one_network_whose_logits_are_the_mean():
    one, two = made(20, seed=0), made(20, seed=1)
    two = replace(two, labels=one.labels)
    both = outputs.ensemble([one, two])
    np.testing.assert_allclose(both.logits, (one.logits + two.logits) / 2, rtol=1e-6)
    assert both.embeddings.shape == (20, 2 * one.embeddings.shape[1])
    head = both.embeddings @ both.head_weight.T + both.head_bias
    apart = [o.embeddings @ o.head_weight.T + o.head_bias for o in (one, two)]
    np.testing.assert_allclose(head, (apart[0] + apart[1]) / 2, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("members", [[], [made(20), made(19)]])
def test_an_ensemble_of_nothing_or_of_other_rows_is_refused(members):
    with pytest.raises(ValueError, match=r"same rows and classes, got \["):
        outputs.ensemble(members)


def test_mirrored_outputs_are_the_mean_over_both_and_do_not_care_which_is_which():
    torch.manual_seed(0)
    model = models.CompactClassifier(9, width=4)
    part = Part(
        np.random.default_rng(0).integers(0, 256, (5, 1, 28, 28), dtype=np.uint8),
        np.arange(5),
        np.arange(5),
    )
    flipped = replace(part, images=part.images[..., ::-1].copy())
    both = outputs.compute_mirrored(model, part, odin_epsilon=0.01)
    a, b = (outputs.compute(model, each, odin_epsilon=0.01) for each in (part, flipped))
    for name in ("logits", "embeddings", "perturbed_logits"):
        np.testing.assert_allclose(
            getattr(both, name), (getattr(a, name) + getattr(b, name)) / 2, rtol=1e-6
        )
    again = outputs.compute_mirrored(model, flipped, odin_epsilon=0.01)
    np.testing.assert_allclose(both.logits, again.logits, rtol=1e-5, atol=1e-6)
    linear = both.embeddings @ both.head_weight.T + both.head_bias
    np.testing.assert_allclose(both.logits, linear, rtol=1e-4, atol=1e-5)
    assert both.mse is None


def test_shifted_outputs_are_the_mean_over_six_views():
    torch.manual_seed(0)
    model = models.CompactClassifier(9, width=4)
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 28, 28), dtype=np.uint8)
    part = Part(images, np.arange(3), np.arange(3))
    rim = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)), mode="reflect")
    moved = [rim[..., k : k + 28, k : k + 28] for k in (0, 2, 4)]
    views = [view[..., ::step].copy() for view in moved for step in (1, -1)]
    expected = np.mean([outputs.compute(model, replace(part, images=v)).logits for v in views], 0)
    found = outputs.compute_mirrored(model, part, shift=2)
    np.testing.assert_allclose(found.logits, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shift", [-1, 28])
def test_shifts_beyond_the_image_are_refused(network, part, shift):
    with pytest.raises(ValueError, match="less than the image's side"):
        outputs.compute_mirrored(network, part, shift=shift)


def test_mixed_precision_is_near_and_its_logits_are_those_of_its_embedding(network, part):
    exact, fast = (outputs.compute(network, part, mixed_precision=mixed) for mixed in (False, True))
    assert fast.embeddings.dtype == fast.logits.dtype == np.float32
    np.testing.assert_allclose(
        fast.embeddings, exact.embeddings, atol=0.03 * exact.embeddings.max()
    )
    again = fast.embeddings @ fast.head_weight.T + fast.head_bias
    np.testing.assert_allclose(again, fast.logits, atol=1e-4)
