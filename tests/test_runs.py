"""Models, the training loop and the run cache, on a few digits."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from embedood import config, models, outputs, runs, runtime, training
from embedood.samplers import Step, UniformImageSampler
from embedood.splits import Part

TINY = {"data_name": "mnist-5k", "width": 2, "train_limit": 400, "batch_size": 50}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EMBEDOOD_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def weights(run):
    return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_the_report_network_shares_ten_convolutions_and_has_resnet_widths():
    model = models.DenoisingClassifier(9)
    convolutions = [m for m in model.shared.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 10
    logits, embedding, picture = model(torch.rand(2, 1, 28, 28))
    assert (logits.shape, embedding.shape, picture.shape) == ((2, 9), (2, 256), (2, 1, 28, 28))
    assert embedding.min() >= 0


@pytest.mark.parametrize(("width", "layout"), [(4, "contiguous_format"), (8, "channels_last")])
def test_channels_last_is_left_where_the_strided_shortcut_is_narrow(width, layout):
    """Else oneDNN's AVX2 kernels crash, which no test can see on other processors."""
    network = models.DenoisingClassifier(9, width)
    assert models.memory_format(network) is getattr(torch, layout)
    assert models.memory_format(models.CompactClassifier(9, 4)) is torch.channels_last


def test_turned_digits_teach_the_second_head(cache):
    run = runs.fit(
        config.preset("compact_turning", **TINY | {"width": 8, "train_limit": 2000}, epochs=4)
    )
    assert run.history[-1]["turning"] < run.history[0]["turning"] - 0.3
    part = run.split.validation.first(100)
    pixels = torch.from_numpy(part.images).float() / 255
    with torch.no_grad():
        answers = [
            run.model.turned(run.model(pixels.rot90(k, (2, 3))).embedding) for k in (0, 1, 3)
        ]
    read = torch.stack(answers).argmax(2) // 9  # the turn, whatever the class
    assert (read == torch.arange(3)[:, None]).float().mean() > 0.6


def test_generators_differ_by_purpose_and_repeat_by_seed():
    draws = [
        torch.rand(3, generator=runtime.generator(s, p)) for s, p in [(0, "a"), (0, "b"), (1, "a")]
    ]
    assert not torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(draws[0], torch.rand(3, generator=runtime.generator(0, "a")))


def test_a_second_fit_loads_and_trains_nothing(cache, monkeypatch):
    experiment = config.preset("report", **TINY, epochs=1)
    first = runs.fit(experiment)
    monkeypatch.setattr(training, "train", lambda *_: pytest.fail("trained again"))
    assert_same(weights(first), weights(runs.fit(experiment)))
    assert {p.name for p in first.folder.iterdir()} == {
        "config.json", "weights.safetensors", "history.json", "provenance.json", "lock"
    }  # fmt: skip
    stored = json.loads((first.folder / "config.json").read_text())
    assert config.from_dict(stored) == experiment


def test_what_was_used_tells_devices_apart(monkeypatch):
    of = {"a": ("one", 1.5), "b": ("other", 2.0), "c": ("one", 0.2)}
    used = {key: {"device": device, "seconds": s} for key, (device, s) in of.items()}
    monkeypatch.setattr(runs, "_used", used)
    assert runs.used() == [
        {"device": "one", "networks": 2, "seconds": 1.7},
        {"device": "other", "networks": 1, "seconds": 2.0},
    ]


def test_training_learns(cache):
    run = runs.fit(config.preset("report", **(TINY | {"width": 4}), epochs=6, learning_rate=1e-2))
    losses = [row["loss"] for row in run.history]
    assert losses[-1] < 0.8 * losses[0]


def test_killed_in_the_middle_it_resumes_to_the_identical_weights(cache, tmp_path, monkeypatch):
    experiment = config.preset("report", **TINY, epochs=6)
    folder = cache / experiment.key
    script = (
        f"from embedood import config, runs;runs.fit(config.from_dict({experiment.to_dict()!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", script], env=dict(os.environ))
    deadline = time.monotonic() + 120
    while not (folder / "checkpoint.pt").exists():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "provenance.json").exists()
    resumed = weights(runs.fit(experiment))
    monkeypatch.setenv("EMBEDOOD_RUNS", str(tmp_path / "other"))
    assert_same(resumed, weights(runs.fit(experiment)))


def shuffled(data):
    return UniformImageSampler(data.labels, runtime.generator(0), 10)


def test_averaged_weights_are_the_moving_average_of_every_step(monkeypatch):
    """By hand: the first step as it is, then 0.6 of the old average and 0.4 of the new weights."""
    torch.manual_seed(0)
    model, seen = torch.nn.Linear(3, 2), []

    def objective(model, images, labels, generator, weights):
        seen.append(model.weight.detach().clone())
        return Step({"loss": model(images.flatten(1)).square().mean()}, images, None)

    images = torch.randint(0, 256, (40, 3, 1, 1), dtype=torch.uint8)
    data = training.TrainingSet(images, torch.zeros(40, dtype=torch.long))
    schedule = config.Schedule(epochs=2, batch_size=10, averaging=0.6)
    last = torch.nn.Linear(3, 2)
    last.load_state_dict(model.state_dict())
    plain = config.Schedule(epochs=2, batch_size=10)
    training.train(last, objective, data, plain, shuffled(data), quiet=True)
    seen.clear()
    training.train(model, objective, data, schedule, shuffled(data), quiet=True)
    average = seen[1]
    for weight in [*seen[2:], last.weight.detach()]:
        average = 0.6 * average + 0.4 * weight
    torch.testing.assert_close(model.weight.detach(), average)


@pytest.mark.parametrize("preset", ["compact", "swift"])
def test_an_averaged_run_resumes_to_the_identical_weights(preset, cache, monkeypatch):
    experiment = config.preset(preset, **TINY, epochs=2, averaging=0.9)
    whole = weights(runs.fit(experiment, quiet=True))
    monkeypatch.setenv("EMBEDOOD_RUNS", str(cache.parent / "again"))
    save, saved = training._State.save, []

    def save_and_stop(state, path, history):
        save(state, path, history)
        saved.append(path)
        if len(saved) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(training._State, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        runs.fit(experiment, quiet=True)
    assert_same(whole, weights(runs.fit(experiment, quiet=True)))


def test_images_grow_to_their_whole_side_in_two_thirds_of_the_epochs():
    schedule = config.Schedule(epochs=6, first_side=16)
    assert [training.side_in(schedule, e, 32) for e in range(6)] == [16, 20, 24, 28, 32, 32]
    assert training.side_in(config.Schedule(epochs=6), 0, 28) == 28


def test_the_network_sees_the_smaller_images(monkeypatch):
    sides = []

    def objective(model, images, labels, generator, weights):
        sides.append(images.shape[-1])
        return Step({"loss": model(images.mean((2, 3))).square().mean()}, images, None)

    images = torch.randint(0, 256, (10, 3, 32, 32), dtype=torch.uint8)
    data = training.TrainingSet(images, torch.zeros(10, dtype=torch.long))
    schedule = config.Schedule(epochs=3, batch_size=10, first_side=16)
    training.train(torch.nn.Linear(3, 2), objective, data, schedule, shuffled(data), quiet=True)
    assert sides == [16, 24, 32]


def test_a_diverging_training_says_so(cache):
    with pytest.raises(FloatingPointError, match="learning rate ten times smaller"):
        runs.fit(config.preset("report", **TINY, epochs=1, learning_rate=1e30))


@pytest.fixture
def network():
    torch.manual_seed(0)
    model = models.DenoisingClassifier(9, width=4)
    with torch.no_grad():
        model(torch.rand(64, 1, 28, 28))
    return model


@pytest.fixture
def part():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 1, 28, 28), dtype=np.uint8)
    return Part(pixels, np.arange(20) % 9, np.arange(20))


def test_outputs_are_the_same_alone_and_in_a_batch_and_in_training_mode(network, part):
    network.train()
    together = outputs.compute(network, part, noise_seed=0)
    assert network.training
    alone = outputs.compute(network, part, noise_seed=0, batch_size=1)
    for name in ("logits", "embeddings", "mse", "mse_noised"):
        np.testing.assert_allclose(
            getattr(alone, name), getattr(together, name), rtol=1e-4, atol=1e-6
        )
    head = together.embeddings @ together.head_weight.T + together.head_bias
    np.testing.assert_allclose(head, together.logits, rtol=1e-4, atol=1e-5)


def test_outputs_come_back_from_a_file(network, part, tmp_path):
    before = outputs.compute(network, part)
    before.save(tmp_path / "outputs.npz")
    after = outputs.Outputs.load(tmp_path / "outputs.npz")
    np.testing.assert_array_equal(before.logits, after.logits)
    assert after.mse_noised is None
    assert [p.name for p in tmp_path.iterdir()] == ["outputs.npz"]


def test_pseudo_ood_is_unseen_and_repeats(network, part):
    first, second = (outputs.pseudo_ood(network, part, "report", denoised=True) for _ in range(2))
    assert (first.labels == -1).all()
    np.testing.assert_array_equal(first.images, second.images)


def test_torchvision_imports_beside_any_torch():
    assert runtime.import_torchvision().models.resnet18(num_classes=3).fc.out_features == 3
