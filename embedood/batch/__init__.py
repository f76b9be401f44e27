"""Run notebooks unattended: check what is asked, execute, keep notebook, numbers and figures."""

from embedood.batch.execution import execute
from embedood.batch.jobs import (
    BatchError,
    Job,
    declared_parameters,
    notebook_names,
    validate,
    validate_all,
)
from embedood.batch.publishing import build_book, publish
from embedood.batch.training import place_among_models, trained

__all__ = [
    "BatchError",
    "Job",
    "build_book",
    "declared_parameters",
    "execute",
    "notebook_names",
    "place_among_models",
    "publish",
    "trained",
    "validate",
    "validate_all",
]
