"""New classes in a stream of known and unseen rows: detect, count, cluster, name.

`Discovery().fit(train, validation).discover(outputs)` does all of it. The stages alone: `cluster(name,
embeddings, k)`, with `CLUSTERERS` as its table, and `estimate(name, embeddings)`, with the
estimators of the number of classes in `counting` and `probes`. `StreamDetector` detects by what a whole
stream has in common, where the first stage of `Discovery` judges each row alone.
"""

from embedood.discovery.clustering import CLUSTERERS, cluster
from embedood.discovery.counting import (
    ESTIMATORS,
    Estimate,
    bic,
    dirichlet_process,
    gap,
    median_estimate,
    silhouette,
)
from embedood.discovery.kmeans import KMeansRuns, semi_supervised_kmeans, spherical_kmeans
from embedood.discovery.pipeline import Discovered, Discovery
from embedood.discovery.probes import estimate, probe_classes
from embedood.discovery.stream import OpenMixture, StreamDetector

__all__ = [
    "CLUSTERERS",
    "ESTIMATORS",
    "Discovered",
    "Discovery",
    "Estimate",
    "KMeansRuns",
    "OpenMixture",
    "StreamDetector",
    "bic",
    "cluster",
    "dirichlet_process",
    "estimate",
    "gap",
    "median_estimate",
    "probe_classes",
    "semi_supervised_kmeans",
    "silhouette",
    "spherical_kmeans",
]
