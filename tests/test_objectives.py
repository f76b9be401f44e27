"""Each objective says what it weighs; the head that is left untrained is set from class means."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from embedood import config, losses, models, noise, objectives, outputs, runs, runtime, samplers

SMALL = {
    "data_name": "glyph-100", "width": 4, "epochs": 1, "train_limit": 800,
    "unseen": tuple(range(80, 100)),
}  # fmt: skip


def network(experiment, classes=4):
    torch.manual_seed(0)
    net = experiment.network
    return models.build(net.architecture, classes, 4, 3, head=net.head, temperature=net.temperature)


def batch(classes=4, each=3):
    images = torch.rand(classes * each, 3, 32, 32, generator=runtime.generator(0))
    return images, torch.arange(classes).repeat_interleave(each)


def plain(name, **changes):
    """An experiment that augments nothing, so that a batch can be followed by hand."""
    return config.preset(name, shift=0, flip=0.0, **changes)


def test_gcpl_adds_its_pull_to_the_distance_based_cross_entropy():
    experiment = plain("gcpl", pull_weight=0.1)
    model = network(experiment).train()
    model.head.set_means(torch.randn(4, 32))
    images, labels = batch()
    terms = objectives.of(experiment)(model, images, labels, runtime.generator(0)).terms
    answer = network_like(model, images)
    wanted = F.cross_entropy(answer.logits, labels)
    pull = (answer.embedding - model.head.prototypes[labels]).square().sum(1).mean() / 2
    torch.testing.assert_close(terms["loss"], wanted + 0.1 * pull, rtol=1e-4, atol=1e-5)


def network_like(model, images):
    """The same forward pass in training mode; batch norm sees the same batch."""
    return model(images.contiguous(memory_format=models.memory_format(model)))


def test_blends_of_half_the_batch_ask_for_both_classes_in_their_shares():
    experiment = plain("blended", blending_weight=0.5)
    model = network(experiment).train()
    images, labels = batch()
    weights = torch.linspace(0.5, 1.5, 12)
    given = runtime.generator(0), weights
    terms = objectives.of(experiment)(model, images, labels, *given).terms
    blended, partner, share = noise.blend(images[:6], runtime.generator(0))
    logits = network_like(model, torch.cat([images, blended])).logits
    nll = -logits.log_softmax(1)
    row = torch.arange(6)
    wanted = weights[:6] * share * nll[12 + row, labels[:6]]
    wanted += weights[partner] * (1 - share) * nll[12 + row, labels[partner]]
    torch.testing.assert_close(terms["blending"], wanted.mean(), rtol=1e-4, atol=1e-5)
    total = terms["classification"] + 0.5 * terms["blending"]
    torch.testing.assert_close(terms["loss"], total)


def test_blends_stand_between_turned_images_and_outliers():
    both = plain("blended_turning", outlier_weight=0.1, outlier_recipe="shapes")
    model = network(both).eval()
    images, labels = batch(each=4)
    seen = []
    model.register_forward_hook(lambda _, asked, answer: seen.append((asked[0], answer.logits)))
    terms = objectives.of(both)(model, images, labels, runtime.generator(0)).terms
    asked, logits = seen[0]
    assert len(asked) == 16 + 8 + 8 + 16
    torch.testing.assert_close(asked[:16], images)
    torch.testing.assert_close(terms["outlier"], losses.uniformity(logits[32:]))
    drawn = runtime.generator(0)
    noise.turn(images[:8], drawn)
    blends = noise.blend(images[:8], drawn)
    torch.testing.assert_close(asked[24:32], blends.images)
    assert terms["blending"].item() > 0


def test_a_batch_of_one_is_blended_with_itself():
    experiment = plain("blended")
    images, labels = batch(classes=1, each=1)
    model = network(experiment).eval()
    terms = objectives.of(experiment)(model, images, labels, runtime.generator(0)).terms
    torch.testing.assert_close(terms["blending"], terms["classification"], rtol=1e-4, atol=1e-5)


def test_contrastive_learning_sees_two_views_of_each_image():
    experiment = plain("contrastive")
    model = network(experiment).train()
    images, labels = batch()
    terms = objectives.of(experiment)(model, images, labels, runtime.generator(0)).terms
    z = network_like(model, torch.cat([images, images])).embedding
    wanted = losses.supervised_contrastive(z, labels.repeat(2), 0.1)
    torch.testing.assert_close(terms["loss"], wanted, rtol=1e-4, atol=1e-5)


def test_an_episode_is_right_where_the_nearest_mean_is():
    experiment = plain("episodes", ways=4, shots=2, batch_size=12)
    model = network(experiment).train()
    images, labels = batch()
    terms = objectives.of(experiment)(model, images, labels, runtime.generator(0)).terms
    z = network_like(model, images).embedding.view(4, 3, -1)
    distances = torch.cdist(z[:, 2], z[:, :2].mean(1))
    torch.testing.assert_close(
        terms["accuracy"], (distances.argmin(1) == torch.arange(4)).float().mean()
    )
    assert torch.isfinite(terms["loss"])


def test_an_episode_of_the_softmax_compares_the_classes_of_the_batch_only():
    experiment = plain("episodes_softmax")
    model = network(experiment, classes=9).train()
    images, labels = batch()
    labels = torch.tensor([1, 4, 6, 8])[labels].flip(0)
    step = objectives.of(experiment)(model, images, labels, runtime.generator(0))
    answer = network_like(model, images)
    cosines = answer.embedding @ F.normalize(model.head.directions[[1, 4, 6, 8]]).T
    wanted = F.cross_entropy(cosines / 0.0625, torch.arange(4).repeat_interleave(3).flip(0))
    torch.testing.assert_close(step.terms["loss"], wanted, rtol=1e-3, atol=1e-3)
    step.terms["loss"].backward()
    moved = model.head.directions.grad.abs().sum(1) > 0
    assert moved.nonzero()[:, 0].tolist() == [1, 4, 6, 8]


@pytest.mark.parametrize("name", ["cross_entropy", "episodes", "episodes_softmax"])
def test_a_step_says_whose_logits_are_whose(name):
    """The loss that is read from the step's logits is the one that the objective made small."""
    experiment = plain(name, ways=4, shots=2, batch_size=12)
    images, labels = batch()
    order = torch.arange(12) if name == "episodes" else torch.arange(12).flip(0)
    labels = torch.tensor([3, 1, 0, 2])[labels][order]
    model = network(experiment).train()
    step = objectives.of(experiment)(model, images[order], labels, runtime.generator(0))
    asked = samplers.answers(step, labels)
    found = asked.losses.mean().float()
    torch.testing.assert_close(found, step.terms["loss"].detach(), rtol=1e-5, atol=1e-6)
    assert torch.equal(asked.labels, labels[asked.rows])
    assert step.embedding.shape == (12, 32)


def test_contrastive_learning_gives_the_embedding_of_one_view():
    experiment = plain("contrastive")
    images, labels = batch()
    step = objectives.of(experiment)(network(experiment), images, labels, runtime.generator(0))
    assert len(step.embedding) == len(labels)
    assert step.logits is None


@pytest.mark.parametrize("name", ["report", "gcpl"])
def test_weights_reach_every_term_of_the_loss(name):
    """Weights of 2 and 0 make the loss of half a batch; batch norm keeps seeing all of it."""
    experiment = config.preset(
        name, shift=0, flip=0.0, noised_share=0.0, pull_weight=0.1 * (name == "gcpl"),
        overconfidence_weight=1.0, label_smoothing=0.1,
    )  # fmt: skip
    torch.manual_seed(0)
    net, channels = experiment.network, 1 if name == "report" else 3
    model = models.build(net.architecture, 4, 4, channels, head=net.head).eval()
    images, labels = batch()
    images, half = images[:, :channels, :28, :28], torch.arange(12) < 6
    objective = objectives.of(experiment)
    weighted = objective(model, images, labels, runtime.generator(0), 2.0 * half).terms
    part = objective(model, images[half], labels[half], runtime.generator(0)).terms
    assert weighted.keys() == part.keys()
    for term in weighted.keys() - {"accuracy"}:
        torch.testing.assert_close(weighted[term], part[term], rtol=1e-3, atol=1e-5)
    ones = objective(model, images, labels, runtime.generator(0), torch.ones(12)).terms
    plain_loss = objective(model, images, labels, runtime.generator(0)).terms["loss"]
    torch.testing.assert_close(ones["loss"], plain_loss, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["compact_outliers", "compact_turning", "contrastive", "episodes", "episodes_softmax"]
)
def test_weights_that_would_not_reach_the_loss_are_refused(name):
    experiment = config.preset(name, sampler="gradient_norm")
    with pytest.raises(ValueError, match="gradient_norm weights images, which only classification"):
        objectives.of(experiment)


@pytest.mark.parametrize("name", objectives.NEED_WAYS)
def test_episodes_without_classes_to_draw_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} needs classes to draw for each batch: set ways"):
        objectives.of(config.preset(name, ways=0))


@pytest.mark.parametrize("name", objectives.LEAVE_THE_HEAD)
def test_a_linear_head_cannot_be_left_untrained(name):
    experiment = config.preset("cross_entropy", objective=name)
    with pytest.raises(ValueError, match=f"{name} needs a head that class means can set"):
        objectives.of(experiment)


def test_an_unknown_objective_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown objective 'joy'; the objectives are classif"):
        objectives.of(config.preset("report", objective="joy"))


@pytest.mark.parametrize("name", ["episodes", "contrastive"])
def test_after_training_the_head_holds_the_class_means(name, tmp_path, monkeypatch):
    monkeypatch.setenv("EMBEDOOD_RUNS", str(tmp_path))
    run = runs.fit(config.preset(name, **SMALL), quiet=True)
    seen = outputs.compute(run.model, run.split.train)
    means = [seen.embeddings[seen.labels == c].mean(0) for c in range(80)]
    learned = next(run.model.head.parameters()).detach().numpy()
    np.testing.assert_allclose(learned, means, rtol=1e-4, atol=1e-5)


def test_flips_are_part_of_the_augmentation():
    experiment = config.preset("cross_entropy", shift=0, flip=1.0)
    images, _ = batch()
    shown = objectives.augmented(experiment, images, runtime.generator(0))
    assert torch.equal(shown, images.flip(3))
