"""Samplers in the training loop: what they are told, what they change, and going on after a kill."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from embedood import config, models, objectives, runtime, samplers, training

EPISODES = [{"sampler": name, "ways": 4} for name in samplers.CLASS_SAMPLERS] + [
    {"sampler": "relationship_overlap", "divergence": d, "ways": 4} for d in ("jsd", "random")
]
IMAGES = [{"sampler": name} for name in samplers.IMAGE_SAMPLERS]
CASES = [
    *[("episodes", case) for case in EPISODES],
    *[("episodes_softmax", case) for case in EPISODES],
    *[("cross_entropy", case) for case in EPISODES + IMAGES],
]


def digits():
    """Six classes of bars: brightness and place tell them, noise hides them a little."""
    generator = runtime.generator(0, "bars")
    labels = torch.arange(72) % 6
    images = torch.randint(0, 60, (72, 3, 16, 16), generator=generator, dtype=torch.uint8)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, 2 * label : 2 * label + 3] += 120
    return training.TrainingSet(images, labels)


def made(preset, **settings):
    small = {
        "epochs": 3, "batch_size": 24, "shots": 2, "refresh_every": 2, "flip": 0.0, "shift": 1,
        "least_gain": 0.5,
    }  # fmt: skip
    experiment = config.preset(preset, **(small | settings))
    torch.manual_seed(0)
    net, data = experiment.network, digits()
    model = models.build(
        net.architecture, 6, 4, 3, head=net.head, dimensions=8, temperature=net.temperature
    )
    sampler = samplers.of(experiment, data.labels, runtime.generator(0, "training"))
    return experiment, model, sampler, data


class Killed(Exception):
    pass


def train(case, checkpoint=None, kill_at=None):
    """The weights and the sampler's state at the end, or nothing where it was killed."""
    experiment, model, sampler, data = made(case[0], **case[1])
    objective, steps = objectives.of(experiment), 0

    def killable(*arguments):
        nonlocal steps
        steps += 1
        if steps == kill_at:
            raise Killed
        return objective(*arguments)

    try:
        training.train(model, killable, data, experiment.schedule, sampler, checkpoint, quiet=True)
    except Killed:
        return None
    return {**model.state_dict(), **flat(sampler.state_dict())}


def flat(state, prefix="sampler"):
    found = {}
    for name, value in state.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}.{name}")
        else:
            found[f"{prefix}.{name}"] = torch.as_tensor(value)
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join([c[0], *map(str, c[1].values())]))
def test_killed_in_the_second_epoch_it_goes_on_to_the_identical_end(case, tmp_path):
    whole = train(case)
    assert train(case, tmp_path / "state.pt", kill_at=5) is None
    resumed = train(case, tmp_path / "state.pt")
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        assert value.allclose(resumed[name], rtol=0, atol=0, equal_nan=True), name


def test_a_checkpoint_from_before_samplers_had_states_is_gone_on_from(tmp_path):
    case, path = ("cross_entropy", {"sampler": "uniform"}), tmp_path / "state.pt"
    train(case, path, kill_at=5)
    state = torch.load(path, weights_only=True)
    del state["sampler"]
    torch.save(state, path)
    whole, resumed = train(case), train(case, path)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_sampler_is_told_the_rows_and_what_the_network_saw_of_them(monkeypatch):
    experiment, model, sampler, data = made("cross_entropy", sampler="class_overlap", ways=4)
    told = []
    monkeypatch.setattr(sampler, "observe", lambda batch, step: told.append((batch, step)))
    training.train(model, objectives.of(experiment), data, experiment.schedule, sampler, quiet=True)
    assert len(told) == 9
    for batch, step in told:
        assert (step.embedding.shape, step.logits.shape) == ((24, 8), (24, 6))
        right = (step.logits.argmax(1) == data.labels[batch]).float().mean()
        assert right == step.terms["accuracy"]


def test_statistics_are_of_the_embeddings_of_the_own_class():
    experiment, model, sampler, data = made("cross_entropy", sampler="class_overlap", ways=4)
    training.train(model, objectives.of(experiment), data, experiment.schedule, sampler, quiet=True)
    statistics = sampler.overlaps.statistics
    assert int(statistics.counts_.sum()) == 9 * 24
    assert sampler.overlaps.steps == 9
    assert sampler.overlaps.divergences.isfinite().all()


def test_importance_weights_reach_the_loss_and_looking_changes_nothing_else():
    experiment, model, sampler, data = made("cross_entropy", sampler="gradient_norm")
    got, objective = [], objectives.of(experiment)

    def watched(model, images, labels, generator, weights=None):
        assert model.training
        got.append(weights)
        return objective(model, images, labels, generator, weights)

    training.train(model, watched, data, experiment.schedule, sampler, quiet=True)
    assert got[0] is None
    assert got[-1].shape == (24,)
    assert len(got[-1].unique()) > 1
    assert sampler.looked == 72 * sum(weights is not None for weights in got)
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    logits = sampler.look(torch.arange(72))
    assert not logits.requires_grad
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())


def test_the_benchmark_ends_with_the_ratio_of_two_steps():
    script = Path(__file__).parents[1] / "benchmarks" / "samplers.py"
    printed = subprocess.run(
        [sys.executable, script, "--small"], text=True, capture_output=True, check=True
    ).stdout
    name, ratio = printed.splitlines()[-1].split()
    assert name == "ratio"
    assert 1 < float(ratio) < 100
