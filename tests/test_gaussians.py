"""Class Gaussians against slow loops; divergences against torch.distributions and integrals."""

import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import multivariate_normal, norm
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from embedood import gaussians
from embedood.gaussians import ClassGaussians, class_gaussians, densities, divergences, monte_carlo

KINDS = ("spherical", "diagonal", "tied", "full")
CLOSED = (
    gaussians.kl,
    gaussians.jeffreys,
    gaussians.bhattacharyya,
    gaussians.geometric_jsd,
)
few = settings(max_examples=40, deadline=None)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def made(kind="full", classes=4, dimensions=3, seed=0):
    """Means and covariances of classes that overlap."""
    means, draws = normal(classes, dimensions, seed=seed), normal(classes, 9, 9, seed=seed + 1)
    if kind in ("full", "tied"):
        root = draws[: classes if kind == "full" else 1, :dimensions, :dimensions]
        return means, root @ root.mT + 0.3 * torch.eye(dimensions)
    return means, draws[:, 0, : dimensions if kind == "diagonal" else 1].div(2).exp()


def square(means, covariances):
    """The same covariances, C×D×D."""
    classes, dimensions = means.shape
    if covariances.ndim == 2:
        return torch.diag_embed(covariances.expand(classes, dimensions))
    return covariances.expand(classes, dimensions, dimensions)


def pairwise(function, classes):
    rows = [[float(function(i, j)) for j in range(classes)] for i in range(classes)]
    return torch.tensor(rows, dtype=torch.float64)


def data(classes=4, dimensions=3, n=60, seed=0):
    """Embeddings whose classes differ in size, place and spread."""
    labels = (torch.rand(n, generator=generator(seed)).square() * classes).long()
    labels[-classes:] = torch.arange(classes)
    spread = 1 + labels[:, None] / 2
    return labels[:, None] + spread * normal(n, dimensions, seed=seed + 1), labels


def same(a, b, **tolerance):
    torch.testing.assert_close(a, b, equal_nan=True, **tolerance)


# Learning


@pytest.mark.parametrize("kind", KINDS)
def test_fit_is_what_a_loop_over_classes_finds(kind):
    z, labels = data()
    learned = ClassGaussians(4, 3, kind, pseudo_count=0).fit(z, labels)
    groups = [z[labels == c].numpy() for c in range(4)]
    expected = [np.cov(rows.T, bias=True) for rows in groups]
    if kind == "tied":
        expected = [sum(len(g) * s for g, s in zip(groups, expected, strict=True)) / len(z)]
    if kind == "diagonal":
        expected = [np.diag(s) for s in expected]
    if kind == "spherical":
        expected = [[np.trace(s) / 3] for s in expected]
    same(learned.means_, torch.tensor(np.stack([g.mean(0) for g in groups])))
    same(learned.covariances_, torch.tensor(np.stack(expected)))
    assert learned.counts_.tolist() == [len(g) for g in groups]
    same(learned.priors_, torch.tensor([len(g) / len(z) for g in groups], dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
def test_shrinkage_adds_samples_with_the_mean_variance_within_classes(kind):
    z, labels = data()
    plain = ClassGaussians(4, 3, kind, pseudo_count=0).fit(z, labels)
    counts = plain.counts_ if kind != "tied" else plain.counts_.sum()[None]
    pooled = sum((z[labels == c] - z[labels == c].mean(0)).square().sum() for c in range(4))
    prior = pooled / len(z) / 3 * (torch.eye(3) if kind in ("tied", "full") else 1)
    shape = (-1, *[1] * (plain.covariances_.ndim - 1))
    expected = counts.view(shape) * plain.covariances_ + 5 * prior
    found = ClassGaussians(4, 3, kind, pseudo_count=5).fit(z, labels).covariances_
    same(found, expected / (counts.view(shape) + 5))


@pytest.mark.parametrize("kind", KINDS)
def test_batches_without_decay_give_what_fit_gives(kind):
    z, labels = data(n=200)
    order = labels.argsort()  # so that most batches lack most classes
    learned = ClassGaussians(4, 3, kind, decay=1)
    for rows in order.split([1, 2, 50, 7, 140]):
        learned.update(z[rows], labels[rows])
    whole = ClassGaussians(4, 3, kind, decay=1).fit(z, labels)
    same(learned.means_, whole.means_)
    same(learned.covariances_, whole.covariances_)
    same(learned.counts_, whole.counts_)


def in_batches(learned, z, labels, size=10):
    for rows, own in zip(z.split(size), labels.split(size), strict=True):
        learned.update(rows, own)
    return learned


def decayed(labels, decay, size=10):
    """The weight of each row: decay to the number of later batches with its class."""
    batches = labels.split(size)
    later = [
        sum((label == batch).any().item() for batch in batches[k + 1 :])
        for k, own in enumerate(batches)
        for label in own
    ]
    return decay ** torch.tensor(later, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["spherical", "diagonal", "full"])
def test_decay_weights_each_row_by_the_later_batches_of_its_class(kind):
    z, labels = data(n=60)
    learned = in_batches(ClassGaussians(4, 3, kind, pseudo_count=0, decay=0.7), z, labels)
    weights = decayed(labels, 0.7)
    for c in range(4):
        rows, own = z[labels == c].numpy(), weights[labels == c].numpy()
        mean = np.average(rows, axis=0, weights=own)
        expected = (own[:, None] * (rows - mean)).T @ (rows - mean) / own.sum()
        found = square(learned.means_, learned.covariances_)[c].numpy()
        if kind == "spherical":
            expected = np.eye(3) * np.trace(expected) / 3
        if kind == "diagonal":
            expected = np.diag(np.diag(expected))
        np.testing.assert_allclose(learned.means_[c], mean)
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_tied_is_the_pooled_full_one_where_every_batch_has_every_class():
    z, _ = data(n=60)
    labels = torch.arange(60) % 4
    settings = {"pseudo_count": 0, "decay": 0.7}
    tied = in_batches(ClassGaussians(4, 3, "tied", **settings), z, labels)
    full = in_batches(ClassGaussians(4, 3, "full", **settings), z, labels)
    weights = full.running_weight / full.running_weight.sum()
    same(tied.covariances_[0], torch.einsum("c,cij->ij", weights, full.covariances_))


@pytest.mark.parametrize("kind", KINDS)
def test_where_batches_lack_most_classes_variances_stay_those_of_the_data(kind):
    """Under a sampler of classes, each is in one batch of ten; every variance is 4."""
    learned = ClassGaussians(20, 3, kind, pseudo_count=0, decay=0.9)
    for step in range(400):
        labels = torch.arange(20) % 2 + 2 * (step % 10)
        learned.update(labels[:, None] + 2 * normal(20, 3, seed=step), labels)
    variances = square(learned.means_, learned.covariances_).diagonal(dim1=1, dim2=2)
    assert variances.mean().item() == pytest.approx(4, rel=0.1)


def test_a_class_first_seen_late_has_its_own_mean_at_once_and_others_stay():
    learned = ClassGaussians(3, 2, decay=0.9)
    for seed in range(20):
        learned.update(normal(8, 2, seed=seed), torch.arange(8) % 2)
    before = {name: value.clone() for name, value in learned.state_dict().items()}
    late = torch.tensor([[7.0, -3.0]], dtype=torch.float64)
    learned.update(late, torch.tensor([2]))
    assert torch.equal(learned.means_[2], late[0])
    for name, value in learned.state_dict().items():
        assert torch.equal(value[:2], before[name][:2]), name
    assert learned.counts_.tolist() == [80, 80, 1]
    pooled = (learned.running_scatter.mean(1).sum() / learned.running_weight.sum()).expand(2)
    same(learned.covariances_[2], pooled * 10 / 11)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_it_goes_on_identically(kind):
    z, labels = data()
    learned = ClassGaussians(4, 3, kind).fit(z, labels)
    file = io.BytesIO()
    torch.save(learned.state_dict(), file)
    file.seek(0)
    other = ClassGaussians(4, 3, kind)
    other.load_state_dict(torch.load(file))
    for each in (learned, other):
        each.update(z[::3], labels[::3])
    assert torch.equal(learned.means_, other.means_)
    assert torch.equal(learned.covariances_, other.covariances_)
    assert torch.equal(learned.priors_, other.priors_)


def test_fit_forgets_what_was_before():
    z, labels = data()
    again = ClassGaussians(4, 3, "tied").fit(z + 9, labels).fit(z, labels)
    fresh = ClassGaussians(4, 3, "tied").fit(z, labels)
    for name, value in fresh.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_far_from_the_origin_variances_keep_their_digits():
    z, labels = data()
    near, far = (ClassGaussians(4, 3, decay=1) for _ in range(2))
    in_batches(near, z, labels)
    in_batches(far, z + 1e6, labels)
    same(far.covariances_, near.covariances_, rtol=1e-6, atol=0)


def test_half_precision_with_gradients_is_taken_and_left_alone():
    z, labels = data()
    half = z.bfloat16().requires_grad_()
    learned = ClassGaussians(4, 3).fit(half, labels.int())
    assert not learned.means_.requires_grad
    assert learned.means_.dtype == torch.float64
    same(learned.means_, ClassGaussians(4, 3).fit(half.detach().double(), labels).means_)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_on_cuda_it_is_the_same_and_twice_identical(kind):
    z, labels = data(n=5000)
    here = in_batches(ClassGaussians(4, 3, kind), z, labels, 1000)
    there = [
        in_batches(ClassGaussians(4, 3, kind).cuda(), z.cuda(), labels.cuda(), 1000)
        for _ in range(2)
    ]
    same(there[0].covariances_.cpu(), here.covariances_)
    assert torch.equal(there[0].covariances_, there[1].covariances_)


# Classes without samples, and what is refused


@pytest.mark.parametrize("kind", KINDS)
def test_classes_without_samples_are_nan_and_masked_in_matrices(kind):
    z, labels = data(classes=3)
    places = torch.tensor([0, 1, 4])
    learned = ClassGaussians(5, 3, kind).fit(z, places[labels])
    dense = ClassGaussians(3, 3, kind).fit(z, labels)
    assert learned.counts_[[2, 3]].tolist() == [0, 0]
    assert learned.means_.isnan().all(1).tolist() == [False, False, True, True, False]
    if kind != "tied":
        nan = learned.covariances_.flatten(1).isnan().all(1)
        assert nan.tolist() == [False, False, True, True, False]
    found = learned.matrix(gaussians.chernoff, alpha=0.3)
    same(found[places[:, None], places], dense.matrix(gaussians.chernoff, alpha=0.3))
    assert found.isnan().sum() == 25 - 9
    assert found[2].isnan().all()
    assert found[:, 2].isnan().all()
    with pytest.raises(ValueError, match=r"rows \[2, 3\] of means \(5, 3\)"):
        gaussians.kl(learned.means_, learned.covariances_)


def test_the_matrix_of_an_estimate_is_its_value():
    z, labels = data()
    learned = ClassGaussians(4, 3).fit(z, labels)
    found = learned.matrix(gaussians.jsd, samples=50, generator=generator())
    value, _ = gaussians.jsd(learned.means_, learned.covariances_, 50, generator())
    assert torch.equal(found, value)
    assert found.max() > 0.05


@pytest.mark.parametrize(
    ("embeddings", "labels", "said"),
    [
        (torch.zeros(0, 3), torch.zeros(0, dtype=int), r"\(0, 3\) and labels \(0,\)"),
        (torch.zeros(4, 2), torch.zeros(4, dtype=int), r"D = 3 are needed, got .*\(4, 2\)"),
        (torch.zeros(4, 3), torch.zeros(5, dtype=int), r"\(4, 3\) and labels \(5,\)"),
        (torch.zeros(4, 3), torch.zeros(4, 1, dtype=int), r"labels \(4, 1\)"),
        (torch.zeros(4, 3), torch.zeros(4), "torch.float32"),
        (torch.full((4, 3), torch.nan), torch.zeros(4, dtype=int), r"NaN.*\(4, 3\)"),
        (torch.zeros(2, 3), torch.tensor([-1, 0]), "0…3, got -1 to 0"),
        (torch.zeros(2, 3), torch.tensor([1, 4]), "0…3, got 1 to 4"),
    ],
)
@pytest.mark.parametrize("verb", ["fit", "update"])
def test_bad_batches_are_refused_and_leave_all_as_it_was(verb, embeddings, labels, said):
    learned = ClassGaussians(4, 3).fit(*data())
    before = {name: value.clone() for name, value in learned.state_dict().items()}
    with pytest.raises(ValueError, match=said):
        getattr(learned, verb)(embeddings, labels)
    for name, value in learned.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("name", ["means_", "covariances_", "priors_"])
def test_before_the_first_sample_there_is_nothing(name):
    with pytest.raises(ValueError, match="none of 4 classes"):
        getattr(ClassGaussians(4, 3), name)


@pytest.mark.parametrize(
    "wrong",
    [{"covariance": "round"}, {"pseudo_count": -1}, {"decay": 0}, {"decay": 1.1}],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        ClassGaussians(4, 3, **wrong)


def test_one_sample_a_class_is_singular_unless_shrunk():
    z, labels = data()
    one = (labels != 3) | (torch.arange(60) == (labels == 3).nonzero()[0, 0])
    for kind in ("spherical", "diagonal", "full"):
        bare = ClassGaussians(4, 3, kind, pseudo_count=0).fit(z[one], labels[one])
        with pytest.raises(
            ValueError, match=r"rows \[3\] of 4 are singular in D = 3.*pseudo_count"
        ):
            bare.matrix(gaussians.bhattacharyya)
        shrunk = ClassGaussians(4, 3, kind).fit(z[one], labels[one])
        assert shrunk.matrix(gaussians.bhattacharyya).isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_dimension_is_singular_in_spite_of_rounding(kind):
    z, labels = data()
    z[:, 1] = 0.1
    learned = ClassGaussians(4, 3, kind, pseudo_count=0).fit(z, labels)
    if kind == "spherical":
        assert learned.matrix(gaussians.kl).isfinite().all()
        return
    with pytest.raises(ValueError, match="singular in D = 3"):
        learned.matrix(gaussians.kl)


def test_full_covariances_of_too_few_rows_are_singular():
    z, labels = normal(20, 8), torch.arange(20) % 4
    with pytest.raises(ValueError, match=r"rows \[0, 1, 2, 3\] of 4"):
        ClassGaussians(4, 8, "full", pseudo_count=0).fit(z, labels).matrix(gaussians.kl)


def test_long_lists_of_rows_are_cut():
    with pytest.raises(ValueError, match=r"rows \[0, 1, 2, 3, 4, 5, 6, 7, …\] of 12 are"):
        gaussians.kl(torch.zeros(12, 2), torch.zeros(12, 2))


@pytest.mark.parametrize("function", [*CLOSED, gaussians.error_bound])
@pytest.mark.parametrize(
    ("means", "covariances", "said"),
    [
        (torch.zeros(3), torch.ones(3, 3), r"means \(3,\) and covariances \(3, 3\)"),
        (torch.zeros(3, 2), torch.ones(2, 3), r"\(3, 2\) and covariances \(2, 3\)"),
        (torch.zeros(3, 2), torch.ones(2, 2, 2), r"\(2, 2, 2\)"),
        (torch.zeros(0, 2), torch.ones(0, 2), "got C = 0"),
        (torch.zeros(3, 0), torch.ones(3, 0), r"\(3, 0\)"),
        (torch.zeros(1, 2), torch.ones(1, 2), "at least 2 classes are needed, got C = 1"),
        (torch.tensor([[0.0], [torch.inf]]), torch.ones(2, 1), r"rows \[1\] of means \(2, 1\)"),
        (torch.zeros(2, 1), torch.tensor([[torch.nan], [1]]), r"rows \[0\] of means"),
        (torch.zeros(2, 1), torch.tensor([[1.0], [-1]]), r"rows \[1\] of 2 are singular"),
        (torch.zeros(2, 2), -torch.eye(2)[None], r"rows \[0\] of 1 are singular"),
    ],
)
def test_divergences_refuse_what_is_no_gaussian(function, means, covariances, said):
    with pytest.raises(ValueError, match=said):
        function(means, covariances)


def test_other_arguments_are_checked():
    z = made()
    for alpha in (0, 1, -0.1):
        for function in (gaussians.chernoff, gaussians.geometric_jsd):
            with pytest.raises(ValueError, match=f"0 and 1, got {alpha}"):
                function(*z, alpha)
    for priors, said in (
        ([0.5, 0.5], r"C = 4 numbers, got shape \(2,\)"),
        ([0.5, 0.5, 0.5, -0.5], "≥ 0"),
        ([0.1] * 4, "got sum 0.4"),
    ):
        with pytest.raises(ValueError, match=said):
            gaussians.error_bound(*z, torch.tensor(priors))
        with pytest.raises(ValueError, match=said):
            gaussians.generalised_jsd(*z, 10, generator(), torch.tensor(priors))
    with pytest.raises(ValueError, match="2 samples a class are needed, got 1"):
        gaussians.jsd(*z, 1, generator())
    for embeddings in (normal(0, 3), normal(2, 4), normal(3), normal(2, 3) * torch.nan):
        with pytest.raises(ValueError, match="embeddings"):
            gaussians.log_prob(embeddings, *z)


# Divergences in closed form


@pytest.mark.parametrize("kind", KINDS)
def test_kl_is_that_of_torch_distributions(kind):
    means, covariances = made(kind)
    own = [
        MultivariateNormal(*each) for each in zip(means, square(means, covariances), strict=True)
    ]
    if kind == "diagonal":
        own = [Independent(Normal(m, v.sqrt()), 1) for m, v in zip(means, covariances, strict=True)]
    expected = pairwise(lambda i, j: kl_divergence(own[i], own[j]), 4)
    same(gaussians.kl(means, covariances), expected)
    same(gaussians.jeffreys(means, covariances), expected + expected.mT)


@pytest.mark.parametrize("kind", KINDS)
def test_log_densities_are_those_of_torch_distributions(kind):
    means, covariances = made(kind)
    z = normal(7, 3, seed=5)
    own = MultivariateNormal(means, square(means, covariances))
    same(gaussians.log_prob(z, means, covariances), own.log_prob(z[:, None]))
    one = gaussians.log_prob(z, means[:1], covariances[:1])
    same(one, own.log_prob(z[:, None])[:, :1])


def lines(means, variances):
    """Densities on a line."""
    pairs = zip(means[:, 0].tolist(), variances[:, 0].tolist(), strict=True)
    return [norm(mean, math.sqrt(variance)).pdf for mean, variance in pairs]


def integral(function):
    return quad(function, -40, 40, points=[-5, 0, 5], limit=200, epsabs=1e-10)[0]


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.9])
def test_chernoff_is_its_integral_on_a_line(alpha):
    means, variances = made("diagonal", classes=3, dimensions=1)
    p = lines(means, variances)
    expected = pairwise(
        lambda i, j: -math.log(integral(lambda x: p[i](x) ** (1 - alpha) * p[j](x) ** alpha)), 3
    )
    same(gaussians.chernoff(means, variances, alpha), expected, rtol=1e-7, atol=1e-9)


def plane(means, covariances, steps=400, reach=14):
    """Densities on a grid of the plane, C×points, and the area of a cell."""
    axis = np.linspace(-reach, reach, steps)
    grid = np.stack(np.meshgrid(axis, axis), -1)
    pairs = zip(means.numpy(), square(means, covariances).numpy(), strict=True)
    densities = [multivariate_normal(m, s).pdf(grid).ravel() for m, s in pairs]
    return torch.tensor(np.stack(densities)), (axis[1] - axis[0]) ** 2


@pytest.mark.parametrize("kind", KINDS)
def test_bhattacharyya_is_its_integral_on_a_plane(kind):
    means, covariances = made(kind, classes=3, dimensions=2)
    p, cell = plane(means, covariances)
    overlap = p.sqrt() @ p.sqrt().mT * cell
    same(gaussians.bhattacharyya_coefficient(means, covariances), overlap, rtol=1e-6, atol=0)
    same(gaussians.bhattacharyya(means, covariances), -overlap.log(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.25, 0.5])
@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_geometric_jsd_is_two_divergences_from_the_geometric_mean(kind, alpha):
    means, covariances = made(kind)
    wide = square(means, covariances)

    def expected(i, j):
        a, b = wide[i].inverse(), wide[j].inverse()
        mixed = ((1 - alpha) * a + alpha * b).inverse()
        mean = mixed @ ((1 - alpha) * a @ means[i] + alpha * b @ means[j])
        p, q = (MultivariateNormal(means[k], wide[k]) for k in (i, j))
        g = MultivariateNormal(mean, mixed)
        return (1 - alpha) * kl_divergence(p, g) + alpha * kl_divergence(q, g)

    same(gaussians.geometric_jsd(means, covariances, alpha), pairwise(expected, 4))


def test_geometric_jsd_has_the_value_published_with_it():
    means = torch.tensor([[-1.0], [-4.0]])
    found = gaussians.geometric_jsd(means, torch.tensor([[4.0], [16.0]]))
    assert found[0, 1].item() == pytest.approx(0.4087, abs=5e-5)


def test_the_error_bound_is_above_the_error_of_the_best_classifier():
    means, variances = made("diagonal", classes=3, dimensions=1)
    priors = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    bound = gaussians.error_bound(means, variances, priors)
    p = lines(means, variances)
    pi = priors.tolist()
    error = pairwise(lambda i, j: integral(lambda x: min(pi[i] * p[i](x), pi[j] * p[j](x))), 3)
    assert (bound >= error - 1e-9).all()
    assert (bound <= 4 * error).all()
    same(bound.diagonal(), priors)
    even = gaussians.error_bound(means, variances)
    same(even, gaussians.bhattacharyya_coefficient(means, variances) / 3)
    same(gaussians.error_bound(means, variances, priors.float()), bound, rtol=1e-6, atol=0)


@pytest.mark.parametrize("function", [*CLOSED, lambda *g: gaussians.chernoff(*g, 0.3)])
def test_four_shapes_of_one_covariance_give_one_answer(function):
    means = normal(4, 3)
    forms = [torch.full((4, 1), 2.0), torch.full((4, 3), 2.0), 2 * torch.eye(3)[None]]
    found = [function(means, each.double()) for each in forms]
    same(found[0], found[1])
    same(found[0], found[2])
    diagonal = made("diagonal")
    same(function(*diagonal), function(diagonal[0], square(*diagonal)))
    tied = made("tied")
    same(function(*tied), function(tied[0], square(*tied)))


@pytest.mark.parametrize("kind", KINDS)
def test_classes_that_coincide_are_at_0_and_near_ones_are_told_apart(kind):
    means, covariances = made(kind, classes=3)
    means = means + 1000
    means[1] = means[0]
    if kind != "tied":
        covariances[1] = covariances[0]
    for function in CLOSED:
        assert function(means, covariances)[0, 1] == pytest.approx(0, abs=1e-9)
    means[1, 0] += 1e-3
    precisions = square(means, covariances)[0].inverse()
    expected = 1e-6 * precisions[0, 0].item() / 2
    assert gaussians.kl(means, covariances)[0, 1].item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("function", [gaussians.kl, gaussians.bhattacharyya])
def test_gradients_match_finite_differences(function, kind):
    means, covariances = made(kind, classes=3, dimensions=2)
    inputs = (means.requires_grad_(), covariances.requires_grad_())

    def symmetric(m, s):
        return function(m, (s + s.mT) / 2 if s.ndim == 3 else s)

    assert torch.autograd.gradcheck(symmetric, inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_change_nothing(kind, monkeypatch):
    z, labels = data()
    gaussian = made(kind)

    def results():
        learned = in_batches(ClassGaussians(4, 3, kind), z, labels)
        value, error = gaussians.jsd(*gaussian, 16, generator())
        information = gaussians.generalised_jsd(*gaussian, 16, generator()).value
        closed = [function(*gaussian) for function in CLOSED]
        return [learned.covariances_, value, error, information, *closed]

    whole = results()
    monkeypatch.setattr(divergences, "IN_CACHE", 1)
    for module in (class_gaussians, densities, monte_carlo):
        monkeypatch.setattr(module, "ELEMENTS", 1)
    for parts, expected in zip(results(), whole, strict=True):
        same(parts, expected)


@given(seed=st.integers(0, 2**31), kind=st.sampled_from(KINDS), shift=st.floats(-100, 100))
@few
def test_no_affine_map_of_the_space_changes_a_divergence(seed, kind, shift):
    means, covariances = made(kind, seed=seed)
    root = normal(3, 3, seed=seed + 2)
    linear = root @ root.mT + 0.5 * torch.eye(3)
    wide = square(means, covariances)
    moved = means @ linear.mT + shift, linear @ wide @ linear.mT
    for function in CLOSED:
        same(function(means, covariances), function(*moved), rtol=1e-6, atol=1e-8)


@given(
    seed=st.integers(0, 2**31),
    kind=st.sampled_from(KINDS),
    scale=st.floats(1e-3, 1e3),
    classes=st.integers(2, 5),
    dimensions=st.integers(1, 4),
)
@few
def test_ranges_symmetry_and_order(seed, kind, scale, classes, dimensions):
    means, covariances = made(kind, classes, dimensions, seed)
    means = means * scale
    apart = ~torch.eye(classes, dtype=torch.bool)
    kl, j, b, g = (function(means, covariances) for function in CLOSED)
    coefficient = gaussians.bhattacharyya_coefficient(means, covariances)
    divergence, error = gaussians.jsd(means, covariances, 40, generator(seed))
    assert (kl[apart] > 0).all()
    assert (b[apart] > 0).all()
    for symmetric in (j, b, g, coefficient, divergence, error):
        assert torch.equal(symmetric, symmetric.mT)
    for zero in (kl, j, b, g, divergence, error, coefficient - 1):
        assert (zero.diagonal() == 0).all()
    assert (coefficient <= 1).all()
    assert (coefficient[b < 700] > 0).all()
    assert (divergence >= 0).all()
    assert (divergence <= math.log(2)).all()
    # Jensen: JSD ≤ J/4, whose geometric form is J/4 − B; and B ≤ KL/2.
    assert (b <= kl / 2 + 1e-9).all()
    assert (g <= j / 4 + 1e-9).all()
    assert (divergence <= j / 4 + 6 * error + 1e-9).all()


# Monte Carlo


def entropy_of_posterior(densities, weights):
    """∫ m H(Y|z), from densities C×points and the weight of each point."""
    joint = densities * weights[:, None]
    total = joint.sum(0)
    return torch.special.entr(joint / total.clamp(min=1e-300)).sum(0) @ total


@pytest.mark.parametrize("kind", KINDS)
def test_jsd_is_its_integral_on_a_plane(kind):
    means, covariances = made(kind, classes=3, dimensions=2)
    p, cell = plane(means, covariances)
    half = torch.full((2,), 0.5, dtype=torch.float64)
    expected = pairwise(lambda i, j: math.log(2) - entropy_of_posterior(p[[i, j]], half) * cell, 3)
    value, error = gaussians.jsd(means, covariances, 4000, generator())
    apart = ~torch.eye(3, dtype=torch.bool)
    assert (error[apart] < 0.006).all()
    assert ((value - expected).abs() <= 4 * error + 1e-6).all()


def test_jsd_is_the_mean_of_two_divergences_from_the_mixture():
    """By definition, not through the entropy of a coin."""
    means, variances = made("diagonal", classes=2, dimensions=1)
    p, q = lines(means, variances)

    def halves(a, b):
        return integral(lambda x: a(x) * math.log(2 * a(x) / (a(x) + b(x))) if a(x) > 1e-300 else 0)

    value, error = gaussians.jsd(means, variances, 20000, generator())
    assert abs(value[0, 1].item() - (halves(p, q) + halves(q, p)) / 2) < 4 * error[0, 1].item()
    assert error[0, 1].item() < 0.002


@pytest.mark.parametrize("kind", KINDS)
def test_information_about_the_class_is_its_integral_on_a_plane(kind):
    means, covariances = made(kind, classes=3, dimensions=2)
    priors = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    p, cell = plane(means, covariances)
    expected = torch.special.entr(priors).sum() - entropy_of_posterior(p, priors) * cell
    value, error = gaussians.generalised_jsd(means, covariances, 6000, generator(), priors)
    assert error < 0.006
    assert abs(value - expected) < 4 * error


def test_information_about_two_even_classes_is_their_jsd():
    two = made(classes=2)
    divergence, error = gaussians.jsd(*two, 100, generator(3))
    found = gaussians.generalised_jsd(*two, 100, generator(3))
    same(found.value, divergence[0, 1])
    same(found.standard_error, error[0, 1])


def test_a_class_of_prior_0_holds_no_information():
    means, covariances = made(classes=3)
    priors = torch.tensor([0.5, 0.5, 0], dtype=torch.float64)
    three = gaussians.generalised_jsd(means, covariances, 5000, generator(), priors)
    two = gaussians.generalised_jsd(means[:2], covariances[:2], 5000, generator(1))
    spread = math.hypot(three.standard_error, two.standard_error)
    assert abs(three.value - two.value) < 4 * spread
    assert spread < 0.01


def test_far_apart_classes_hold_all_information():
    means = 100 * torch.arange(4.0)[:, None]
    ones = torch.ones(4, 1)
    assert gaussians.generalised_jsd(means, ones, 10, generator()).value == math.log(4)
    expected = math.log(2) * (1 - torch.eye(4))
    same(gaussians.jsd(means, ones, 10, generator()).value, expected)


@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_standard_errors_are_the_spread_of_repeated_estimates(kind):
    gaussian = made(kind, classes=3)
    runs = [gaussians.jsd(*gaussian, 50, generator(seed)) for seed in range(300)]
    spread = torch.stack([run.value for run in runs]).std(0)
    stated = torch.stack([run.standard_error for run in runs]).square().mean(0).sqrt()
    # The standard deviation of 300 values is known to 1/√600 = 4 %.
    same(spread, stated, rtol=0.16, atol=0)
    whole = [gaussians.generalised_jsd(*gaussian, 50, generator(seed)) for seed in range(300)]
    spread = torch.stack([run.value for run in whole]).std()
    stated = torch.stack([run.standard_error for run in whole]).square().mean().sqrt()
    same(spread, stated, rtol=0.16, atol=0)


def test_a_seed_gives_the_same_estimate_and_another_seed_another():
    first, again, other = (gaussians.jsd(*made(), 20, generator(s)).value for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
