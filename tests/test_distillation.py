"""Subclasses from a teacher's embedding, the targets made of them, and a student that learns them."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import softmax
from sklearn.decomposition import PCA

from embedood import config, data, distillation, losses, objectives, outputs, runs, runtime
from embedood.outputs import Outputs


def teacher(n=240, classes=2, dimensions=12, seed=0):
    """Outputs of a made-up teacher, whose directions have very different variances."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    scales = np.linspace(0.5, 3, dimensions)
    centres = rng.normal(size=(classes, dimensions)) * 4
    z = (centres[labels] + rng.normal(size=(n, dimensions)) * scales).astype(np.float32)
    weight = rng.normal(size=(classes, dimensions)).astype(np.float32)
    return Outputs(z @ weight.T, z, labels, weight, np.zeros(classes, np.float32))


def moved(said, by):
    """The same outputs with other embeddings; the logits are left alone."""
    return Outputs(said.logits, said.embeddings + by, said.labels, said.head_weight, said.head_bias)


MAKERS = [
    ("lelp", 5),
    ("kmeans", 5),
    ("random_partition", 5),
    ("shuffled_lelp", 5),
    ("oracle", 3),
    ("none", 1),
]


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(("name", "s"), MAKERS)
def test_targets_are_distributions_whose_sums_are_the_teachers_tempered_probabilities(
    name, s, classes
):
    said = teacher(classes=classes)
    fine = said.labels + classes * (np.arange(len(said)) // classes % 3)
    share = distillation.make(name, s).fit(said, fine).transform(said, fine)
    assert share.shape == (240, classes, s)
    wanted = distillation.targets(distillation.tempered(said.logits, 3.0), share)
    assert wanted.min() >= 0
    np.testing.assert_allclose(wanted.sum(1), 1, atol=1e-5)
    of_classes = distillation.class_probabilities(wanted, classes)
    np.testing.assert_allclose(of_classes, softmax(said.logits / 3.0, axis=1), atol=1e-5)


def test_the_column_of_a_subclass_follows_its_class():
    share = np.array([[[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]]])
    wanted = [[0.1, 0.05, 0.05, 0.0, 0.8, 0.0]]
    np.testing.assert_allclose(distillation.targets(np.array([[0.2, 0.8]]), share), wanted)


def test_lelp_says_what_a_slow_loop_says():
    said, s, beta = teacher(classes=3), 4, 0.7
    found = distillation.make("lelp", s, beta, seed=5).fit(said).transform(said)
    rng = np.random.default_rng(5)
    basis = np.linalg.svd(said.head_weight.astype(float))[2][:3]
    off = np.eye(12) - basis.T @ basis  # the projector, another way to the null space
    for c in range(3):
        own = said.embeddings[said.labels == c].astype(float)
        pca = PCA(s, svd_solver="full").fit(own @ off)
        turn = distillation.random_rotation(s, rng)
        for i in range(0, 240, 17):
            plain = (said.embeddings[i] - own.mean(0)) @ off @ pca.components_.T
            plain_own = (own - own.mean(0)) @ off @ pca.components_.T
            for signs in np.array(np.meshgrid(*[[-1, 1]] * s)).reshape(s, -1).T:
                t = (plain * signs) @ turn / ((plain_own * signs) @ turn).std(0)
                if np.allclose(softmax(t / beta), found[i, c], atol=1e-4):
                    break  # the sign of a principal direction is no one's choice
            else:
                pytest.fail(f"image {i}, class {c}: {found[i, c]}")


def test_what_moves_the_logits_moves_no_subclass():
    said = teacher()
    maker = distillation.make("lelp", 5).fit(said)
    along = moved(said, 7 * said.head_weight[0] - 3 * said.head_weight[1])
    across = moved(said, np.eye(12, dtype=np.float32)[0])
    np.testing.assert_allclose(maker.transform(along), maker.transform(said), atol=1e-4)
    assert np.abs(maker.transform(across) - maker.transform(said)).max() > 0.01


def test_turned_coordinates_are_centred_and_vary_alike():
    said = teacher()
    t = distillation.LELP(6).fit(said).coordinates(said)
    for c in range(2):
        own = t[said.labels == c, c]
        np.testing.assert_allclose(own.mean(0), 0, atol=1e-4)
        np.testing.assert_allclose(own.std(0), 1, atol=1e-4)


def test_a_random_rotation_is_one_and_shares_the_variance_on_average():
    rng = np.random.default_rng(0)
    q = distillation.random_rotation(6, rng)
    np.testing.assert_allclose(q.T @ q, np.eye(6), atol=1e-12)
    variances = np.array([9.0, 4.0, 1.0, 1.0])
    turned = [np.square(distillation.random_rotation(4, rng)).T @ variances for _ in range(4000)]
    np.testing.assert_allclose(np.mean(turned, 0), variances.mean(), rtol=0.05)


def test_principal_directions_are_those_of_scikit_learn():
    z = teacher().embeddings.astype(float)
    wanted = PCA(4, svd_solver="full").fit(z).components_
    found = distillation.principal_directions(z, 4)
    np.testing.assert_allclose(np.abs(wanted @ found), np.eye(4), atol=1e-8)


def test_a_low_subclass_temperature_chooses_and_a_high_one_shares():
    said = teacher()
    cold = distillation.make("lelp", 4, 1e-3).fit(said).transform(said)
    warm = distillation.make("lelp", 4, 1e3).fit(said).transform(said)
    assert np.median(cold.max(2)) > 0.999
    np.testing.assert_allclose(warm, 0.25, atol=0.01)


def test_kmeans_finds_groups_that_lie_apart():
    said = teacher(n=120)
    group = np.arange(120) // 2 % 3
    apart = moved(said, np.eye(12, dtype=np.float32)[group] * 100)
    found = distillation.make("kmeans", 3).fit(apart).transform(apart)
    own = found[np.arange(120), apart.labels].argmax(1)
    for c in range(2):
        pairs = {(g, s) for g, s, y in zip(group, own, apart.labels, strict=True) if y == c}
        assert len(pairs) == 3 == len({s for _, s in pairs})


def test_the_random_partition_is_blind_and_fixed_by_its_seed():
    said = teacher(n=3000)
    one, again, other = (
        distillation.make("random_partition", 5, seed=seed).fit(said).transform(said)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    np.testing.assert_allclose(one.mean(0), 0.2, atol=0.03)
    np.testing.assert_array_equal(one[:, 0], one[:, 1])


def test_shuffled_lelp_is_as_soft_within_each_class_and_blind():
    said = teacher(n=3000)
    own, dealt = (
        distillation.make(name, 5, 0.3).fit(said).transform(said)
        for name in ("lelp", "shuffled_lelp")
    )
    for c in range(2):
        mine, theirs = (each[said.labels == c].reshape(-1, 10) for each in (own, dealt))
        np.testing.assert_array_equal(np.sort(mine, axis=0), np.sort(theirs, axis=0))
        assert {tuple(row) for row in mine} == {tuple(row) for row in theirs}
        correlation = [np.corrcoef(a, b)[0, 1] for a, b in zip(mine.T, theirs.T, strict=True)]
        assert np.abs(correlation).max() < 0.1


def test_the_oracle_names_the_fine_class_in_its_own_class_and_shrugs_in_the_other():
    said = teacher(n=12)
    fine = np.array([0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5])  # 0, 2, 4 are even, 1, 3, 5 odd
    share = distillation.make("oracle", 3).fit(said, fine).transform(said, fine)
    np.testing.assert_array_equal(share[2], [[0, 1, 0], np.float32([1 / 3] * 3)])
    np.testing.assert_array_equal(share[5], [np.float32([1 / 3] * 3), [0, 0, 1]])


def test_a_lesson_follows_the_teacher_and_the_oracles_the_labels():
    said = teacher()
    fine = said.labels + 2 * (np.arange(240) // 2 % 3)
    how = config.Distillation(subclasses_by="oracle", subclasses=3, teacher_temperature=2.0)
    told = distillation.lesson(how, said, fine)
    np.testing.assert_array_equal(told.targets.argmax(1), 3 * said.labels + fine // 2)
    assert set(told.targets.unique().tolist()) == {0.0, 1.0}
    plain = distillation.lesson(config.Distillation(teacher_temperature=2.0), said)
    np.testing.assert_allclose(plain.targets, softmax(said.logits / 2, axis=1), atol=1e-6)
    np.testing.assert_allclose(told.embeddings.mean(0), 0, atol=1e-5)
    assert told.embeddings.var(0, correction=0).mean().item() == pytest.approx(1, rel=1e-4)
    correlation = np.corrcoef(told.embeddings[:, 3], said.embeddings[:, 3])[0, 1]
    assert correlation == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "s", "change", "message"),
    [
        ("t-sne", 2, {}, "unknown subclasses 't-sne'; they are none, lelp"),
        ("lelp", 0, {}, "1 or more .* got 0 and 1.0"),
        ("lelp", 2, {"temperature": 0.0}, "positive, got 2 and 0.0"),
        ("lelp", 11, {}, "11 directions .* 10 dimensions beside the output weights, vary in 10"),
        ("lelp", 121, {}, r"121 subclasses need as many images, got \[120 120\]"),
        ("none", 2, {}, "there is 1 subclass, not 2"),
        ("oracle", 2, {}, "needs the true fine labels"),
    ],
)
def test_bad_makers_are_refused(name, s, change, message):
    with pytest.raises(ValueError, match=message):
        distillation.make(name, s, **change).fit(teacher())


def test_outputs_that_do_not_fit_are_refused():
    said = teacher()
    fitted = distillation.LELP(2).fit(said)
    with pytest.raises(ValueError, match=r"must be N×12, as in fit, got shape \(240, 5\)"):
        fitted.transform(teacher(dimensions=5))
    with pytest.raises(ValueError, match="NaN or infinite"):
        fitted.transform(moved(said, np.float32(np.nan)))
    for label in (-1, 2):
        labels = np.where(np.arange(240) == 7, label, said.labels)
        other = Outputs(said.logits, said.embeddings, labels, said.head_weight, said.head_bias)
        with pytest.raises(ValueError, match=r"labels must be 0…1, got"):
            distillation.LELP(2).fit(other)
    with pytest.raises(ValueError, match="needs the teacher's output weights"):
        distillation.LELP(2).fit(Outputs(said.logits, said.embeddings, said.labels, None, None))
    with pytest.raises(ValueError, match="needs more dimensions than classes"):
        distillation.LELP(2).fit(teacher(classes=4, dimensions=4))


def test_bad_data_are_refused():
    said = teacher()
    with pytest.raises(ValueError, match="LELP is not fitted"):
        distillation.LELP(2).transform(said)
    with pytest.raises(ValueError, match="NaN or infinite"):
        distillation.LELP(2).fit(moved(said, np.float32(np.nan)))
    with pytest.raises(ValueError, match="a fine class lies in two classes"):
        distillation.make("oracle", 5).fit(said, np.arange(240) // 2 % 5)
    with pytest.raises(ValueError, match="3 fine classes, more than S = 2"):
        distillation.make("oracle", 2).fit(said, np.arange(240) % 6)
    with pytest.raises(ValueError, match=r"got \(240, 2\) and \(240, 3, 2\)"):
        distillation.targets(said.logits, np.ones((240, 3, 2)) / 2)
    with pytest.raises(ValueError, match="must be positive, got 0"):
        distillation.tempered(said.logits, 0)
    with pytest.raises(ValueError, match="are not those of 2 classes"):
        distillation.class_probabilities(np.ones((4, 5)), 2)


# The student.

SMALL = {"data_name": "mnist-5k", "width": 4, "epochs": 3, "train_limit": 1000, "batch_size": 16}
TEACHER = config.preset("parity_teacher", **SMALL)


def test_parity_labels_are_the_digits_modulo_two():
    split = runs.split_of(TEACHER)
    assert split.class_names == ("even", "odd")
    for part in (split.train, split.validation, split.test_known):
        digits = data.load("mnist-5k").labels[part.source_index]
        assert len(set(digits.tolist())) == 10
        np.testing.assert_array_equal(part.labels, digits % 2)
    assert len(split.test_unseen) == 0
    with pytest.raises(ValueError, match="'classes' or 'parity', got 'colour'"):
        runs.split_of(TEACHER.with_(labels="colour"))


def test_the_key_of_a_student_follows_its_teacher_and_comes_back_from_a_file():
    student = distillation.student(TEACHER.with_(seed=3), TEACHER, "lelp", subclasses=4)
    others = [
        distillation.student(TEACHER.with_(seed=3), TEACHER.with_(seed=1), "lelp", subclasses=4),
        student.with_(subclass_temperature=0.5),
        student.with_(subclasses_by="kmeans"),
        TEACHER.with_(seed=3),
    ]
    assert len({student.key, *(other.key for other in others)}) == 5
    assert config.from_dict(json.loads(json.dumps(student.to_dict()))) == student
    with pytest.raises(config.ConfigError, match=r"teacher takes an Experiment or None, got 'me'"):
        TEACHER.with_(teacher="me")
    with pytest.raises(ValueError, match=r"unknown method 'hints'.*lelp"):
        distillation.student(TEACHER, TEACHER, "hints")


def test_the_loss_is_cross_entropy_to_soft_targets_as_in_torch():
    logits, wanted = torch.randn(6, 4), torch.rand(6, 4).softmax(1)
    torch.testing.assert_close(losses.distillation(logits, wanted), F.cross_entropy(logits, wanted))
    softened = losses.distillation(logits, wanted, 3.0)
    torch.testing.assert_close(softened, 9 * F.cross_entropy(logits / 3, wanted))
    weights = torch.tensor([1.0, 0, 0, 0, 0, 0])
    first = losses.distillation(logits, wanted, weights=weights)
    torch.testing.assert_close(6 * first, F.cross_entropy(logits[:1], wanted[:1]))


def test_class_logits_sum_probabilities():
    logits = torch.randn(5, 6)
    summed = logits.softmax(1).view(5, 2, 3).sum(2)
    torch.testing.assert_close(losses.class_logits(logits, 2).softmax(1), summed)


def test_the_objective_of_a_student_is_its_terms():
    how = {"hard_share": 0.3, "embedding_weight": 2.0, "student_temperature": 2.0}
    experiment = distillation.student(TEACHER, TEACHER, "lelp", subclasses=3, **how)
    experiment = experiment.with_(shift=0)
    split = runs.split_of(experiment)
    model = runs.build(experiment, split).train()
    lesson = objectives.Lesson(
        torch.tensor([0, 1, 1, 0]), torch.rand(4, 6).softmax(1), torch.randn(4, 16)
    )
    images = torch.from_numpy(split.train.images[:3]).float() / 255
    rows = torch.tensor([2, 0, 3])
    step = objectives.of(experiment, lesson)(model, images, rows, runtime.generator(0))
    answer = model(images.contiguous(memory_format=torch.channels_last))
    soft = 4 * F.cross_entropy(answer.logits / 2, lesson.targets[rows])
    p = answer.logits.softmax(1).view(3, 2, 3).sum(2)
    hard = F.nll_loss(p.log(), torch.tensor([1, 0, 0]))
    guess = F.mse_loss(model.teacher_guess(answer.embedding), lesson.embeddings[rows])
    wanted = 0.7 * soft + 0.3 * hard + 2 * guess
    torch.testing.assert_close(step.terms["loss"], wanted, rtol=1e-3, atol=1e-4)
    right = (p.argmax(1) == torch.tensor([1, 0, 0])).float().mean()
    torch.testing.assert_close(step.terms["accuracy"], right)


def test_a_student_without_a_lesson_or_with_another_sampler_is_refused():
    experiment = distillation.student(TEACHER, TEACHER, "kd")
    with pytest.raises(ValueError, match="distillation needs a lesson"):
        objectives.of(experiment)
    some = objectives.Lesson(torch.zeros(2), torch.ones(2, 2) / 2, torch.zeros(2, 16))
    with pytest.raises(ValueError, match="draws uniformly, not by loss_rank"):
        objectives.of(experiment.with_(sampler="loss_rank"), some)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv("EMBEDOOD_RUNS", str(tmp_path))


def test_a_student_is_trained_on_what_its_teacher_says(kept):
    """On the teacher's own outputs: the student of a plain run agrees with the pieces above."""
    student = distillation.student(
        TEACHER.with_(seed=1), TEACHER, "lelp", subclasses=4, teacher_temperature=2.0
    )
    run = runs.fit(student, quiet=True)
    assert run.model.head.weight.shape == (8, 16)
    assert run.history[-1]["loss"] < run.history[0]["loss"]
    said = outputs.compute(run.model, run.split.validation)
    p = distillation.class_probabilities(said.probabilities, 2)
    assert (p.argmax(1) == said.labels).mean() > 0.7
    kept_outputs = list((runs.root() / TEACHER.key).glob("outputs_*.npz"))
    assert len(kept_outputs) == 1
    fresh = outputs.compute(runs.fit(TEACHER).model, run.split.train)
    np.testing.assert_allclose(Outputs.load(kept_outputs[0]).logits, fresh.logits, atol=1e-5)


def test_a_teacher_of_another_split_is_refused(kept):
    elsewhere = TEACHER.with_(split_seed=1)
    with pytest.raises(ValueError, match="a teacher must have seen the same split"):
        runs.fit(distillation.student(TEACHER, elsewhere, "kd"), quiet=True)
