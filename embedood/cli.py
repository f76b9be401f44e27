"""The command ``embedood``: run, train, check, publish, build the book, show results, score a file."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import embedood
from embedood import batch
from embedood.results import ResultsError, project_root, write_json


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status. Known errors are told in one message."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if os.environ.get("EMBEDOOD_ENGINE"):
        _end_with_parent()
    try:
        return int(options.command(options) or 0)
    except (batch.BatchError, ResultsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the next run continues from here", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="embedood", description=__doc__)
    parser.add_argument("--version", action="version", version=f"embedood {embedood.__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    run = _command(commands, "run", run_notebook, "execute one notebook")
    run.add_argument("notebook", help="name or number, such as 03")
    _add_profile(run)
    _add_overrides(run)
    train = _command(commands, "train", train_preset, "train one model into the run cache")
    train.add_argument("preset")
    origin = train.add_mutually_exclusive_group(required=True)
    origin.add_argument("--notebook", help="use its parameters under the profile")
    origin.add_argument("--parameters", type=json.loads, help="JSON such as '{\"width\": 16}'")
    _add_profile(train)
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--marker", type=Path, help="file to write when done")
    train.add_argument("--log", type=Path, help="file for the outcome, or the traceback")
    check = _command(commands, "check", check_request, "check a request without running it")
    check.add_argument("notebooks", nargs="*", help="names or numbers; all without")
    _add_profile(check)
    _add_overrides(check)
    publish = _command(commands, "publish", publish_results, "copy results into the book")
    publish.add_argument("notebooks", nargs="*", help="names or numbers; all without")
    _add_profile(publish)
    book = _command(commands, "book", build_book, "render the book, executing no chapter")
    book.add_argument("--profile", help="show the results of this profile, not the published ones")
    status = _command(commands, "status", show_status, "show where results lie")
    status.add_argument("--profile", help="only this profile")
    _add_score(commands)
    return parser


ARRAYS = """\
arrays of the file, as numpy.savez writes them; N rows in each part, C known classes:
  validation_logits  N×C    known classes only; sets the threshold
  test_logits        N×C    the rows to decide on
  test_labels        N      optional: 0 … C−1, or −1 for unseen; then the summary judges
  train_embeddings   N×D    for scores that look at embeddings, as are
  validation_embeddings, test_embeddings
  train_labels       N      for scores that learn from training rows; train_logits for some
  validation_labels  N      for scores that learn from validation rows, then half of them
  outliers_logits, outliers_embeddings    pseudo-OOD, for fusion_logistic only
  head_weight C×D, head_bias C            of the last layer, for vim, fdbd, react, dice and their like
What the scorer does not need may be missing. Without test_logits no class is told.

columns of the answer:
  row, class (−1 = unseen), score (higher = more unusual), threshold, p_value

The table goes to --out or standard output, the summary to standard error. In it, "known rejected,
were 95 % found" is the share of known rows above the threshold that finds 95 % of the unseen: the
false-positive rate at 95 % true positives, unseen positive.
"""


def _add_score(commands: Any) -> None:
    text = "decide known or unseen, row by row, from your own network's outputs"
    score = _command(commands, "score", score_rows, text)
    score.formatter_class, score.epilog = argparse.RawDescriptionHelpFormatter, ARRAYS
    score.add_argument("file", type=Path, help=".npz file with the arrays below")
    score.add_argument(
        "--scorer", default="energy", help="default: energy; an unknown name lists them all"
    )
    score.add_argument(
        "--false-alarm", type=float, default=0.05, metavar="RATE",
        help="share of known rows that may be taken for unseen (default: 0.05)",
    )  # fmt: skip
    score.add_argument("--out", type=Path, help="a .csv or .parquet file (default: CSV, shown)")


def _command(commands: Any, name: str, function: Any, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=f"{text}.")
    parser.set_defaults(command=function)
    return parser


def _add_profile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", default="quick", help="smoke, quick, full or gpu")


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, help="how many seeds: 0 to this number minus one")
    parser.add_argument(
        "-p", dest="set", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
        help="replace one parameter",
    )  # fmt: skip


def _overrides(options: argparse.Namespace) -> dict[str, Any]:
    given = dict(options.set)
    return given if options.seeds is None else given | {"seeds": options.seeds}


def run_notebook(options: argparse.Namespace) -> None:
    """Execute one notebook and say where its results lie."""
    place, live = _place(options.notebook)
    job = batch.execute(options.notebook, options.profile, _overrides(options), None, place, live)
    if not os.environ.get("EMBEDOOD_ENGINE"):
        print(f"notebook {job.executed}\nnumbers  {job.numbers}\nfigures  {job.figures}")


def _place(notebook: str) -> tuple[str, bool]:
    """Under an engine, other notebooks may share the terminal; their names are in a variable."""
    others = os.environ.get("EMBEDOOD_NOTEBOOKS", "").split()
    number = others.index(notebook) + 1 if notebook in others else 1
    return f"notebook {number} of {max(len(others), 1)}", len(others) < 2


def train_preset(options: argparse.Namespace) -> None:
    """Fill the run cache with one training."""
    parameters = options.parameters
    if options.notebook:
        parameters = batch.validate(options.notebook, options.profile).training
    place = batch.place_among_models(options.marker)
    run = batch.trained(options.preset, parameters, options.seed, options.log, place)
    if options.marker:
        write_json(options.marker, run)


def check_request(options: argparse.Namespace) -> None:
    """Refuse an impossible request before anything starts."""
    jobs = batch.validate_all(options.notebooks, options.profile, _overrides(options))
    print(f"profile {options.profile}: {', '.join(job.notebook for job in jobs)} can run")


def publish_results(options: argparse.Namespace) -> None:
    """Copy executed outputs and numbers into the book's sources."""
    for path in batch.publish(options.profile, options.notebooks):
        print(path)


def build_book(options: argparse.Namespace) -> None:
    """Render the book and say where it is."""
    print(f"open {batch.build_book(options.profile)}")


def show_status(options: argparse.Namespace) -> None:
    """List executed notebooks, numbers and figures, a line each."""
    build = project_root() / "build"
    folders = [build / options.profile] if options.profile else sorted(build.glob("*/"))
    shown = 0
    for folder in folders:
        for notebook in batch.notebook_names():
            shown += _show_outputs(folder, notebook)
    if not shown:
        print(f"nothing executed yet under {build}: run 'make figures'")


def _show_outputs(folder: Path, notebook: str) -> int:
    executed = folder / f"{notebook}.ipynb"
    failed = folder / f"{notebook}.failed.ipynb"
    if not executed.is_file():
        if failed.is_file():
            print(f"{notebook} ({folder.name}): failed, see {failed}")
        return int(failed.is_file())
    figures = len(list((folder / "figures").glob(f"{notebook}-*.png")))
    print(
        f"{notebook} ({folder.name})\n"
        f"  notebook {executed}\n"
        f"  numbers  {executed.with_suffix('.json')}\n"
        f"  figures  {folder / 'figures'}/{notebook}-*.png ({figures})"
    )
    return 1


def score_rows(options: argparse.Namespace) -> int:
    """Write a table of decisions; what is wrong with the file or the request is told in one line."""
    from embedood import files  # brings torch, which is slow to import

    try:
        if options.out:
            files.refuse_bad_target(options.out)
        table, summary = files.score_file(options.file, options.scorer, options.false_alarm)
        if options.out:
            files.write(table, options.out)
        else:
            table.to_csv(sys.stdout, index=False)
            sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, ValueError) as error:
        print("error:", *str(error).split(), file=sys.stderr)  # in one line
        return 1
    print(summary, file=sys.stderr)
    return 0


def _end_with_parent() -> None:
    """End this process, and with it its kernel, when the engine that started it is killed."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
