"""The information loss by hand, its limits, its gradients by finite differences, and no collapse."""

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from embedood import (
    compact_losses,
    config,
    gaussians,
    losses,
    models,
    objectives,
    outputs,
    runs,
    runtime,
)
from embedood.scorers import make
from embedood.splits import Part

EVEN = torch.full((4,), 0.25, dtype=torch.float64).log()
PRIORS = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)


def draws(seed=0, scales=True):
    """Embeddings 12×3 with labels of four classes, their means and log σ, in float64."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    means = 2 * torch.randn(4, 3, generator=generator, dtype=torch.float64)
    log_scales = torch.rand(4, generator=generator, dtype=torch.float64) * scales
    return z, torch.arange(12) % 4, means, log_scales


def slow_distance(z, mean, log_scale):
    """The distance of one embedding, number by number."""
    squares = sum((float(a) - float(b)) ** 2 for a, b in zip(z, mean, strict=True))
    return squares / (2 * math.exp(float(log_scale)) ** 2) + len(z) * float(log_scale)


def test_a_distance_is_the_negative_log_density_without_its_constant():
    z, _, means, log_scales = draws()
    found = models.gaussian_distances(z, means, log_scales)
    wanted = [[slow_distance(a, m, s) for m, s in zip(means, log_scales, strict=True)] for a in z]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))
    density = gaussians.log_prob(z, means, (2 * log_scales).exp()[:, None])
    torch.testing.assert_close(found, -density - 1.5 * math.log(2 * math.pi))


def slow_information(z, labels, means, log_scales, priors, beta, gamma, eta, margin):
    """The formula of the module, in loops over images and pairs of classes."""
    total, classes = 0.0, range(len(means))
    for row, y in zip(z, labels.tolist(), strict=True):
        d = [slow_distance(row, means[c], log_scales[c]) for c in classes]
        evidence = sum(priors[c] * math.exp(-d[c]) for c in classes)
        other = min(d[c] for c in classes if c != y)
        total += -math.log(priors[y] * math.exp(-d[y]) / evidence) + beta * d[y]
        total += eta * max(0.0, margin + d[y] - other)
    overlap = 0.0
    for i in classes:
        near = 0.0
        for j in classes:
            u, v = math.exp(2 * log_scales[i]), math.exp(2 * log_scales[j])
            gap = float((means[i] - means[j]).square().sum())
            logs = z.shape[1] / 2 * math.log((u + v) / (2 * math.sqrt(u * v)))
            near += priors[j] * math.exp(-gap / (4 * (u + v)) - logs)
        overlap += priors[i] * math.log(near)
    return total / len(z) + gamma * overlap


@pytest.mark.parametrize("weights", [(0.1, 1.0, 0.0), (1.0, 0.1, 0.5), (0.0, 0.0, 2.0)])
def test_the_information_loss_is_its_formula(weights):
    z, labels, means, log_scales = draws()
    beta, gamma, eta = weights
    terms = compact_losses.information(
        models.gaussian_distances(z, means, log_scales), labels, means, log_scales, PRIORS.log(),
        distance_weight=beta, separation_weight=gamma, margin_weight=eta, margin=2.0,
    )  # fmt: skip
    numbers = (means, log_scales.tolist(), PRIORS.tolist())
    wanted = slow_information(z, labels, *numbers, *weights, margin=2.0)
    assert terms["loss"].item() == pytest.approx(wanted, rel=1e-10)
    left_out = {
        n for n, w in zip(("distance", "separation", "margin"), weights, strict=True) if not w
    }
    assert not left_out & set(terms)


@pytest.mark.parametrize(
    "weights", [(0.0, 0.0, 0.0), (0.1, 0.0, 0.0), (0.1, 1.0, 0.0), (0.1, 1.0, 0.5)]
)
def test_gradients_are_those_of_finite_differences(weights):
    z, labels, means, log_scales = (t.requires_grad_(t.is_floating_point()) for t in draws())

    def loss(z, means, log_scales):
        distances = models.gaussian_distances(z, means, log_scales)
        names = ("distance_weight", "separation_weight", "margin_weight")
        chosen = dict(zip(names, weights, strict=True))
        of_classes = (means, log_scales, PRIORS.log())
        return compact_losses.information(distances, labels, *of_classes, **chosen)["loss"]

    assert torch.autograd.gradcheck(loss, (z, means, log_scales))


# What the loss becomes, each against a formula of the source that is written out here or elsewhere.


def step(experiment, head, z, labels):
    """The objective of an experiment on a network that hands the embeddings on as they are."""
    model = nn.Module()
    model.head = head
    model.forward = lambda images: models.Forward(head(z), z, None)
    images = torch.rand(len(z), 1, 28, 28)
    return objectives.of(experiment)(model.train(), images, labels, runtime.generator(0)).terms


def heads(temperature=2.0, fixed=True):
    """A Gaussian head and one of prototypes with the same means."""
    z, labels, means, _ = draws()
    gaussian = models.GaussianHead(3, 4, temperature, fixed_scale=fixed)
    prototypes = models.PrototypeHead(3, 4, temperature)
    for head in (gaussian, prototypes):
        head.set_means(means.float())
    return z.float(), labels, gaussian, prototypes


def plain(name, **changes):
    return config.preset(name, shift=0, **changes)


def test_without_separation_it_is_deep_mcdd():
    """λ · mean(D_y) + cross-entropy(−D + b), as in the authors' code, their b being log π."""
    z, labels, head, _ = heads(fixed=False)
    head.growth.data = torch.tensor([0.1, 0.4, 0.2, 0.7])
    head.set_priors(PRIORS.float())
    d = ((z[:, None] - head.means) ** 2).sum(2) / 2 / torch.exp(2 * head.growth) + 3 * head.growth
    wanted = 0.1 * d[torch.arange(12), labels].mean() + F.cross_entropy(-d + PRIORS.log(), labels)
    found = step(plain("compact_deep_mcdd"), head, z, labels)["loss"]
    torch.testing.assert_close(found.double(), wanted.double(), rtol=1e-5, atol=1e-6)


def test_with_one_sigma_and_neither_term_it_is_dce():
    z, labels, gaussian, prototypes = heads(temperature=0.5)
    nothing = {"distance_weight": 0.0, "separation_weight": 0.0, "temperature": 0.5}
    found = step(plain("compact_information", **nothing), gaussian, z, labels)
    wanted = step(plain("compact_dce"), prototypes, z, labels)
    torch.testing.assert_close(found["loss"], wanted["loss"])


def test_with_one_sigma_its_logits_are_those_of_a_linear_layer_and_the_loss_is_cross_entropy():
    """w = 2m/T and b = −‖m‖²/T; what is missing, −‖z‖²/T, is the same for all classes."""
    z, labels, gaussian, _ = heads(temperature=0.5)
    linear = models.LinearHead(3, 4)
    linear.weight.data = 2 * gaussian.means.detach() / 0.5
    linear.bias.data = -gaussian.means.detach().square().sum(1) / 0.5
    nothing = {"distance_weight": 0.0, "separation_weight": 0.0, "temperature": 0.5}
    found = step(plain("compact_information", **nothing), gaussian, z, labels)
    wanted = step(plain("compact"), linear, z, labels)
    torch.testing.assert_close(found["loss"], wanted["loss"])


def test_with_one_sigma_and_a_pull_it_is_gcpl():
    r"""$\beta D_y=\frac\beta T\|z-m_y\|^2$ is $\frac\lambda2\|z-m_y\|^2$ where β = λT/2."""
    z, labels, gaussian, prototypes = heads(temperature=1.0)
    pull = plain("compact_gcpl", pull_weight=0.3)
    same = {"distance_weight": 0.15, "separation_weight": 0.0, "temperature": 1.0}
    found = step(plain("compact_information", **same), gaussian, z, labels)
    torch.testing.assert_close(found["loss"] - 0.15 * 3 * gaussian.least_log_scale,
                               step(pull, prototypes, z, labels)["loss"])  # fmt: skip


def test_with_one_class_and_one_sigma_it_is_deep_svdd():
    r"""$\sigma^2=\frac12$ and β = 1; the D·log σ of the distance is a constant; there is no one to leave."""
    z, _, means, _ = draws()
    labels, centre = torch.zeros(12, dtype=torch.long), means[:1]
    log_scales = torch.full((1,), math.log(0.5) / 2, dtype=torch.float64)
    distances = models.gaussian_distances(z, centre, log_scales)
    found = compact_losses.information(
        distances, labels, centre, log_scales, torch.zeros(1).double(),
        distance_weight=1.0, separation_weight=1.0, margin_weight=1.0,
    )  # fmt: skip
    wanted = compact_losses.deep_svdd(z, centre[0])
    assert wanted.item() == pytest.approx(
        sum(float((a - centre[0]) @ (a - centre[0])) for a in z) / 12
    )
    torch.testing.assert_close(found["loss"] - 3 * log_scales[0], wanted)
    assert found["posterior"] == found["separation"] == found["margin"] == 0


def test_separation_lies_between_minus_the_entropy_and_nothing():
    _, _, means, log_scales = draws()
    entropy = -float((PRIORS * PRIORS.log()).sum())
    far = compact_losses.separation(1000 * means, log_scales, PRIORS.log())
    same = compact_losses.separation(means[:1].expand(4, 3), 0 * log_scales, PRIORS.log())
    between = compact_losses.separation(means, log_scales, PRIORS.log())
    assert far.item() == pytest.approx(-entropy)
    assert same.item() == pytest.approx(0, abs=1e-12)
    assert -entropy < between < 0


def test_the_negative_separation_is_below_the_information_of_the_mixture():
    """Kolchinsky & Tracey's bound, against I(Z;Y) by Monte Carlo."""
    _, _, means, log_scales = draws()
    variances = (2 * log_scales).exp()[:, None]
    bound = -compact_losses.separation(means, log_scales, EVEN)
    truth = gaussians.generalised_jsd(
        means, variances, samples=20_000, generator=torch.Generator().manual_seed(0)
    )
    assert bound.item() < truth.value + 4 * truth.standard_error


def test_margin_by_hand():
    d = torch.tensor([[1.0, 1.5, 9.0], [4.0, 1.0, 1.5]])
    assert compact_losses.margin_violation(d, torch.tensor([0, 0]), 1.0).item() == pytest.approx(
        (0.5 + 4) / 2
    )


# The head.


def test_a_gaussian_head_starts_apart_and_says_that_it_is_not_linear():
    torch.manual_seed(0)
    head = models.GaussianHead(80, 80)
    lengths = head.means.norm(dim=1)
    assert lengths.square().mean().item() == pytest.approx(math.log(999 * 79), rel=0.05)
    assert torch.equal(head.log_scales, torch.zeros(80))
    assert head.weight is None
    assert head.bias is None
    # At a mean of this length the posterior is about 0.999, other means being at right angles.
    head.set_means(math.sqrt(math.log(999 * 79)) * torch.eye(80))
    right = head(head.means[:1]).softmax(1)[0, 0]
    assert right.item() == pytest.approx(0.999, abs=5e-4)


def test_sigma_never_falls_below_its_floor_and_can_leave_it():
    head = models.GaussianHead(3, 2, temperature=2.0).train()
    head.set_means(torch.zeros(2, 3))
    optimizer = torch.optim.SGD([head.growth], lr=0.1)
    for z, wanted in ((torch.zeros(4, 3), 0.0), (torch.full((4, 3), 2.0), math.log(2.0))):
        for _ in range(200):
            optimizer.zero_grad()
            head.distances(z).mean().backward()
            optimizer.step()
        head.distances(z)
        torch.testing.assert_close(head.log_scales, torch.full((2,), wanted), rtol=0, atol=1e-3)


def test_a_relu_from_zero_would_never_leave_it():
    """Why Deep-MCDD's own log σ = relu(s), s = 0 at first, keeps σ = 1: no gradient passes."""
    s = torch.zeros(1, requires_grad=True)
    (4 / 2 / torch.exp(2 * F.relu(s)) + 3 * F.relu(s)).backward()
    assert s.grad.item() == 0


def test_a_fixed_scale_stays():
    head = models.GaussianHead(3, 4, temperature=0.5, fixed_scale=True)
    assert [n for n, p in head.named_parameters() if p.requires_grad] == ["means"]
    torch.testing.assert_close(head.log_scales.exp(), torch.full((4,), 0.5))
    with pytest.raises(ValueError, match=r"only the head 'gaussians' has a scale.*'cosine'"):
        models.build("compact", 4, 4, 1, head="cosine", temperature=1.0, fixed_scale=True)


@pytest.mark.parametrize("priors", [torch.ones(3), torch.tensor([1.0, 0, 1, 1])])
def test_impossible_priors_are_refused(priors):
    with pytest.raises(ValueError, match="priors must be 4 positive numbers"):
        models.GaussianHead(3, 4).set_priors(priors)


def test_scorers_that_need_a_linear_head_say_so_and_others_work():
    torch.manual_seed(0)
    model = models.build("compact", 4, 4, 1, head="gaussians", temperature=2.0)
    pixels = torch.randint(0, 255, (40, 1, 28, 28), dtype=torch.uint8).numpy()
    seen = outputs.compute(
        model, Part(pixels, (torch.arange(40) % 4).numpy(), torch.arange(40).numpy())
    )
    both = outputs.ensemble([seen, seen])
    assert {seen.head_weight, both.head_weight, both.head_bias} == {None}
    for name in ("vim", "fdbd"):
        with pytest.raises(ValueError, match="lack head_weight"):
            make(name).fit(seen)
    least = -make("max_logit").fit(seen).score(seen)
    z = torch.from_numpy(seen.embeddings)
    wanted = -model.head.eval().distances(z).amin(1) - math.log(4)
    torch.testing.assert_close(
        torch.from_numpy(least).float(), wanted.detach(), rtol=1e-4, atol=1e-4
    )
    assert len(make("energy").fit(both).score(both)) == 40


def test_presets_are_trained_and_their_terms_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("EMBEDOOD_RUNS", str(tmp_path))
    small = {
        "data_name": "mnist-5k",
        "width": 4,
        "epochs": 2,
        "train_limit": 1000,
        "unseen": (6, 7, 8, 9),
    }
    run = runs.fit(config.preset("compact_information", **small))
    first, last = run.history
    assert set(first) >= {"loss", "accuracy", "posterior", "distance", "separation"}
    assert last["loss"] < first["loss"]
    whole = last["posterior"] + 0.1 * last["distance"] + last["separation"]
    assert last["loss"] == pytest.approx(whole, rel=1e-4)
    assert -math.log(6) <= last["separation"] <= 0


def test_fields_of_the_information_loss_leave_old_keys_valid():
    old = config.preset("gcpl")
    assert old.with_(distance_weight=0.0, fixed_scale=False, margin=1.0).key == old.key
    assert old.with_(margin_weight=0.1).key != old.key


def test_the_objective_needs_gaussians():
    with pytest.raises(ValueError, match="needs a Gaussian for each class, got the head 'linear'"):
        objectives.of(plain("compact_information", head="linear", temperature=1.0))


# Collapse.


def test_deep_svdd_warns_of_a_network_that_has_become_a_constant():
    centre = torch.ones(3)
    with pytest.warns(UserWarning, match="one point"):
        compact_losses.deep_svdd(torch.full((5, 3), 0.7), centre)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compact_losses.deep_svdd(torch.tensor([[0.7, 0.7, 0.7], [0.7, 0.7, 0.71]]), centre)
        compact_losses.deep_svdd(torch.full((1, 3), 0.7), centre)
    with pytest.raises(ValueError, match="centre of Deep SVDD is fixed"):
        compact_losses.deep_svdd(torch.ones(5, 3), centre.clone().requires_grad_())


def train(loss, parameters, steps=300):
    optimizer = torch.optim.Adam(parameters, lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()


def test_in_a_small_training_classes_stay_apart_and_rows_of_a_class_differ():
    torch.manual_seed(0)
    x = torch.randn(80, 5) + 3 * torch.eye(4, 5).repeat(20, 1)
    labels = torch.arange(80) % 4
    net, head = (
        nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 2)),
        models.GaussianHead(2, 4),
    )

    def loss():
        d = head.distances(net(x))
        return compact_losses.information(d, labels, head.means, head.log_scales, head.log_priors)[
            "loss"
        ]

    train(loss, [*net.parameters(), *head.parameters()])
    assert (head(net(x)).argmax(1) == labels).float().mean() > 0.9
    assert torch.pdist(head.means).min() > 1
    assert not any(compact_losses.has_collapsed(net(x)[labels == c]) for c in range(4))


def test_a_bias_lets_deep_svdd_collapse_and_without_one_it_does_not():
    torch.manual_seed(0)
    x, centre = torch.randn(60, 5), torch.tensor([1.0, -1.0])
    with_bias, without = nn.Linear(5, 2), nn.Linear(5, 2, bias=False)
    for net in (with_bias, without):
        train(lambda net=net: (net(x) - centre).square().sum(1).mean(), net.parameters(), 1000)
    with pytest.warns(UserWarning, match="collapsed"):
        assert compact_losses.deep_svdd(with_bias(x), centre) < 1e-6
    assert not compact_losses.has_collapsed(without(x))
    assert compact_losses.deep_svdd(without(x), centre) > 0.1


def test_the_names_of_losses_mean_the_same_in_both_modules():
    """The pull of GCPL is half of the squared distance, that of Deep SVDD all of it."""
    z, _, means, _ = draws()
    zeros = torch.zeros(12, dtype=torch.long)
    torch.testing.assert_close(2 * losses.pull(z.float(), zeros, means[:1].float()),
                               compact_losses.deep_svdd(z.float(), means[0].float()))  # fmt: skip
