"""Heads agree with their W and b; networks have the embeddings that they say; errors name names."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from embedood import models

HEADS = {"linear": 1.0, "cosine": 0.05, "prototypes": 0.5}


def network(head, architecture="residual", **changes):
    torch.manual_seed(0)
    settings = {"head": head, "temperature": HEADS[head]} | changes
    return models.build(architecture, 5, 4, 3, **settings).eval()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dimensions", [0, 7])
def test_weight_and_bias_give_the_same_softmax_as_the_head(head, dimensions):
    model = network(head, dimensions=dimensions)
    if head == "prototypes":
        model.head.set_means(torch.randn(5, dimensions or 32))
    answer = model(torch.rand(6, 3, 32, 32))
    assert answer.embedding.shape == (6, dimensions or 32)
    linear = answer.embedding @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(answer.logits.softmax(1), linear.softmax(1), rtol=1e-4, atol=1e-6)


def test_a_cosine_head_sees_angles_only():
    head = models.CosineHead(3, 2, temperature=0.1)
    head.set_means(torch.tensor([[2.0, 0, 0], [0, 5.0, 0]]))
    z = torch.tensor([[0.6, 0.8, 0.0]])
    torch.testing.assert_close(head(z), torch.tensor([[6.0, 8.0]]))
    model = network("cosine")
    lengths = model(torch.rand(4, 3, 32, 32)).embedding.norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(4))


def test_a_prototype_head_counts_squared_distances():
    head = models.PrototypeHead(2, 2, temperature=0.5)
    head.set_means(torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
    torch.testing.assert_close(head(torch.tensor([[1.0, 1.0]])), torch.tensor([[-2.0, -10.0]]))


def test_squared_distances_keep_small_ones_far_from_the_origin():
    a = torch.randn(5, 3) + 1000
    b = a + 0.01
    exact = torch.cdist(a.double(), b.double()).square().float()
    torch.testing.assert_close(models.squared_distances(a, b), exact, rtol=1e-2, atol=1e-5)


def test_the_gradient_of_a_squared_distance_of_zero_is_zero():
    z = torch.ones(2, 3, requires_grad=True)
    models.squared_distances(z, torch.ones(2, 3)).sum().backward()
    assert torch.equal(z.grad, torch.zeros(2, 3))


@pytest.mark.parametrize(("classes", "scale"), [(10, 8.2), (100, 11.4)])
def test_the_least_scale_reaches_the_posterior_and_no_more(classes, scale):
    s = models.least_scale(classes, 0.999)
    assert s == pytest.approx(scale, abs=0.05)
    simplex = math.sqrt(classes / (classes - 1)) * (np.eye(classes) - 1 / classes)
    logits = torch.from_numpy(s * simplex @ simplex.T)
    np.testing.assert_allclose(logits.softmax(1).diag(), 0.999, rtol=1e-12)


@pytest.mark.parametrize("arguments", [(1, 0.9), (10, 1.0), (10, 0.0)])
def test_the_least_scale_refuses_what_has_none(arguments):
    with pytest.raises(ValueError, match="needs two classes and 0 < P < 1"):
        models.least_scale(*arguments)


def test_a_linear_head_takes_the_features_which_are_not_negative():
    embedding = network("linear")(torch.rand(8, 3, 32, 32)).embedding
    assert embedding.min() >= 0
    assert network("prototypes")(torch.rand(8, 3, 32, 32)).embedding.min() < 0


def test_a_residual_network_halves_the_side_three_times():
    features = network("linear").features(torch.rand(2, 3, 32, 32))
    assert features.shape == (2, 32, 4, 4)


def test_whitened_patches_have_unit_variances_without_correlation_and_both_signs():
    images = torch.rand(64, 3, 16, 16) + 0.3 * torch.rand(64, 1, 1, 1)
    model = models.WhitenedClassifier(5, width=4)
    model.whiten(images)
    answer = model.features[0](images)[:, :, ::2, ::2].transpose(0, 1).flatten(1)
    assert answer.shape[0] == 24
    torch.testing.assert_close(torch.cov(answer[:12]), torch.eye(12), rtol=0, atol=2e-3)
    torch.testing.assert_close(answer[12:], -answer[:12], rtol=0, atol=1e-5)
    torch.testing.assert_close(answer.mean(1), torch.zeros(24), rtol=0, atol=1e-4)


def test_whitened_patches_of_one_colour_stay_finite():
    model = models.WhitenedClassifier(5, width=4)
    model.whiten(torch.full((8, 3, 8, 8), 0.5))
    assert model(torch.rand(2, 3, 32, 32)).logits.isfinite().all()


def test_whitened_patches_are_not_trained():
    model = models.WhitenedClassifier(5, width=4)
    assert not list(model.features[0].parameters())
    assert {"features.0.filters", "features.0.bias"} < model.state_dict().keys()


def test_the_same_network_is_built_from_the_same_seed_with_or_without_a_neck():
    torch.manual_seed(1)
    old = torch.nn.Sequential(*[torch.nn.Conv2d(1, 4, 3, padding=1, bias=False)])
    torch.manual_seed(1)
    new = models.CompactClassifier(9, width=4)
    assert torch.equal(new.features[0][0].weight, old[0].weight)
    assert not list(new.neck.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head": "round"}, "unknown head 'round'; the heads are linear, cosine, prototypes"),
        ({"head": "cosine", "temperature": 0.0}, "must be positive, got 0.0"),
        ({"head": "linear", "temperature": 2.0}, "has no temperature, got 2.0"),
        ({"head": "cosine_of_features", "dimensions": 7}, "has the 32 dimensions of the features"),
    ],
)
def test_impossible_heads_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        models.build("residual", 5, 4, 3, **settings)


def test_the_denoising_classifier_keeps_its_own_head():
    with pytest.raises(ValueError, match="linear head of its own"):
        models.build("denoising", 9, 4, 1, head="cosine", temperature=0.1)


def test_a_cosine_of_features_takes_their_mean_off_and_their_length():
    neck, head = models.heads.make("cosine_of_features", 6, 3, temperature=0.05)
    z = torch.rand(4, 6)
    torch.testing.assert_close(neck(z), F.normalize(z - z.mean(1, keepdim=True)), atol=1e-4, rtol=0)
    assert isinstance(head, models.CosineHead)
    model = models.build("residual", 5, 4, 3, head="cosine_of_features", temperature=0.05).eval()
    answer = model(torch.rand(4, 3, 32, 32))
    angles = F.cosine_similarity(answer.embedding[:, None], model.head.directions, dim=2)
    torch.testing.assert_close(answer.logits, 20 * angles)


def test_unit_norm_is_torchs_normalisation():
    z = torch.randn(4, 6)
    neck, _ = models.heads.make("cosine", 6, 3, temperature=1.0)
    torch.testing.assert_close(neck(z), F.normalize(neck[0](z)))
