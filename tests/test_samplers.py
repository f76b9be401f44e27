"""Every sampler visits what it says, repeats by its seed, and goes on from where it was."""

import io
import math
import re

import pytest
import torch
from scipy.stats import chisquare
from torch.utils.data import DataLoader, TensorDataset

from embedood import config, runtime, samplers
from embedood.samplers import Step, draws

LABELS = torch.arange(60) % 6
CLASSES = [name for name in samplers.CLASS_SAMPLERS if name != "uniform"]
NAMES = [
    *[{"sampler": name, "ways": 3} for name in samplers.CLASS_SAMPLERS],
    *[{"sampler": name} for name in samplers.IMAGE_SAMPLERS],
    *[{"sampler": "relationship_overlap", "divergence": d, "ways": 3} for d in ("jsd", "random")],
    {"sampler": "class_overlap", "overlap": "exponential", "context_share": 0.4, "ways": 3},
]


def made(labels=LABELS, seed=0, **settings):
    """The sampler of an experiment; `samplers.of` is what trainings use."""
    usual = {"batch_size": 12, "refresh_every": 2, "least_gain": 1.0}
    experiment = config.preset("cross_entropy", **(usual | settings))
    return samplers.of(experiment, labels, runtime.generator(seed))


def seen(batch, labels=LABELS):
    """A step that depends on the rows only: classes at their number, images spread around it."""
    z = labels[batch, None] + 0.1 * torch.sin(batch[:, None] * torch.tensor([1.0, 2.0, 3.0]))
    return Step({}, z, torch.cos(batch[:, None] * torch.arange(1.0, 7.0)))


def epochs(sampler, count, labels=LABELS):
    sampler.look = lambda rows: seen(rows, labels).logits
    for _ in range(count):
        for batch in sampler:
            yield batch
            sampler.observe(batch, seen(batch, labels))


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# All of them


@pytest.mark.parametrize("settings", NAMES, ids=lambda s: "-".join(map(str, s.values())))
def test_the_seed_decides_the_batches(settings):
    first = list(epochs(made(**settings), 3))
    assert same(first, epochs(made(**settings), 3))
    assert not same(first, epochs(made(seed=1, **settings), 3))


@pytest.mark.parametrize("settings", NAMES, ids=lambda s: "-".join(map(str, s.values())))
def test_from_a_saved_state_the_same_batches_follow(settings):
    whole, file = made(**settings), io.BytesIO()
    before = list(epochs(whole, 2))
    torch.save([whole.state_dict(), whole.generator.get_state()], file)
    after = list(epochs(whole, 2))

    file.seek(0)
    state, drawn = torch.load(file, weights_only=True)
    other = made(seed=7, **settings)
    rows = torch.arange(60)  # what it learned by itself is overwritten
    other.observe(rows, seen(rows.flip(0))._replace(embedding=seen(rows).embedding.exp()))
    other.load_state_dict(state)
    other.generator.set_state(drawn)
    assert same(after, epochs(other, 2))
    assert not same(after, before)


def frozen(state):
    """What a state holds, as bytes that do not follow the sampler."""
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def refused(sampler, state, error, said):
    """Loading the state is an error that leaves all as it was."""
    before = frozen(sampler.state_dict())
    with pytest.raises(error, match=said):
        sampler.load_state_dict(state)
    assert frozen(sampler.state_dict()) == before


@pytest.mark.parametrize("settings", NAMES, ids=lambda s: "-".join(map(str, s.values())))
def test_a_state_of_other_keys_is_refused(settings):
    sampler = made(**settings)
    list(epochs(sampler, 1))
    own = sampler.state_dict()
    refused(sampler, own | {"joy": 1.0}, KeyError, "of another sampler: it holds .*'joy'.*, not ")
    for key in own:
        fewer = {name: value for name, value in own.items() if name != key}
        refused(sampler, fewer, KeyError, f"it holds .*, not .*'{key}'")
    refused(sampler, None, TypeError, "must be a dict, got NoneType")
    for other in NAMES:
        state = made(**other).state_dict()
        if state.keys() != own.keys():
            refused(sampler, state, KeyError, "of another sampler")


@pytest.mark.parametrize("settings", NAMES, ids=lambda s: "-".join(map(str, s.values())))
def test_a_state_of_other_shapes_is_refused(settings):
    sampler, other = made(**settings), made(labels=torch.arange(64) % 8, **settings)
    list(epochs(sampler, 1))
    for name, value in other.state_dict().items():
        if torch.is_tensor(value):
            size, wanted = tuple(value.shape), tuple(sampler.state_dict()[name].shape)
            said = re.escape(f"'{name}' of the state is a tensor of shape {size}")
            state = sampler.state_dict() | {name: value}
            refused(sampler, state, ValueError, f"{said}, .* needs .*{re.escape(str(wanted))}")
            refused(sampler, state | {name: value[:1]}, ValueError, f"'{name}' of the state")
        refused(sampler, sampler.state_dict() | {name: "joy"}, (ValueError, TypeError), "str")


def test_a_single_loss_is_not_that_of_all_images():
    sampler = made(sampler="loss_rank")
    said = r"'losses' of the state is a tensor of shape \(1,\), but .* of shape \(60,\)"
    refused(sampler, {"losses": torch.ones(1)}, ValueError, said)


def learned(covariance="diagonal"):
    sampler = made(sampler="class_overlap", ways=3, covariance=covariance)
    list(epochs(sampler, 1))
    return sampler


def test_statistics_that_do_not_fit_leave_matrix_and_steps_as_they_were():
    sampler, state = learned(), learned("tied").state_dict()
    refused(sampler, state, ValueError, r"'running_scatter' .* \(1, 3, 3\), .* \(6, 3\)")
    own = sampler.state_dict()
    fewer = {name: value for name, value in own["statistics"].items() if name != "running_mean"}
    refused(sampler, own | {"statistics": fewer}, KeyError, "not .*'running_mean'")
    negative = own | {"divergences": -torch.ones(6, 6), "steps": 99}
    refused(sampler, negative, ValueError, "negative ones")


@pytest.mark.parametrize("settings", NAMES, ids=lambda s: "-".join(map(str, s.values())))
def test_a_data_loader_takes_it_as_batch_sampler(settings):
    sampler = made(**settings)
    loader = DataLoader(TensorDataset(torch.arange(60), LABELS), batch_sampler=sampler)
    assert len(loader) == 5
    batches = list(loader)
    assert len(batches) == 5
    for rows, labels in batches:
        assert torch.equal(labels, LABELS[rows])
        assert len(rows) == 12


@pytest.mark.parametrize("name", samplers.CLASS_SAMPLERS)
def test_batches_of_classes_have_as_many_images_of_each_and_none_twice(name):
    for batch in epochs(made(sampler=name, ways=3), 3):
        assert LABELS[batch].unique(return_counts=True)[1].tolist() == [4, 4, 4]
        assert len(batch.unique()) == 12


# Uniform


def test_shuffled_batches_visit_every_image_once():
    batches = list(made(batch_size=16))
    assert [len(b) for b in batches] == [16, 16, 16, 12]
    assert sorted(torch.cat(batches).tolist()) == list(range(60))


def test_an_episode_has_its_classes_in_blocks_and_other_batches_have_not():
    for batch in samplers.UniformClassSampler(LABELS, runtime.generator(0), 3, 4, grouped=True):
        labels = LABELS[batch].view(3, 4)
        assert (labels == labels[:, :1]).all()
        assert len(labels[:, 0].unique()) == 3
    mixed = samplers.UniformClassSampler(LABELS, runtime.generator(0), 3, 4)
    assert any((LABELS[b].view(3, 4) != LABELS[b].view(3, 4)[:, :1]).any() for b in mixed)


def test_only_prototypical_episodes_are_grouped():
    experiments = [
        config.preset("episodes", ways=3, batch_size=12, shots=2),
        config.preset("episodes_softmax", ways=3, batch_size=12),
    ]
    made = [samplers.of(e, LABELS, runtime.generator(0)) for e in experiments]
    assert [sampler.grouped for sampler in made] == [True, False]


def test_episodes_are_drawn_as_before_the_samplers_were_classes():
    """A loop that draws in the same order; what was trained on episodes stays valid."""
    sampler = samplers.UniformClassSampler(LABELS, runtime.generator(3), 3, 4, grouped=True)
    generator = runtime.generator(3)
    for batch in sampler:
        expected = []
        for c in torch.randperm(6, generator=generator)[:3]:
            rows = torch.where(c == LABELS)[0]
            expected.append(rows[torch.randperm(10, generator=generator)[:4]])
        assert torch.equal(batch, torch.cat(expected))


@pytest.mark.parametrize("ways", [0, 3, 5])
def test_an_epoch_of_classes_is_as_long_as_one_of_images(ways):
    assert len(made(ways=ways, batch_size=16)) == len(list(made(ways=ways, batch_size=16))) == 4


def test_the_count_of_a_class_decides_the_batch_where_it_is_given():
    sampler = made(ways=3, per_class=2)
    assert {len(batch) for batch in sampler} == {6}
    assert len(sampler) == 10


@pytest.mark.parametrize("context_share", [0.0, 0.4])
def test_every_class_and_image_is_drawn_equally_often(context_share):
    counts, times = torch.zeros(60), 400
    sampler = made(ways=3, context_share=context_share)
    for _ in range(times):
        for batch in sampler:
            counts[batch] += 1
    mean = times * 5 * 12 / 60
    assert counts.sum() == mean * 60
    # Each count is binomial with p = 1/5: five standard deviations around its mean.
    assert (counts - mean).abs().max() < 5 * (mean * 0.8) ** 0.5


@pytest.mark.parametrize(("batch_size", "ways"), [(14, 7), (33, 3), (2, 6), (8, 1)])
@pytest.mark.parametrize("name", samplers.CLASS_SAMPLERS)
def test_an_impossible_batch_is_refused_with_the_sizes(name, batch_size, ways):
    with pytest.raises(ValueError, match=f"{ways} classes with .* 6 classes of 10 images"):
        made(sampler=name, batch_size=batch_size, ways=ways)


def test_an_episode_needs_a_query_beside_its_support():
    with pytest.raises(ValueError, match="3 classes with 1 images each"):
        samplers.UniformClassSampler(LABELS, runtime.generator(0), 3, 1, grouped=True)


def test_one_class_is_no_choice():
    with pytest.raises(ValueError, match="from 1 classes of 60 images"):
        made(labels=torch.zeros(60, dtype=torch.long), ways=2)


@pytest.mark.parametrize("name", samplers.CLASS_SAMPLERS)
def test_labels_without_images_are_never_drawn(name):
    labels = LABELS + (LABELS > 2)  # no images of 3
    sampler = made(labels=labels, sampler=name, ways=5, batch_size=10)
    step = Step({}, torch.randn(60, 2, generator=runtime.generator(0)), torch.zeros(60, 7))
    for batch in [b for _ in range(3) for b in sampler]:
        sampler.observe(
            batch, step._replace(embedding=step.embedding[batch], logits=step.logits[batch])
        )
        assert 3 not in labels[batch]


# Draws


def test_draws_without_replacement_follow_the_weights_that_are_left():
    weights = [0.5, 0.3, 0.15, 0.05]
    generator, counts = runtime.generator(0), torch.zeros(4, 4)
    log_q = torch.tensor(weights, dtype=torch.float64).log()
    for _ in range(4000):
        first, second = draws.some(log_q, 2, generator).tolist()
        counts[first, second] += 1
    expected = [
        weights[i] * weights[j] / (1 - weights[i]) for i in range(4) for j in range(4) if i != j
    ]
    found = counts[~torch.eye(4, dtype=torch.bool)]
    assert counts.diagonal().sum() == 0
    assert chisquare(found, 4000 * torch.tensor(expected)).pvalue > 0.01


def test_temperature_and_floor_are_those_of_the_formula():
    log_w = torch.tensor([8.0, 2.0, 2.0, 5.0]).log()
    allowed = torch.tensor([True, True, True, False])
    found = draws.log_probabilities(log_w, allowed, temperature=0.5, floor=0.3).exp()
    expected = torch.tensor([0.7 * 64 / 72 + 0.1, 0.7 * 4 / 72 + 0.1, 0.7 * 4 / 72 + 0.1, 0.0])
    torch.testing.assert_close(found, expected.double(), rtol=1e-6, atol=0)
    even = draws.log_probabilities(log_w, allowed, floor=1.0).exp()
    torch.testing.assert_close(even, torch.tensor([1.0, 1, 1, 0]).double() / 3)


INF = float("inf")


@pytest.mark.parametrize(
    ("log_w", "expected"),
    [
        ([-INF, -INF, -INF], [1 / 3, 1 / 3, 1 / 3]),
        ([INF, 0.0, INF], [0.5, 0, 0.5]),
        ([-INF, 0.0, 0.0], [0, 0.5, 0.5]),
        ([-9e4, -9e4, -2e5], [0.5, 0.5, 0]),
    ],
)
def test_weights_may_be_infinite_zero_or_beyond_the_range_of_the_exponential(log_w, expected):
    log_w = torch.tensor(log_w)
    found = draws.log_probabilities(log_w, torch.ones(3, dtype=torch.bool)).exp()
    torch.testing.assert_close(found, torch.tensor(expected).double())


def test_an_infinite_temperature_makes_all_weights_even_those_of_zero_and_infinity_too():
    log_w = torch.tensor([-INF, 0.0, INF, 700.0, 3.0])
    allowed = torch.tensor([True, True, True, True, False])
    found = draws.log_probabilities(log_w, allowed, temperature=INF).exp()
    torch.testing.assert_close(found, torch.tensor([0.25, 0.25, 0.25, 0.25, 0]).double())


def test_weights_of_zero_are_drawn_evenly_once_no_others_are_left():
    allowed = torch.ones(5, dtype=torch.bool)
    log_q = draws.log_probabilities(torch.tensor([0.0, -INF, -INF, -INF, -INF]), allowed)
    generator, counts = runtime.generator(0), torch.zeros(5)
    for _ in range(2000):
        first, second = draws.some(log_q, 2, generator).tolist()
        assert first == 0
        counts[second] += 1
    assert chisquare(counts[1:]).pvalue > 0.01


# By images' losses


def test_ranks_follow_the_exponential_of_the_paper():
    sampler = samplers.LossRankSampler(
        torch.zeros(50, dtype=torch.long), runtime.generator(0), 5000
    )
    counts = sampler._ranks().bincount(minlength=50)
    weights = torch.tensor([100 ** (-i / 50) for i in range(50)], dtype=torch.float64)
    assert chisquare(counts, 5000 * weights / weights.sum()).pvalue > 0.01


def test_images_of_large_loss_are_drawn_once_all_have_been_seen():
    sampler = made(sampler="loss_rank", batch_size=20, refresh_every=1, selection_pressure=1e6)
    hard = torch.arange(60) < 6
    step = Step({}, torch.zeros(60, 1), torch.zeros(60, 6))
    step.logits[range(60), LABELS] = 9.0 - 12.0 * hard
    counts = torch.zeros(3, 60)
    for epoch in range(3):
        for batch in sampler:
            counts[epoch, batch] += 1
            sampler.observe(batch, Step({}, step.embedding, step.logits[batch]))
    assert (counts[0] == 1).all()
    assert counts[1:, hard].mean() > 5 * counts[1:, ~hard].mean()


def test_of_an_image_drawn_twice_the_larger_loss_is_kept():
    sampler = samplers.LossRankSampler(torch.tensor([0, 1]), runtime.generator(0), 2)
    logits = torch.tensor([[0.0, 0.0], [0.0, 3.0], [0.0, -3.0]])
    sampler.observe(torch.tensor([0, 1, 1]), Step({}, torch.zeros(3, 1), logits))
    expected = torch.tensor([0.5, 1 / (1 + torch.e**3)]).log().neg()
    torch.testing.assert_close(sampler.losses, expected.double(), rtol=1e-6, atol=0)


def test_gradient_norms_are_those_of_autograd():
    logits = torch.randn(5, 3, generator=runtime.generator(0), requires_grad=True)
    labels = torch.tensor([0, 1, 2, 2, 1])
    (gradient,) = torch.autograd.grad(
        torch.nn.functional.cross_entropy(logits, labels, reduction="sum"), logits
    )
    found = samplers.answers(Step({}, logits, logits), labels).gradient_norms
    torch.testing.assert_close(found, gradient.norm(dim=1).double(), rtol=1e-5, atol=0)


def unequal(threshold):
    """Two classes, image 0 badly wrong, all others nearly right."""
    labels = torch.zeros(40, dtype=torch.long)
    logits = torch.tensor([[4.0, 0.0]]).repeat(40, 1)
    logits[0] = torch.tensor([0.0, 4.0])
    sampler = samplers.GradientNormSampler(labels, runtime.generator(0), 10, threshold=threshold)
    sampler.look = lambda rows: logits[rows]
    return sampler, logits


def test_tau_is_that_of_the_paper_and_switches_importance_on():
    sampler, logits = unequal(threshold=0.2)
    first, second = torch.arange(10), torch.arange(10, 20)
    sampler.observe(first, Step({}, logits, logits[first]))
    norms = samplers.answers(Step({}, logits, logits[first]), torch.zeros(10).long()).gradient_norms
    g = norms / norms.sum()
    wanted = (1 - (g - 0.1).square().sum() / g.square().sum()) ** -0.5  # as the paper writes it
    assert sampler.tau == pytest.approx(0.1 * wanted.item())
    sampler.observe(second, Step({}, logits, logits[second]))
    assert sampler.tau == pytest.approx(0.09 * wanted.item() + 0.1)
    assert sampler.threshold < sampler.tau
    next(iter(sampler))
    assert sampler.weights.shape == (10,)
    assert sampler.looked == 30


def test_the_usual_threshold_is_where_importance_pays():
    sampler = made(sampler="gradient_norm", presample=3, least_gain=0.0)
    assert sampler.threshold == (36 + 3 * 12) / (3 * 12)


def test_weights_make_the_mean_right():
    """The weighted mean of any number over drawn images is its mean over all, on average."""
    sampler, _ = unequal(threshold=1e-9)
    sampler.tau = 1.0
    number = torch.arange(40) ** 2 / 100
    means, plain = [], []
    for _ in range(1000):
        for batch in sampler:
            means.append((sampler.weights * number[batch]).mean())
            plain.append((batch == 0).float().mean())
    means, error = torch.stack(means), torch.stack(means).std() / len(means) ** 0.5
    assert abs(means.mean() - number.mean()) < 4 * error
    assert error < 0.05 * number.mean()
    assert torch.stack(plain).mean() > 0.3  # the image that is wrong, one of 40


def test_below_its_threshold_gradient_norm_sampling_is_uniform():
    batches = list(epochs(made(sampler="gradient_norm", least_gain=1e9), 2))
    assert same(batches, epochs(made(), 2))


def test_importance_without_a_look_is_refused():
    sampler, _ = unequal(threshold=1e-9)
    sampler.look, sampler.tau = None, 1.0
    with pytest.raises(RuntimeError, match="needs `look`"):
        next(iter(sampler))


# What is refused


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sampler": "joy"}, "no sampler 'joy' without ways.*uniform, loss_rank, gradient_norm"),
        ({"sampler": "loss_rank", "ways": 3}, "no sampler 'loss_rank' with 3 .*class_overlap"),
        ({"sampler": "tournament"}, "no sampler 'tournament' without ways"),
        ({"sampler": "tournament", "ways": 3, "candidates": 0}, "at least 1 candidate, got 0"),
        ({"sampler": "class_overlap", "ways": 3, "divergence": "f"}, "unknown divergence 'f'; .*kl"),
        ({"sampler": "class_overlap", "ways": 3, "overlap": "f"}, "'exponential' or 'relative'.*'f'"),
        ({"sampler": "class_overlap", "ways": 3, "covariance": "f"}, "covariance must be .*'f'"),
        ({"sampler": "class_overlap", "ways": 3, "refresh_every": 0}, "at least 1 step, got 0"),
        ({"sampler": "class_overlap", "ways": 3, "statistics_decay": 0.0}, "decay"),
        ({"sampler": "class_loss", "ways": 3, "statistics_decay": 2.0}, "decay"),
        ({"sampler": "class_pair", "ways": 3, "pair_memory": 2.0}, "memory ≤ 1: got 1.0 and 2.0"),
        ({"sampler": "class_loss", "ways": 3, "sampling_temperature": 0.0}, "got 0.0 and 0.1"),
        ({"sampler": "class_loss", "ways": 3, "uniform_floor": 1.5}, "got 1.0 and 1.5"),
        ({"ways": 3, "context_share": 0.9}, "context_share 0.9 of 3 classes leaves none"),
        ({"ways": 3, "context_share": -0.1}, "context_share must be from 0 to below 1, got -0.1"),
        ({"ways": 3, "context_share": float("nan")}, "context_share must be .*, got nan"),
        ({"ways": 3, "context_share": INF}, "context_share must be .*, got inf"),
        ({"sampler": "loss_rank", "selection_pressure": 1.0}, "pressure > 1 .*got 1.0"),
        ({"sampler": "gradient_norm", "presample": 0}, "presample must be at least 1, got 0"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        made(**settings)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (torch.zeros(0, dtype=torch.long), r"got \(0,\)"),
        (torch.zeros(4), "torch.float32"),
        (torch.zeros(2, 2, dtype=torch.long), r"got \(2, 2\)"),
        (torch.tensor([0, -1]), "from 0 on"),
        (torch.tensor([False, True]), "whole numbers .*torch.bool"),
        (torch.tensor([0, 1j]), "whole numbers .*torch.complex64"),
    ],
)
def test_labels_that_are_none_are_refused(labels, said):
    with pytest.raises(ValueError, match=said):
        samplers.UniformImageSampler(labels, runtime.generator(0), 2)


@pytest.mark.parametrize("labels", [[0, 1, 0, 1], LABELS.numpy()])
def test_labels_must_be_a_tensor(labels):
    with pytest.raises(TypeError, match=rf"a tensor, got {type(labels).__name__}: use torch.as_t"):
        samplers.UniformImageSampler(labels, runtime.generator(0), 2)


@pytest.mark.parametrize("generator", [None, 0])
def test_a_generator_is_needed(generator):
    with pytest.raises(TypeError, match=f"must be a torch.Generator, got {generator}"):
        samplers.UniformImageSampler(LABELS, generator, 2)


@pytest.mark.parametrize("settings", NAMES, ids=lambda s: "-".join(map(str, s.values())))
def test_labels_of_fewer_bytes_make_the_same_batches(settings):
    batches = list(epochs(made(**settings), 2))
    for dtype in (torch.uint8, torch.int32):
        assert same(batches, epochs(made(labels=LABELS.to(dtype), **settings), 2))


@pytest.mark.parametrize("counts", [{"ways": 2.5}, {"per_class": 2.5}, {"batches": 1.5}])
def test_counts_that_are_not_whole_are_refused(counts):
    ((name, count),) = counts.items()
    with pytest.raises(TypeError, match=f"{name} must be a whole number, got {count}"):
        samplers.UniformClassSampler(
            LABELS, runtime.generator(0), **({"ways": 3, "per_class": 4} | counts)
        )


@pytest.mark.parametrize("sizes", [{"batch_size": 2.5}, {"batch_size": 8, "presample": 2.5}])
def test_sizes_that_are_not_whole_are_refused(sizes):
    with pytest.raises(TypeError, match=r"must be a whole number, got 2\.5"):
        samplers.GradientNormSampler(LABELS, runtime.generator(0), **sizes)


def test_batches_below_zero_are_refused():
    with pytest.raises(ValueError, match=r"batches must be ≥ 0, 0 for as many .*, got -3"):
        samplers.UniformClassSampler(LABELS, runtime.generator(0), 3, 4, batches=-3)


@pytest.mark.parametrize("name", ["class_loss", "class_pair"])
def test_a_sampler_that_reads_logits_says_so_where_there_are_none(name):
    sampler = made(sampler=name, ways=3)
    with pytest.raises(ValueError, match="reads logits"):
        sampler.observe(torch.arange(12), Step({}, torch.zeros(12, 2), None))


READERS = [
    {"sampler": "class_loss", "ways": 3},
    {"sampler": "class_pair", "ways": 3},
    {"sampler": "loss_rank"},
    {"sampler": "gradient_norm"},
]


def refused_step(sampler, step, said):
    """A step is an error that leaves what the sampler knows as it was."""
    before = frozen(sampler.state_dict())
    with pytest.raises(ValueError, match=said):
        sampler.observe(torch.arange(12), step)
    assert frozen(sampler.state_dict()) == before


@pytest.mark.parametrize("value", [torch.nan, INF, -INF])
@pytest.mark.parametrize("settings", READERS, ids=lambda s: s["sampler"])
def test_logits_that_are_not_finite_are_refused_before_anything_is_learned(settings, value):
    sampler, step = made(**settings), seen(torch.arange(12))
    sampler.observe(torch.arange(12), step)
    step.logits[[2, 2, 7], [0, 3, 1]] = value
    refused_step(sampler, step, "2 of 12 rows of logits hold NaN or infinite values")


def test_finite_logits_whose_sum_is_not_are_taken():
    logits = torch.full((2, 6), 1e308, dtype=torch.float64)
    losses = samplers.answers(Step({}, logits, logits), torch.tensor([0, 1])).losses
    torch.testing.assert_close(losses, torch.full((2,), 6.0).double().log())


def test_candidates_with_logits_that_are_not_finite_are_refused():
    sampler, logits = unequal(threshold=1e-9)
    sampler.tau, sampler.look = 1.0, lambda rows: logits[rows] * torch.nan
    with pytest.raises(ValueError, match="30 of 30 rows of logits"):
        next(iter(sampler))
    assert (sampler.tau, sampler.looked) == (1.0, 0)


@pytest.mark.parametrize("settings", READERS, ids=lambda s: s["sampler"])
def test_logits_that_are_not_those_of_the_batch_are_refused(settings):
    sampler, step = made(**settings), seen(torch.arange(12))
    few = step._replace(logits=step.logits[:, :4])
    refused_step(sampler, few, r"logits have 4 columns, and none for the labels \[4, 5\]")
    for logits in (step.logits[:7], step.logits.repeat(2, 1), step.logits[:, 0]):
        said = re.escape(f"M = 12 images, got {tuple(logits.shape)}")
        refused_step(sampler, step._replace(logits=logits), said)


@pytest.mark.parametrize("absent", [0, 3, 5])
@pytest.mark.parametrize("settings", READERS, ids=lambda s: s["sampler"])
def test_logits_of_some_classes_must_have_those_of_the_batch(settings, absent):
    sampler, step = made(**settings), seen(torch.arange(12))
    classes = torch.tensor([c for c in range(6) if c != absent])
    step = step._replace(logits=step.logits[:, classes], classes=classes)
    refused_step(sampler, step, rf"5 columns, and none for the labels \[{absent}\]")


@pytest.mark.parametrize(
    ("z", "said"),
    [
        (torch.full((12, 3), torch.nan), "NaN or infinite"),
        (torch.full((12, 7), INF), "NaN or infinite|D = 3 are needed"),
        (torch.zeros(12), r"embeddings must be B×D, got \(12,\)"),
        (torch.zeros(12, 3, 1), r"embeddings must be B×D, got \(12, 3, 1\)"),
    ],
)
@pytest.mark.parametrize("steps", [0, 1])
def test_embeddings_that_are_none_are_refused_and_leave_the_statistics_as_they_were(z, said, steps):
    sampler, rows = made(sampler="class_overlap", ways=3), torch.arange(12)
    for _ in range(steps):
        sampler.observe(rows, seen(rows))
    refused_step(sampler, Step({}, z, None), said)
    sampler.observe(rows, seen(rows))
    assert sampler.overlaps.steps == steps + 1


@pytest.mark.parametrize("threshold", [-1.0, math.nan])
def test_a_threshold_that_is_no_gain_is_refused(threshold):
    with pytest.raises(ValueError, match=f"threshold must be ≥ 0.*got {threshold}"):
        samplers.GradientNormSampler(torch.arange(4), runtime.generator(0), 2, threshold=threshold)


@pytest.mark.parametrize("strength", [-1.0, math.nan, math.inf])
def test_a_potential_needs_a_finite_strength(strength):
    with pytest.raises(ValueError, match=f"got {strength}"):
        samplers.ConfusionPotential(4, strength)
