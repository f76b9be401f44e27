"""Two workers share the cores of a small machine, so each, and what it starts, computes in one thread.

With more, the threads of one wait for those of the other: two chapters side by side took three times
as long on two cores.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
# UMAP's numba sets the threads of OpenMP for all of the process, torch included.
os.environ.setdefault("NUMBA_NUM_THREADS", "1")
