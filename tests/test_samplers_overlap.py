"""Samplers of classes that overlap, against matrices worked out by hand."""

import itertools
import math

import pytest
import torch
from scipy.stats import chisquare

from embedood import gaussians, runtime, samplers
from embedood.samplers import Overlaps, Step

LABELS = torch.arange(40) % 4
D = torch.tensor([[0.0, 1, 2, 4], [1, 0, 4, 8], [2, 4, 0, 8], [4, 8, 8, 0]])
INF = float("inf")


def made(kind, matrix=D, seed=0, overlap="inverse", **settings):
    overlaps = matrix if isinstance(matrix, Overlaps) else Overlaps(matrix, overlap)
    labels = torch.arange(10 * len(matrix)) % len(matrix) if torch.is_tensor(matrix) else LABELS
    return kind(labels, runtime.generator(seed), settings.pop("ways", 3), 2, overlaps, **settings)


def probabilities(sampler):
    return sampler.log_probabilities().exp()


def close(found, expected):
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def frequencies(sampler, count, times=4000):
    """How often each ordered choice of classes was drawn, in the order of `permutations`."""
    drawn = [tuple(sampler.draw(count).tolist()) for _ in range(times)]
    return [drawn.count(choice) for choice in itertools.permutations(range(4), count)]


# Classes


def test_a_class_is_drawn_by_the_inverse_of_its_row_sum():
    inverse = [1 / 7, 1 / 13, 1 / 14, 1 / 20]
    close(probabilities(made(samplers.ClassOverlapSampler)), [v / sum(inverse) for v in inverse])


def test_exponential_overlaps_are_summed_over_the_other_classes():
    rows = [[math.exp(-D[i, j]) for j in range(4) if j != i] for i in range(4)]
    sums = [sum(row) for row in rows]
    sampler = made(samplers.ClassOverlapSampler, overlap="exponential")
    close(probabilities(sampler), [v / sum(sums) for v in sums])


def test_relative_overlaps_do_not_know_the_scale_of_the_divergences():
    """The median of 1, 2, 4, 4, 8, 8, each twice, is 4 (the lower one of an even number)."""
    relative, plain = Overlaps(D, "relative"), Overlaps(D / 4, "exponential")
    close(relative.log_pairs.exp(), plain.log_pairs.exp().tolist())
    close(relative.log_classes, plain.log_classes.tolist())
    close(Overlaps(100 * D, "relative").log_classes, plain.log_classes.tolist())


def test_the_rows_of_a_divergence_that_is_not_symmetric_count():
    sampler = made(samplers.ClassOverlapSampler, torch.tensor([[0.0, 1, 2], [4, 0, 2], [4, 8, 0]]))
    close(probabilities(sampler), [4 / 7, 2 / 7, 1 / 7])  # of the row sums 3, 6 and 12


def test_temperature_floor_and_the_control_that_turns_weights_over():
    squares = [1 / 49, 1 / 169, 1 / 196, 1 / 400]
    sampler = made(samplers.ClassOverlapSampler, temperature=0.5, floor=0.2)
    close(probabilities(sampler), [0.8 * v / sum(squares) + 0.05 for v in squares])
    close(probabilities(made(samplers.LeastOverlapSampler)), [7 / 54, 13 / 54, 14 / 54, 20 / 54])


def test_classes_are_drawn_by_their_probabilities_then_by_those_of_the_rest():
    sampler = made(samplers.ClassOverlapSampler)
    q = probabilities(sampler).tolist()
    expected = [4000 * q[i] * q[j] / (1 - q[i]) for i, j in itertools.permutations(range(4), 2)]
    assert chisquare(frequencies(sampler, 2), expected).pvalue > 0.01


def test_context_classes_are_drawn_uniformly_from_the_rest():
    sampler = made(samplers.ClassOverlapSampler, context_share=0.5, ways=2)
    q, found = probabilities(sampler).tolist(), []
    for _ in range(4000):
        found.append(tuple(sampler.draw_classes().tolist()))
    choices = list(itertools.permutations(range(4), 2))
    counts = [found.count(choice) for choice in choices]
    assert chisquare(counts, [4000 * q[first] / 3 for first, _ in choices]).pvalue > 0.01


# Tournament


@pytest.mark.parametrize("candidates", [1, 2, 3])
def test_the_most_overlapping_of_some_candidates_wins(candidates):
    sampler = made(samplers.TournamentSampler, candidates=candidates)
    expected = [math.comb(4 - r, candidates - 1) / math.comb(4, candidates) for r in (1, 2, 3, 4)]
    counts = frequencies(sampler, 1, 2000)  # D puts the classes in their order
    assert sum(counts[: 5 - candidates]) == 2000
    expected = [2000 * p for p in expected if p]
    assert chisquare(counts[: 5 - candidates], expected).pvalue > 0.01


def test_candidates_that_are_not_whole_are_refused():
    with pytest.raises(TypeError, match=r"candidates must be a whole number, got 2\.5"):
        made(samplers.TournamentSampler, candidates=2.5)


def test_a_tournament_of_all_is_the_order_of_overlap_and_a_floor_makes_it_uniform():
    everyone = made(samplers.TournamentSampler, candidates=9)
    assert everyone.draw(4).tolist() == [0, 1, 2, 3]
    uniform = made(samplers.TournamentSampler, candidates=9, floor=1.0)
    assert chisquare(frequencies(uniform, 2, 3000)).pvalue > 0.01


# Relationships


def test_pairs_are_drawn_by_their_overlap():
    sampler = made(samplers.RelationshipOverlapSampler)
    # 1/D of the six pairs, in eighths: 8, 4, 2, 2, 1, 1; each pair stands twice in the matrix.
    eighths = [[0, 8, 4, 2], [8, 0, 2, 1], [4, 2, 0, 1], [2, 1, 1, 0]]
    close(sampler.log_pair_probabilities().exp(), [[v / 36 for v in row] for row in eighths])


def test_an_entry_of_either_direction_takes_both_classes():
    """The matrix of KL is not symmetric: entries (i, j) and (j, i) are drawn, and both add up."""
    skew = torch.tensor([[0.0, 1, 4], [2, 0, 4], [4, 4, 0]])
    found = made(samplers.RelationshipOverlapSampler, skew).log_pair_probabilities().exp()
    pair = found + found.mT
    close(pair[0, 1:], [1.5 / 2.5, 0.5 / 2.5])
    close(pair[1, 2], 0.5 / 2.5)


def by_hand(o, first, second, third, floor=0.0, temperature=1.0):
    """The probability of three classes in this order: an entry, then the product of overlaps."""
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    power = {p: float(o[p]) ** (1 / temperature) for p in pairs}
    entry = (1 - floor) * power[first, second] / sum(power.values()) + floor / 12
    left = [k for k in range(4) if k not in (first, second)]
    products = {k: (float(o[first, k]) * float(o[second, k])) ** (1 / temperature) for k in left}
    further = (1 - floor) * products[third] / sum(products.values()) + floor / 2
    return entry * further


@pytest.mark.parametrize("settings", [{}, {"floor": 0.4, "temperature": 2.0}])
@pytest.mark.parametrize("overlap", ["inverse", "exponential", "relative"])
def test_whenever_a_class_has_joined_the_weights_are_those_of_the_products(overlap, settings):
    sampler = made(samplers.RelationshipOverlapSampler, overlap=overlap, **settings)
    o = {"inverse": 1 / D, "exponential": torch.exp(-D), "relative": torch.exp(-D / 4)}[overlap]
    expected = [by_hand(o, *choice, **settings) for choice in itertools.permutations(range(4), 3)]
    assert sum(expected) == pytest.approx(1)
    counts = frequencies(sampler, 3, 6000)
    assert chisquare(counts, [6000 * p for p in expected]).pvalue > 0.01


def test_re_weighting_step_by_step():
    """Overlaps so unequal that each draw is certain: the weights alone decide the order."""
    chain = torch.full((5, 5), 1e9).fill_diagonal_(0)
    nearness = [(3, 1, 1e-14), (4, 1, 1e-3), (4, 3, 1e-3), (2, 3, 1.0), (0, 4, 1e-6)]
    for i, j, distance in nearness:
        chain[i, j] = chain[j, i] = distance
    drawn = made(samplers.RelationshipOverlapSampler, chain, ways=5).draw(5).tolist()
    assert set(drawn[:2]) == {1, 3}  # the nearest pair
    assert drawn[2] == 4  # near to both: 10⁶, against 10⁻⁹ for 2 and 10⁻¹⁸ for 0
    assert drawn[3:] == [0, 2]  # with 4 chosen, 10⁻¹² for 0 against 10⁻¹⁸ for 2


def test_a_new_matrix_is_drawn_from_at_once():
    sampler = made(samplers.RelationshipOverlapSampler)
    sampler.log_pair_probabilities()
    near = torch.full((4, 4), 1e9)
    near[2, 3] = near[3, 2] = 1e-9
    sampler.overlaps.use(near)
    assert set(sampler.draw(2).tolist()) == {2, 3}


# Matrices that say little


WEIGHTED = [
    samplers.ClassOverlapSampler,
    samplers.LeastOverlapSampler,
    samplers.RelationshipOverlapSampler,
]


def mixed():
    """Class 1 coincides with class 0, and is infinitely far from class 3."""
    matrix = D.clone()
    matrix[0, 1] = matrix[1, 0] = 0.0
    matrix[1, 3] = matrix[3, 1] = INF
    return matrix


@pytest.mark.parametrize("floor", [0.0, 0.3])
@pytest.mark.parametrize("matrix", [D, torch.zeros(4, 4), torch.full((4, 4), INF), mixed()])
@pytest.mark.parametrize("kind", WEIGHTED)
def test_an_infinite_temperature_is_uniform_whatever_the_overlaps(kind, matrix, floor):
    for overlap in ("inverse", "exponential", "relative"):
        sampler = made(kind, matrix, overlap=overlap, temperature=INF, floor=floor, ways=4)
        close(probabilities(sampler), [0.25] * 4)
        assert all(len(set(sampler.draw(4).tolist())) == 4 for _ in range(50))
        counts = frequencies(sampler, 3, 1200)
        assert sum(counts) == 1200  # every choice was one of different classes
        assert chisquare(counts).pvalue > 0.001


def test_an_infinite_temperature_leaves_a_tournament_its_order():
    sampler = made(samplers.TournamentSampler, mixed(), temperature=INF, candidates=4)
    expected = sampler.overlaps.log_classes.argsort(descending=True, stable=True)
    assert sampler.draw(4).tolist()[:2] == expected.tolist()[:2]
    assert sorted(sampler.draw(4).tolist()) == [0, 1, 2, 3]


def test_an_infinite_temperature_is_uniform_over_losses_of_zero():
    sampler = samplers.ClassLossSampler(LABELS, runtime.generator(0), 3, 2, temperature=INF)
    logits = torch.tensor([[1e4, 0, 0, 0], [0, 1.0, 0, 0]])  # a loss of exactly 0, and a usual one
    sampler.observe(torch.tensor([0, 1]), Step({}, logits, logits))
    assert sampler.log_weights()[0] == -INF
    close(probabilities(sampler), [0.25] * 4)
    counts = frequencies(sampler, 3, 1200)
    assert sum(counts) == 1200
    assert chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize("value", [0.0, 3.0, INF, torch.nan])
@pytest.mark.parametrize("overlap", ["inverse", "exponential", "relative"])
@pytest.mark.parametrize(
    "kind",
    [
        samplers.ClassOverlapSampler,
        samplers.LeastOverlapSampler,
        samplers.RelationshipOverlapSampler,
        samplers.TournamentSampler,
    ],
)
def test_where_all_are_equal_draws_are_uniform(kind, overlap, value):
    sampler = made(kind, torch.full((4, 4), value), overlap=overlap)
    counts = [sum(found) for found in zip(*[iter(frequencies(sampler, 3, 1200))] * 6, strict=True)]
    assert chisquare(counts).pvalue > 0.01  # of the class drawn first
    assert chisquare(frequencies(sampler, 2, 1200)).pvalue > 0.01


def test_classes_that_coincide_are_drawn_together_and_infinitely_far_ones_last():
    matrix = torch.full((4, 4), INF)
    matrix[0, 2] = matrix[2, 0] = 0.0
    matrix[1, 0] = matrix[0, 1] = matrix[1, 2] = matrix[2, 1] = 1.0
    for seed in range(20):
        drawn = made(samplers.RelationshipOverlapSampler, matrix, seed, ways=4).draw(4).tolist()
        assert set(drawn[:2]) == {0, 2}
        assert drawn[2:] == [1, 3]


def test_a_class_not_seen_yet_counts_as_an_average_one():
    matrix = D.clone()
    matrix[3], matrix[:, 3] = torch.nan, torch.nan
    overlaps = Overlaps(matrix)
    sums = [3.0, 5.0, 6.0]
    mean = -sum(map(math.log, sums)) / 3
    close(overlaps.log_classes, [*(-math.log(s) for s in sums), mean])
    mean = -(math.log(1) + math.log(2) + math.log(4)) / 3
    close(overlaps.log_pairs[3], [mean, mean, mean, -INF])
    close(overlaps.log_pairs[0, 1:3], [0.0, -math.log(2)])


@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        (torch.zeros(2, 3), r"C×C, got \(2, 3\)"),
        (torch.tensor([[0.0, -1], [1, 0]]), "negative ones, down to -1"),
    ],
)
def test_matrices_that_are_no_divergences_are_refused(matrix, said):
    with pytest.raises(ValueError, match=said):
        Overlaps(matrix)


def test_overlaps_of_other_classes_are_refused():
    with pytest.raises(ValueError, match="overlaps are of 3 classes, labels of 4"):
        samplers.ClassOverlapSampler(LABELS, runtime.generator(0), 2, 2, Overlaps(torch.ones(3, 3)))


def test_shuffled_overlaps_are_those_of_other_classes_and_saved():
    own, moved = (
        samplers.GaussianOverlaps(5, refresh_every=1),
        samplers.ShuffledOverlaps(5, runtime.generator(3), refresh_every=1),
    )
    labels = torch.arange(5).repeat(8)
    z = torch.randn(40, 3, generator=runtime.generator(0)) + labels[:, None] ** 2
    for overlaps in (own, moved):
        overlaps.observe(samplers.Step({}, z, None), labels, runtime.generator(1))
    taken = moved.taken_from
    assert sorted(taken.tolist()) == list(range(5))
    assert (taken != torch.arange(5)).all()
    for i, j in itertools.permutations(range(5), 2):
        assert moved.log_pairs[i, j] == own.log_pairs[taken[i], taken[j]]
    again = samplers.ShuffledOverlaps(5, runtime.generator(4), refresh_every=1)
    again.load_state_dict(moved.state_dict())
    assert again.log_pairs.equal(moved.log_pairs)
    again.refresh(runtime.generator(1))
    assert again.log_pairs.equal(moved.log_pairs)


@pytest.mark.parametrize("circle", [[0, 1, 2], [1, 1, 0], [1, 2, 0, 3]])
def test_shuffled_overlaps_refuse_a_state_without_a_circle_and_keep_theirs(circle):
    shuffled = samplers.ShuffledOverlaps(3, runtime.generator(0))
    before = shuffled.taken_from.clone()
    with pytest.raises(ValueError, match="'taken_from' of the state"):
        shuffled.load_state_dict(shuffled.state_dict() | {"taken_from": torch.tensor(circle)})
    assert shuffled.taken_from.equal(before)


def test_what_cannot_be_shuffled_or_refreshed_is_refused():
    with pytest.raises(ValueError, match="only three classes or more can be shuffled, got 2"):
        samplers.ShuffledOverlaps(2, runtime.generator(0))
    with pytest.raises(TypeError, match=r"must be a torch\.Generator, got None"):
        samplers.ShuffledOverlaps(3, None)
    with pytest.raises(TypeError, match=r"refresh_every must be a whole number, got 1\.5"):
        samplers.GaussianOverlaps(3, refresh_every=1.5)


@pytest.mark.parametrize("temperature", [1e-3, 1e-9, 1e-300])
def test_towards_zero_the_largest_weight_wins_however_large_all_are(temperature):
    log_weights = torch.tensor([700.0, 700.001, -700.0, 900.0], dtype=torch.float64)
    allowed = torch.tensor([True, True, True, False])
    q = samplers.draws.log_probabilities(log_weights, allowed, temperature).exp()
    expected = [*(log_weights[:3] / max(temperature, 1e-9)).softmax(0).tolist(), 0.0]
    assert q.tolist() == pytest.approx(expected, abs=1e-6)


def test_of_infinite_weights_the_largest_share_all_and_zeros_none():
    log_weights = torch.tensor([INF, 0.0, INF, -INF], dtype=torch.float64)
    every = torch.ones(4, dtype=torch.bool)
    assert samplers.draws.log_probabilities(log_weights, every).exp().tolist() == [0.5, 0, 0.5, 0]
    nothing = torch.full((4,), -INF, dtype=torch.float64)
    assert samplers.draws.log_probabilities(nothing, every).exp().tolist() == [0.25] * 4


@pytest.mark.parametrize("matrix", [D, D.numpy(), None])
def test_a_matrix_must_be_wrapped(matrix):
    said = rf"must be Overlaps, got {type(matrix).__name__}: wrap it, Overlaps\(divergences\)"
    with pytest.raises(TypeError, match=said):
        samplers.ClassOverlapSampler(LABELS, runtime.generator(0), 2, 2, matrix)


def test_random_overlaps_are_fixed_and_symmetric_and_saved():
    first, same, other = (samplers.random_overlaps(4, runtime.generator(s)) for s in (0, 0, 1))
    assert torch.equal(first.log_pairs, first.log_pairs.mT)
    assert torch.equal(first.log_pairs, same.log_pairs)
    before = first.divergences.clone()
    first.observe(Step({}, torch.randn(40, 2), None), LABELS, runtime.generator(0))
    assert torch.equal(first.divergences, before)
    other.load_state_dict(first.state_dict())
    assert torch.equal(other.log_pairs, first.log_pairs)
    off = before[~torch.eye(4, dtype=torch.bool)]
    assert len(off.unique()) == 6


# Statistics that follow the training


def following(**settings):
    settings = {"refresh_every": 3, "decay": 0.5} | settings
    return samplers.GaussianOverlaps(4, **settings)


def embedded(labels, seed):
    noise = torch.randn(len(labels), 2, generator=runtime.generator(seed))
    return Step({}, labels[:, None] + noise.requires_grad_(), None)


@pytest.mark.parametrize("name", [n for n in samplers.DIVERGENCES if n != "jsd"])
def test_the_matrix_is_that_of_the_classes_and_new_every_so_many_steps(name):
    overlaps, expected = following(divergence=name), gaussians.ClassGaussians(4, 2, decay=0.5)
    for step in range(1, 8):
        before = overlaps.divergences
        seen = embedded(LABELS, step)
        overlaps.observe(seen, LABELS, runtime.generator(0))
        expected.update(seen.embedding, LABELS)
        assert (overlaps.divergences is before) == (step not in (3, 6))
        if step in (3, 6):
            wanted = expected.matrix(samplers.DIVERGENCES[name])
            torch.testing.assert_close(overlaps.divergences, wanted)
    assert not overlaps.divergences.requires_grad


def test_monte_carlo_draws_from_the_generator_it_is_given():
    found = []
    for seed in (0, 0, 1):
        overlaps = following(divergence="jsd", refresh_every=1)
        overlaps.observe(embedded(LABELS, 5), LABELS, runtime.generator(seed))
        found.append(overlaps.divergences)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert 0.02 < found[0][0, 3] < math.log(2)


def test_a_class_first_seen_late_has_its_own_mean_and_is_in_the_next_matrix():
    overlaps, early = following(), torch.arange(12) % 3
    for step in range(1, 4):
        overlaps.observe(embedded(early, step), early, runtime.generator(0))
    assert overlaps.divergences[3].isnan().all()
    assert overlaps.divergences[:3, :3].isfinite().all()
    late = Step({}, torch.tensor([[5.0, 1.0], [7.0, 3.0]]), None)
    for _ in range(3):
        overlaps.observe(late, torch.tensor([3, 3]), runtime.generator(0))
    close(overlaps.statistics.means_[3], [6.0, 2.0])
    assert overlaps.statistics.counts_.tolist() == [12, 12, 12, 6]
    assert overlaps.divergences.isfinite().all()


def test_a_single_class_so_far_makes_no_matrix():
    overlaps = following(refresh_every=1)
    overlaps.observe(embedded(torch.zeros(4).long(), 0), torch.zeros(4).long(), None)
    assert overlaps.divergences.isnan().all()


@pytest.mark.parametrize("covariance", gaussians.class_gaussians.COVARIANCES)
def test_embeddings_without_any_spread_are_refused_with_what_helps(covariance):
    overlaps = following(refresh_every=1, covariance=covariance)
    step = Step({}, LABELS[:, None].float(), None)
    with pytest.raises(ValueError, match=r"singular: .*\(steps: 1\); .*per_class.*refresh_ev"):
        overlaps.observe(step, LABELS, runtime.generator(0))


@pytest.mark.parametrize("covariance", gaussians.class_gaussians.COVARIANCES)
def test_one_class_of_two_different_embeddings_is_spread_enough(covariance):
    overlaps = following(refresh_every=1, covariance=covariance)
    z = torch.zeros(40, 3)
    z[4, 1] = 1.0
    overlaps.observe(Step({}, z, None), LABELS, runtime.generator(0))
    assert overlaps.divergences.isfinite().all()


# Confusions


def test_the_potential_follows_the_formula_of_the_paper():
    potential = samplers.ConfusionPotential(5, strength=2.0, memory=0.5)
    # An episode of classes 4 and 1, in that order of columns; two queries of 4, one of 1.
    labels = torch.tensor([4, 4, 4, 1, 1])
    p = torch.tensor([[0.7, 0.3], [0.5, 0.5], [0.2, 0.8]])
    step = Step({}, torch.zeros(5, 1), p.log(), torch.tensor([4, 1]), torch.tensor([1, 2, 4]))
    u = ((0.3 + 0.5) / 2 + 0.2) / 2
    expected = torch.zeros(5, 5)
    expected[1, 4] = expected[4, 1] = 2 * u
    for _ in range(2):
        potential.observe(step, labels, runtime.generator(0))
        found = potential.log_pairs.masked_fill(torch.eye(5).bool(), 0)
        torch.testing.assert_close(found, expected.double(), rtol=1e-6, atol=1e-7)
        expected = 0.5 * expected + (expected > 0) * 2 * u


def test_with_all_classes_compared_only_pairs_of_the_batch_are_updated():
    potential = samplers.ConfusionPotential(3)
    p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]])
    potential.observe(Step({}, p, p.log()), torch.tensor([0, 1]), runtime.generator(0))
    found = potential.log_pairs.masked_fill(torch.eye(3).bool(), 0)
    close(found.round(decimals=6), [[0, 0.2, 0], [0.2, 0, 0], [0, 0, 0]])


# Losses of classes


def test_classes_are_drawn_by_their_mean_loss_and_new_ones_as_average():
    sampler = samplers.ClassLossSampler(LABELS, runtime.generator(0), 2, 2, decay=0.5)
    close(sampler.log_probabilities().exp(), [0.25] * 4)
    # -log p of the right class: 1 and 3 of class 0, 6 of class 1.
    right = torch.tensor([-1.0, -3.0, -6.0]).exp()
    labels = torch.tensor([0, 0, 1])
    p = torch.stack([right.where(labels == c, (1 - right)) for c in (0, 1)], 1)
    batch = torch.tensor([0, 4, 1])
    sampler.observe(batch, Step({}, p, p.log()))
    third = math.sqrt(2 * 6)  # the mean of logarithms
    sums = 2 + 6 + 2 * third
    torch.testing.assert_close(
        sampler.log_probabilities().exp(),
        torch.tensor([2 / sums, 6 / sums, third / sums, third / sums]).double(),
        rtol=1e-4, atol=0,
    )  # fmt: skip
    sampler.observe(batch[2:], Step({}, p, p[2:].flip(1).log()))  # now right with 1 − e⁻⁶
    low = -math.log(1 - math.exp(-6))
    torch.testing.assert_close(
        sampler.losses.means_[:2, 0], torch.tensor([2, (0.5 * 6 + low) / 1.5]).double(),
        rtol=1e-4, atol=0,
    )  # fmt: skip
