"""Batches visit what they say, in an order that the seed decides."""

from dataclasses import replace

import pytest
import torch

from embedood import config, runtime, samplers

LABELS = torch.arange(60) % 6


def drawn(batches, seed=0):
    return list(batches(LABELS, runtime.generator(seed)))


def test_shuffled_batches_visit_every_image_once():
    batches = drawn(samplers.shuffled(16))
    assert [len(b) for b in batches] == [16, 16, 16, 12]
    assert sorted(torch.cat(batches).tolist()) == list(range(60))


def test_an_episode_has_its_classes_in_blocks_without_an_image_twice():
    for batch in drawn(samplers.episodes(batch_size=12, ways=3)):
        labels = LABELS[batch].view(3, 4)
        assert (labels == labels[:, :1]).all()
        assert len(labels[:, 0].unique()) == 3
        assert len(batch.unique()) == 12


def test_an_epoch_of_episodes_is_as_long_as_a_shuffled_one():
    assert len(drawn(samplers.episodes(16, 2))) == len(drawn(samplers.shuffled(16)))


def test_every_class_and_image_is_drawn_equally_often():
    generator, counts, times = runtime.generator(0), torch.zeros(60), 400
    for _ in range(times):
        for batch in samplers.episodes(12, 3)(LABELS, generator):
            counts[batch] += 1
    mean = times * 5 * 12 / 60
    assert counts.sum() == mean * 60
    # Each count is binomial with p = 1/5: five standard deviations around its mean.
    assert (counts - mean).abs().max() < 5 * (mean * 0.8) ** 0.5


@pytest.mark.parametrize("sampler", [samplers.shuffled(7), samplers.episodes(12, 3)])
def test_the_seed_decides_the_batches(sampler):
    same = zip(drawn(sampler), drawn(sampler), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    assert not torch.equal(drawn(sampler)[0], drawn(sampler, seed=1)[0])


@pytest.mark.parametrize(("batch_size", "ways"), [(14, 7), (33, 3), (6, 6), (8, 1)])
def test_an_impossible_episode_is_refused_with_the_sizes(batch_size, ways):
    with pytest.raises(ValueError, match=f"{ways} classes with .* 6 classes of 10 images"):
        drawn(samplers.episodes(batch_size, ways))


def test_a_schedule_without_ways_is_shuffled():
    schedule = config.Schedule(batch_size=16)
    assert len(drawn(samplers.of(schedule))[-1]) == 12
    episode = drawn(samplers.of(replace(schedule, ways=2)))[-1]
    assert len(episode) == 16
