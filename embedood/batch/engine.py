"""The papermill engine of the batch: papermill's own, which also tells how far it is."""

from __future__ import annotations

from typing import Any

from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, NotebookExecutionManager
from papermill.log import logger

from embedood.batch.progress import Progress


class ReportingEngine(NBClientEngine):
    """Runs the cells in one kernel and reports each start and end to a ``Progress``."""

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: NotebookExecutionManager,
        kernel_name: str,
        *,
        progress: Progress,
        kernel: dict[str, Any],
        start_timeout: int = 60,
        stdout_file: Any = None,
        stderr_file: Any = None,
        **unused: Any,
    ) -> Any:
        """Execute with ``kernel`` (environment, stream for its own messages) as start options."""
        client = ReportingClient(
            nb_man,
            kernel_name=kernel_name,
            startup_timeout=start_timeout,
            timeout=None,
            log=logger,
            stdout_file=stdout_file,
            stderr_file=stderr_file,
        )
        client.progress = progress
        return client.execute(**kernel)


class ReportingClient(PapermillNotebookClient):
    """A notebook client that reports each cell."""

    progress: Progress

    def execute_cell(self, cell: Any, cell_index: int, *args: Any, **kwargs: Any) -> Any:
        """Execute one cell between two reports."""
        self.progress.cell_starts(cell)
        try:
            return super().execute_cell(cell, cell_index, *args, **kwargs)
        finally:
            self.progress.cell_ends(cell)
