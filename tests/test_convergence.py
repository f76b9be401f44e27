"""Convergence curves: what is measured when, what an accuracy costs, and by how much less."""

import math

import numpy as np
import pytest
import torch

from embedood import config, convergence, runs, training
from embedood.config import Schedule
from embedood.convergence import Watch, cost_to_reach, log_speedups, speedup

TINY = {
    "data_name": "mnist-5k", "width": 8, "dimensions": 4, "shift": 0, "unseen": (), "ways": 4, "shots": 2,
    "batch_size": 16, "validation": 500, "steps": 6, "epochs": 2, "watch_every": 4, "learning_rate": 0.003,
}  # fmt: skip


def curve(*accuracies, images=100, seconds=1.0):
    rows = enumerate(accuracies, 1)
    return [{"images": i * images, "seconds": i * seconds, "accuracy": a} for i, a in rows]


def test_it_measures_every_so_many_steps_in_eval_mode_and_leaves_the_mode():
    model, modes = torch.nn.Linear(2, 2), []

    def measure(model):
        modes.append((model.training, torch.is_grad_enabled()))
        return {"accuracy": len(modes) / 10}

    watch = Watch(3, measure)
    model.train()
    for _ in range(7):
        watch.after_step(model, 5)
    assert modes == [(False, False)] * 2
    assert model.training
    assert [(row["images"], row["accuracy"]) for row in watch.rows] == [(15, 0.1), (30, 0.2)]


def test_seconds_are_those_between_measurements_only(monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(convergence, "_now", lambda: float(next(clock)))
    watch = Watch(
        1, lambda model: {"accuracy": float(next(clock))}
    )  # made at 0; measuring takes ten as well
    watch.after_step(torch.nn.Identity(), 1)  # stops at 10, measures, starts at 30
    watch.after_step(torch.nn.Identity(), 1)  # stops at 40
    assert [row["seconds"] for row in watch.rows] == [10, 20]


def test_an_interval_below_one_is_refused():
    with pytest.raises(ValueError, match="every 1 or more steps, got 0"):
        Watch(0, lambda model: {})


def test_an_accuracy_is_reached_between_two_measurements():
    found = curve(0.2, 0.6, 0.5, 0.8)
    assert cost_to_reach(found, 0.1) == pytest.approx(50)
    assert cost_to_reach(found, 0.4) == pytest.approx(150)
    assert cost_to_reach(found, 0.6) == pytest.approx(200)
    assert cost_to_reach(found, 0.65, "seconds") == pytest.approx(3.5)
    assert cost_to_reach(found, 0.9) == math.inf


def test_a_curve_that_learns_twice_as_fast_has_a_speedup_of_two():
    slow = [curve(0.1, 0.2, 0.3, 0.4), curve(0.2, 0.3, 0.4, 0.4)]
    fast = [curve(*[row["accuracy"] for row in c], images=50, seconds=2) for c in slow]
    found = speedup(slow, fast, [0.2, 0.35])
    assert found == pytest.approx((2, 2, 2, 2, 0, 0))
    assert speedup(slow, fast, [0.2, 0.35], "seconds").value == pytest.approx(0.5)


def intervals(n, repeats, **how):
    """Intervals of n seeds each, of costs whose true ratio is 2."""
    rng = np.random.default_rng(0)
    for _ in range(repeats):
        costs = rng.lognormal(0, 0.2, (2, n)) * [[100], [50]]
        sides = [[curve(0.1, 0.5, 0.9, images=c) for c in side] for side in costs]
        yield speedup(*sides, [0.5], **how)


@pytest.mark.parametrize("n", [3, 10])
def test_the_interval_covers_the_true_ratio(n):
    held = sum(one.low < 2 < one.high for one in intervals(n, 400))
    assert 0.92 <= held / 400 <= 0.98


def test_a_bootstrap_of_few_seeds_covers_less_than_it_says():
    held = sum(one.low < 2 < one.high for one in intervals(5, 400, bootstrap=400))
    assert 0.78 <= held / 400 <= 0.90


def test_the_interval_shrinks_with_seeds():
    few, many = (np.mean([one.high / one.low for one in intervals(n, 50)]) for n in (5, 20))
    assert np.log(few) > 2 * np.log(many)


def test_what_is_never_reached_counts_as_the_whole_training_and_is_told():
    reference, never = [curve(0.4, 0.8)] * 2, [curve(0.3, 0.4)] * 2
    found = speedup(reference, never, [0.4, 0.8])
    assert found.value == pytest.approx(math.sqrt(100 / 200 * 200 / 200))
    assert (found.missed, found.reference_missed) == (0.5, 0)
    assert speedup(never, reference, [0.4, 0.8]).reference_missed == 0.5


def test_unpaired_curves_are_refused():
    with pytest.raises(ValueError, match="got 3, 2 and 1 accuracies"):
        speedup([curve(0.5)] * 2, [curve(0.5)] * 3, [0.4])


def test_one_curve_has_a_speedup_but_no_interval():
    slow, fast = [curve(0.2, 0.4)], [curve(0.4, 0.4)]
    assert log_speedups(slow, fast, [0.4]) == pytest.approx(math.log(2))
    with pytest.raises(ValueError, match="needs two curves or more, got 1"):
        speedup(slow, fast, [0.4])


@pytest.mark.parametrize("preset", ["episodes", "episodes_softmax"])
def test_a_run_keeps_its_curve_which_a_kill_does_not_change(preset, tmp_path, monkeypatch):
    monkeypatch.setenv("EMBEDOOD_RUNS", str(tmp_path / "whole"))
    experiment = config.preset(preset, **TINY, averaging=0.5)
    whole = runs.fit(experiment)
    assert [row["images"] for row in whole.curve] == [64, 128, 192]
    assert 0 < whole.curve[-1]["accuracy"] < 1
    assert runs.fit(experiment).curve == whole.curve  # loaded, seconds and all

    def killed_in_the_second_epoch(self, model, images, steps=Watch.after_step):
        if self.steps == 7:
            raise KeyboardInterrupt
        steps(self, model, images)

    monkeypatch.setenv("EMBEDOOD_RUNS", str(tmp_path / "killed"))
    with monkeypatch.context() as patch:
        patch.setattr(Watch, "after_step", killed_in_the_second_epoch)
        with pytest.raises(KeyboardInterrupt):
            runs.fit(experiment)
    resumed = runs.fit(experiment)
    assert all(row["seconds"] > 0 for row in resumed.curve)
    for name in ("images", "accuracy"):
        assert [row[name] for row in resumed.curve] == [row[name] for row in whole.curve]


def test_watching_changes_nothing_of_what_is_learned(tmp_path, monkeypatch):
    monkeypatch.setenv("EMBEDOOD_RUNS", str(tmp_path))
    watched, alone = (
        runs.fit(config.preset("episodes_softmax", **TINY | {"watch_every": n})) for n in (2, 0)
    )
    assert alone.curve == []
    for name, value in alone.model.state_dict().items():
        assert torch.equal(value, watched.model.state_dict()[name]), name


def test_rates_stay_constant_after_a_rise():
    schedule = Schedule(epochs=2, learning_rate=0.4, rates="constant")
    optimizer, rates = training._optimizer(torch.nn.Linear(1, 1), schedule, 20)
    seen = []
    for _ in range(40):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        rates.step()
    assert seen[:3] == pytest.approx([0.2, 0.4, 0.4])
    assert seen[-1] == pytest.approx(0.4)
    with pytest.raises(ValueError, match="'one_cycle' or 'constant', got 'cosine'"):
        training._optimizer(torch.nn.Linear(1, 1), Schedule(rates="cosine"), 20)


def test_the_optimizer_is_the_one_asked_for():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    schedule = Schedule(optimizer="sgd", learning_rate=0.1, weight_decay=0.5, rates="constant")
    optimizer, _ = training._optimizer(model, schedule, 1)
    model.weight.grad = torch.ones(1, 1)
    optimizer.step()
    # Nesterov's first step: gradient g = 1 + 0.5 · w, velocity g, w − 0.1 · (g + 0.9 · g)
    assert model.weight.item() == pytest.approx(1 - 0.1 * 1.9 * 1.5)
    with pytest.raises(
        ValueError, match="unknown optimizer 'adam'; the optimizers are adamw, muon, sgd"
    ):
        training._optimizer(model, Schedule(optimizer="adam"), 1)


def test_for_each_trains_side_by_side_what_it_then_reads(tmp_path, monkeypatch):
    monkeypatch.setenv("EMBEDOOD_RUNS", str(tmp_path))
    experiments = [config.preset("episodes_softmax", **TINY, seed=seed) for seed in range(3)]
    found = runs.for_each(experiments, lambda run: (run.experiment.seed, run.curve), workers=2)
    assert [seed for seed, _ in found] == [0, 1, 2]
    assert [curve for _, curve in found] == [runs.fit(e).curve for e in experiments]
    assert len(set(map(str, found))) == 3
