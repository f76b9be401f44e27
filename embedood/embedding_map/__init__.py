"""A map of an embedding to explore: one HTML file that needs no network.

`write(MapData(...), "map.html")` makes the file, `plot_map(data)` a still picture of the same. The
two coordinates of an image come from elsewhere, PCA or UMAP, and are only for looking: scores,
neighbours and clusters belong in the embedding space.
"""

from embedood.embedding_map.data import MapData, Neighbours
from embedood.embedding_map.page import MAX_BYTES, write
from embedood.embedding_map.still import plot_map

__all__ = ["MAX_BYTES", "MapData", "Neighbours", "plot_map", "write"]
