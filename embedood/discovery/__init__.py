"""New classes in a stream of known and unseen rows: detect, count, cluster, name.

`Discovery().fit(train, validation).discover(outputs)` does all of it. The stages alone: `cluster(name,
embeddings, k)`, with `CLUSTERERS` as its table, and `estimate(name, embeddings)`, with the
estimators of the number of classes in `counting` and `probes`.
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

__all__ = [
    "CLUSTERERS",
    "ESTIMATORS",
    "Discovered",
    "Discovery",
    "Estimate",
    "KMeansRuns",
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
