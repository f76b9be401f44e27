import pytest

from embedood import config


def test_equal_settings_share_a_key_and_any_change_moves_it():
    base = config.preset("report")
    assert base.key == config.preset("report").key
    others = [
        base.with_(width=32),
        base.with_(seed=1),
        base.with_(sigma=0.2),
        base.with_(unseen=(1,)),
    ]
    assert len({base.key, *(other.key for other in others)}) == 5


def test_a_stored_experiment_comes_back_equal():
    base = config.preset("std_5", width=8, unseen=(0, 3), data_name="mnist-5k")
    assert config.from_dict(base.to_dict()) == base


def test_validation_follows_the_small_data_unless_given():
    assert config.preset("report").split.validation == 5000
    assert config.preset("report", data_name="mnist-5k").split.validation == 500
    assert config.preset("report", data_name="mnist-5k", validation=77).split.validation == 77


def test_the_printed_sign_rewards_what_the_text_punishes():
    assert (
        config.preset("printed_sign").losses.std_weight
        == -config.preset("report").losses.std_weight
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"breadth": 3}, "unknown setting 'breadth'.*width"),
        ({"width": "3"}, "width takes int, got '3'"),
        ({"width": True}, "width takes int"),
        ({"sigma": "much"}, "sigma takes float"),
        ({"unseen": (0, "1")}, "unseen takes a tuple of int"),
    ],
)
def test_bad_overrides_are_refused(overrides, message):
    with pytest.raises(config.ConfigError, match=message):
        config.preset("report", **overrides)


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(config.ConfigError, match=r"'raport'.*report, std_0"):
        config.preset("raport")


def test_only_what_differs_from_the_defaults_decides_the_key():
    """A field that is added later, with a default that changes nothing, leaves old runs valid."""
    assert config.Experiment().key == config.Experiment().with_(sigma=0.3, width=64).key
    assert config._difference({"a": 1, "new": 0}, {"a": 2, "new": 0}) == {"a": 1}


def test_keys_are_those_under_which_trained_models_are_kept():
    """Of presets as they were before samplers, and for photographs SGD, could be chosen."""
    before = {"optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.02}
    kept = {"gcpl": "81fc088d3e65", "episodes": "137158904eab", "contrastive": "2855424afaf5"}
    assert {name: config.preset(name, **before).key for name in kept} == kept
    kept = {"report": "8b8e6219fa50", "compact_turning": "9231accb271c"}
    assert {name: config.preset(name).key for name in kept} == kept
    assert config.preset("report", optimizer="sgd").key != kept["report"]
    assert config.preset("report", sampler="tournament").key != kept["report"]


def test_a_changed_default_raises_the_training_revision():
    """The key does not see defaults: whoever changes one raises the revision, and then this table."""
    defaults = {n: f for s in config.Experiment().to_dict().values() if isinstance(s, dict)
                for n, f in s.items()}  # fmt: skip
    assert config.TRAINING_REVISION == 1
    assert {n: defaults[n] for n in DEFAULTS} == DEFAULTS


DEFAULTS = {
    "data_name": "mnist", "train_limit": 0, "unseen": [0], "validation": 5000, "split_seed": 0,
    "architecture": "denoising", "width": 64, "sigma": 0.3, "square_min": 10, "square_max": 14,
    "noised_share": 0.5, "shift": 0, "denoising_weight": 4.0, "overconfidence_weight": 1.0,
    "std_weight": 1.0, "outlier_weight": 0.0, "outlier_recipe": "report", "epochs": 3,
    "batch_size": 128, "learning_rate": 0.003, "weight_decay": 0.02,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "least"), [({"width": 0}, 1), ({"epochs": 0}, 1), ({"first_side": -3}, 0)]
)
def test_numbers_that_no_training_could_use_are_refused(change, least):
    (name, value), *_ = change.items()
    with pytest.raises(config.ConfigError, match=f"{name} must be at least {least}, got {value}"):
        config.preset("swift", **change)
