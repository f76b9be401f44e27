import math

import pytest
import torch
import torch.nn.functional as F

from embedood import losses


def logits_of(*rows):
    return torch.tensor(rows).log()


def test_overconfidence_by_hand():
    loss = losses.overconfidence(logits_of([0.5, 0.3, 0.2]), torch.tensor([0]), k=2.0)
    expected = -math.log(0.5) - 2 * (0.3 * math.log(0.7) + 0.2 * math.log(0.8))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_overconfidence_without_k_is_cross_entropy():
    logits, labels = torch.randn(7, 5), torch.arange(7) % 5
    expected = F.cross_entropy(logits, labels)
    torch.testing.assert_close(losses.overconfidence(logits, labels, k=0.0), expected)


def test_overconfidence_with_smoothed_labels_is_smoothed_cross_entropy():
    logits, labels = torch.randn(7, 5), torch.arange(7) % 5
    expected = F.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(losses.overconfidence(logits, labels, 0.0, 0.1), expected)


def test_overconfidence_is_finite_where_a_wrong_class_is_certain():
    logits = torch.tensor([[0.0, 200.0, 0.0]], requires_grad=True)
    loss = losses.overconfidence(logits, torch.tensor([0]))
    loss.backward()
    assert loss.item() == pytest.approx(200 - math.log(losses.SURE), rel=1e-2)
    assert logits.grad.isfinite().all()


def test_std_counts_wrong_predictions_only():
    rows = logits_of([0.7, 0.2, 0.1], [0.7, 0.2, 0.1])
    loss = losses.std_of_wrong(rows, torch.tensor([0, 1]))
    mean = 1 / 3
    spread = math.sqrt(((0.7 - mean) ** 2 + (0.2 - mean) ** 2 + (0.1 - mean) ** 2) / 3)
    assert loss.item() == pytest.approx(spread / 2, rel=1e-5)


def test_std_has_a_finite_gradient_at_the_uniform_prediction():
    logits = torch.zeros(1, 4, requires_grad=True)
    losses.std_of_wrong(logits, torch.tensor([3])).backward()
    assert logits.grad.isfinite().all()


def test_std_falls_when_a_wrong_prediction_becomes_more_even():
    peaked, even = logits_of([0.1, 0.8, 0.1]), logits_of([0.3, 0.4, 0.3])
    label = torch.tensor([0])
    assert losses.std_of_wrong(even, label) < losses.std_of_wrong(peaked, label)


def test_denoising_is_the_mean_over_pixels():
    a, b = torch.zeros(2, 1, 3, 3), torch.zeros(2, 1, 3, 3)
    b[0, 0, 0, 0] = 0.6
    assert losses.denoising(a, b).item() == pytest.approx(0.36 / 18)


def test_uniformity_is_the_divergence_from_uniform():
    p = torch.tensor([[0.5, 0.25, 0.25]])
    expected = sum(math.log((1 / 3) / q) / 3 for q in p[0].tolist())
    assert losses.uniformity(p.log()).item() == pytest.approx(expected, rel=1e-5)
    assert losses.uniformity(torch.zeros(3, 8)).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("loss", [losses.overconfidence, losses.std_of_wrong])
def test_gradients_match_finite_differences(loss):
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 5), torch.tensor([0, 1, 2, 3])
    logits.requires_grad_()
    (slope,) = torch.autograd.grad(loss(logits, labels), logits)
    step = torch.randn(4, 5)
    with torch.no_grad():
        rise = loss(logits + 1e-2 * step, labels) - loss(logits - 1e-2 * step, labels)
    assert (slope * step).sum().item() == pytest.approx(rise.item() / 2e-2, rel=2e-2, abs=1e-4)


def test_turning_is_the_cross_entropy_over_class_and_turn():
    logits = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    labels, turns = torch.tensor([0, 1, 1]), torch.tensor([0, 1, 2])
    p = logits.softmax(1)
    by_hand = -(p[0, 0].log() + p[1, 3].log() + p[2, 5].log()) / 3
    assert losses.turning(logits, labels, turns).item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_pull_is_half_the_squared_distance_to_the_own_prototype():
    z = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    prototypes = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    assert losses.pull(z, torch.tensor([0, 1]), prototypes).item() == pytest.approx((4 + 25) / 4)


def test_supervised_contrastive_by_a_slow_loop():
    generator = torch.Generator().manual_seed(0)
    z = torch.nn.functional.normalize(torch.randn(7, 3, generator=generator))
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 1])  # the 2 is alone and does not count
    terms = []
    for i in range(7):
        others = [a for a in range(7) if a != i]
        friends = [p for p in others if labels[p] == labels[i]]
        total = sum(torch.exp(z[i] @ z[a] / 0.2) for a in others)
        parts = [torch.log(torch.exp(z[i] @ z[p] / 0.2) / total) for p in friends]
        if parts:
            terms.append(-sum(parts) / len(parts))
    wanted = sum(terms) / len(terms)
    torch.testing.assert_close(losses.supervised_contrastive(z, labels, 0.2), wanted)


def test_supervised_contrastive_without_any_pair_is_zero_and_differentiable():
    z = torch.nn.functional.normalize(torch.randn(3, 4)).requires_grad_()
    loss = losses.supervised_contrastive(z, torch.arange(3))
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(z.grad).all()


def test_an_episode_by_hand():
    z = torch.tensor([[0.0], [2.0], [0.5], [10.0], [12.0], [9.0]])  # means 1 and 11
    logits = losses.episode_logits(z, ways=2, shots=2)
    torch.testing.assert_close(logits, -torch.tensor([[0.25, 110.25], [64.0, 4.0]]))


@pytest.mark.parametrize(("ways", "shots"), [(1, 2), (2, 3), (2, 0), (4, 1)])
def test_rows_that_are_no_episode_are_refused(ways, shots):
    with pytest.raises(ValueError, match=f"6 rows are not {ways} classes of {shots} shots"):
        losses.episode_logits(torch.zeros(6, 2), ways, shots)
