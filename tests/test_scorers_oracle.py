"""Every scorer that pytorch-ood 0.4.0 has too, against it: made, real and rank-deficient embeddings."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scorer_outputs import deficient, made, real

from embedood import models, outputs, runtime, scorers
from embedood.splits import Part

runtime.import_torchvision()
detector = pytest.importorskip("pytorch_ood.detector")


@pytest.fixture(autouse=True)
def double():
    """Let the oracle compute in float64 wherever it does not ask for float32 itself."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


SOURCES = {"made": made, "real": real, "deficient": deficient}
FULL_RANK = ("made", "real")


def close(ours, theirs):
    theirs = np.asarray(theirs, np.float64)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).mean())


def parts(source):
    """Train, validation and test outputs; the test holds known and unseen."""
    known = [SOURCES[source](seed=seed) for seed in range(3)]
    unseen = SOURCES[source](n=100, unseen=True)
    columns = {f: np.concatenate([getattr(o, f) for o in (known[2], unseen)])
               for f in ("logits", "embeddings", "labels")}  # fmt: skip
    test = outputs.Outputs(**columns, head_weight=unseen.head_weight, head_bias=unseen.head_bias)
    return known[0], known[1], test


def dense(o):
    """With a little noise, so that no activation is constant within a class."""
    noise = np.random.default_rng(len(o)).normal(size=o.embeddings.shape)
    return replace(o, embeddings=o.embeddings + 0.1 * noise)


def tensors(*arrays):
    return [torch.from_numpy(np.ascontiguousarray(a)) for a in arrays]


def head_of(o):
    weight, bias = tensors(o.head_weight, o.head_bias)
    head = torch.nn.Linear(weight.shape[1], weight.shape[0])
    head.weight.data, head.bias.data = weight, bias
    return head


def float32_head_of(o):
    return head_of(o).float()


LOGITS = {
    "max_softmax": (lambda: detector.MaxSoftmax(None), lambda s: s + 1),
    "max_logit": (lambda: detector.MaxLogit(None), None),
    "energy": (lambda: detector.EnergyBased(None), None),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", LOGITS)
def test_scores_from_logits(name, source):
    test = parts(source)[2]
    theirs = LOGITS[name][0]().predict_logits(*tensors(test.logits)).numpy()
    turn = LOGITS[name][1]
    close(scorers.make(name).score(test), turn(theirs) if turn else theirs)


@pytest.mark.parametrize("source", SOURCES)
def test_entropy_but_for_their_clip_of_p_at_1e7(source):
    test = parts(source)[2]
    theirs = detector.Entropy(None).predict_logits(*tensors(test.logits)).numpy()
    clip = test.logits.shape[1] * -1e-7 * np.log(1e-7)
    np.testing.assert_allclose(scorers.Entropy().score(test), theirs, rtol=1e-4, atol=clip)


@pytest.mark.parametrize("source", SOURCES)
def test_gen_is_theirs_times_m_where_they_clamp_nothing(source):
    test = parts(source)[2]
    theirs = detector.GEN(None, gamma=0.1, M=3).predict_logits(*tensors(test.logits)).numpy()
    p = test.probabilities
    untouched = np.sort(p, 1)[:, -3] > 1e-6
    untouched &= p.max(1) < 1 - 1e-6
    assert untouched.sum() > 50
    ours = scorers.GEN(gamma=0.1, largest=3).score(test)
    close(ours[untouched], 3 * theirs[untouched])


@pytest.mark.parametrize("source", SOURCES)
def test_temperature_softmax(source):
    _, validation, test = parts(source)
    ours = scorers.TemperatureSoftmax().calibrate(validation)
    logits, labels = tensors(validation.logits, validation.labels)
    theirs = detector.TemperatureScaling(None).fit_logits(logits, labels)

    def loss(t):
        return torch.nn.functional.cross_entropy(logits / t, labels).item()

    assert loss(ours.temperature_) <= loss(theirs.t.detach()) + 1e-9, (
        "their few steps end above our minimum"
    )
    theirs.t.data = torch.tensor(float(ours.temperature_))
    same_t = theirs.predict_logits(*tensors(test.logits)).detach().numpy()
    close(ours.score(test), same_t + 1)


@pytest.mark.parametrize("source", SOURCES)
def test_kl_matching(source):
    _, validation, test = parts(source)
    logits, labels = tensors(validation.logits, validation.labels)
    theirs = detector.KLMatching(None).fit_logits(logits, labels)
    ours = scorers.KLMatching().calibrate(validation)
    close(ours.score(test), theirs.predict_logits(*tensors(test.logits)))


@pytest.mark.parametrize("source", FULL_RANK)
def test_mahalanobis_is_theirs_times_2n_and_relative_times_n(source):
    train, _, test = parts(source)
    z, y, at = tensors(train.embeddings, train.labels, test.embeddings)
    theirs = detector.Mahalanobis(None).fit_features(z, y).predict_features(at)
    close(scorers.Mahalanobis(shrinkage=0).fit(train).score(test), 2 * len(train) * theirs)
    theirs = detector.RMD(None).fit_features(z, y).predict_features(at)
    ours = scorers.Mahalanobis(relative=True, shrinkage=0).fit(train).score(test)
    close(ours, len(train) * theirs)


@pytest.mark.parametrize("source", FULL_RANK)
def test_full_class_gaussians_are_their_gmm(source):
    train, _, test = (dense(part) for part in parts(source))
    z, y, at = tensors(train.embeddings, train.labels, test.embeddings)
    theirs = detector.GMM(None, reg=0).fit_features(z, y).predict_features(at)
    close(scorers.ClassGaussians("full", shrinkage=0).fit(train).score(test), theirs)


@pytest.mark.parametrize("source", SOURCES)
def test_nearest_neighbour(source):
    train, _, test = parts(source)
    z, y, at = tensors(train.embeddings, train.labels, test.embeddings)
    theirs = detector.KNN(None, k=7).fit_features(z, y).predict_features(at)
    close(scorers.NearestNeighbour(k=7).fit(train).score(test), theirs)


@pytest.mark.parametrize("source", SOURCES)
def test_vim(source):
    train, _, test = parts(source)
    z, y, at, w, b = tensors(
        train.embeddings, train.labels, test.embeddings, train.head_weight, train.head_bias
    )
    theirs = detector.ViM(None, d=6, w=w, b=b).fit_features(z, y).predict_features(at)
    close(scorers.ViM(d=6).fit(train).score(test), theirs)


@pytest.mark.parametrize("source", SOURCES)
def test_she(source):
    train, _, test = parts(source)
    z, y, at = tensors(train.embeddings, train.labels, test.embeddings)
    theirs = detector.SHE(None, head_of(train)).fit_features(z, y).predict_features(at)
    close(scorers.SHE().fit(train).score(test), theirs.detach())


@pytest.mark.parametrize("source", SOURCES)
def test_nnguide(source):
    train, _, test = parts(source)
    z, y, at = tensors(train.embeddings, train.labels, test.embeddings)
    theirs = detector.NNGuide(None, float32_head_of(train), k=7).fit_features(z, y)
    close(scorers.NNGuide(k=7).fit(train).score(test), theirs.predict_features(at.float()).detach())


@pytest.mark.parametrize("source", SOURCES)
def test_fdbd(source):
    train, _, test = parts(source)
    z, at = tensors(train.embeddings, test.embeddings)
    theirs = detector.fDBD(None, float32_head_of(train)).fit_features(z)
    close(scorers.FDBD().fit(train).score(test), theirs.predict_features(at))


@pytest.mark.parametrize("source", SOURCES)
def test_react(source):
    train, _, test = parts(source)
    z, y, at = tensors(train.embeddings, train.labels, test.embeddings)
    theirs = detector.ReAct(None, head_of(train), percentile=0.9).fit_feature_maps(z, y)
    close(scorers.ReAct(90).fit(train).score(test), theirs.predict_feature_maps(at))


@pytest.mark.parametrize("source", SOURCES)
def test_dice(source):
    torch.set_default_dtype(torch.float32)  # as their quantile wants it
    train, _, test = parts(source)
    z, y, at, w, b = tensors(
        train.embeddings, train.labels, test.embeddings, train.head_weight, train.head_bias
    )
    theirs = detector.DICE(None, w, b, p=0.7).fit_features(z, y).predict_features(at)
    close(scorers.DICE(70).fit(train).score(test), theirs)


def without_ties(z, percentile):
    """Rows whose k-th largest activation is above the next: elsewhere "the largest" is not unique."""
    kept = z.shape[1] - round(z.shape[1] * percentile / 100)
    ordered = -np.sort(-z, axis=1)
    return ordered[:, kept - 1] > ordered[:, kept]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("percentile", [65, 80])
def test_ash_and_scale(source, percentile):
    test = parts(source)[2]
    test = test[without_ties(test.embeddings, percentile)]
    assert len(test) > 100
    head = torch.nn.Sequential(torch.nn.Flatten(), head_of(test))
    (maps,) = tensors(test.embeddings[:, :, None, None])
    for ours, theirs in [
        (scorers.ASH("s", percentile), detector.ASH(None, head, "ash-s", percentile / 100)),
        (scorers.ASH("b", percentile), detector.ASH(None, head, "ash-b", percentile / 100)),
        (scorers.SCALE(percentile), detector.SCALE(None, head, percentile / 100)),
    ]:
        close(ours.score(test), theirs.predict_feature_maps(maps))


def test_odin():
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    network = models.CompactClassifier(9, width=4).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 1, 28, 28), dtype=np.uint8)
    seen = outputs.compute(
        network, Part(pixels, np.zeros(20, int), np.arange(20)), odin_epsilon=0.05
    )
    theirs = detector.ODIN(lambda x: network(x).logits, eps=0.05)
    expected = theirs.predict(torch.from_numpy(pixels).float() / 255).detach().numpy() + 1
    ours = scorers.ODIN().score(seen)
    np.testing.assert_allclose(ours, expected, rtol=1e-6)
    plain = scorers.ODIN().score(replace(seen, perturbed_logits=seen.logits))
    assert np.ptp(ours) > 0
    assert (ours < plain).mean() > 0.9, "the step makes the predicted class surer"
