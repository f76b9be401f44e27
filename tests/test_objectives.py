"""Each objective says what it weighs; the head that is left untrained is set from class means."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from embedood import config, losses, models, objectives, outputs, runs, runtime

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
    terms = objectives.of(experiment)(model, images, labels, runtime.generator(0))
    answer = network_like(model, images)
    wanted = F.cross_entropy(answer.logits, labels)
    pull = (answer.embedding - model.head.prototypes[labels]).square().sum(1).mean() / 2
    torch.testing.assert_close(terms["loss"], wanted + 0.1 * pull, rtol=1e-4, atol=1e-5)


def network_like(model, images):
    """The same forward pass in training mode; batch norm sees the same batch."""
    return model(images.contiguous(memory_format=models.memory_format(model)))


def test_contrastive_learning_sees_two_views_of_each_image():
    experiment = plain("contrastive")
    model = network(experiment).train()
    images, labels = batch()
    terms = objectives.of(experiment)(model, images, labels, runtime.generator(0))
    z = network_like(model, torch.cat([images, images])).embedding
    wanted = losses.supervised_contrastive(z, labels.repeat(2), 0.1)
    torch.testing.assert_close(terms["loss"], wanted, rtol=1e-4, atol=1e-5)


def test_an_episode_is_right_where_the_nearest_mean_is():
    experiment = plain("episodes", ways=4, shots=2, batch_size=12)
    model = network(experiment).train()
    images, labels = batch()
    terms = objectives.of(experiment)(model, images, labels, runtime.generator(0))
    z = network_like(model, images).embedding.view(4, 3, -1)
    distances = torch.cdist(z[:, 2], z[:, :2].mean(1))
    torch.testing.assert_close(
        terms["accuracy"], (distances.argmin(1) == torch.arange(4)).float().mean()
    )
    assert torch.isfinite(terms["loss"])


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
