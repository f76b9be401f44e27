"""What says how to install, run and cite the project: each file true, and in step with the others."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import embedood

ROOT = Path(__file__).parents[1]
GUIDES = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "workflow/README.md",
    "book/how_to_run.md",
)
PROMISED = {
    "jupyter",
    "jupyter-book",
    "matplotlib",
    "nbval",
    "papermill",
    "seaborn",
    "torch",
    "torchvision",
    "umap-learn",
}


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def parsed(name: str) -> Any:
    return yaml.safe_load(text(name))


PROJECT = tomllib.loads(text("pyproject.toml"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def by_name(lines: Iterable[str]) -> dict[str, Requirement]:
    found = [Requirement(line) for line in lines]
    named = {canonicalize_name(requirement.name): requirement for requirement in found}
    assert len(named) == len(found), "a package is named twice"
    return named


CORE = by_name(PROJECT["dependencies"])
DECLARED = CORE | by_name(line for extra in EXTRAS if extra != "all" for line in EXTRAS[extra])
PINS = by_name(line for line in text("constraints.txt").splitlines() if line[:1] not in "#")
ENVIRONMENT = parsed("environment.yml")["dependencies"]
PIP_LINES = next(item["pip"] for item in ENVIRONMENT if isinstance(item, dict))
NAMED = by_name(line for line in PIP_LINES if not line.startswith("-"))


def unmet(requirement: Requirement, pins: dict[str, Requirement]) -> str:
    """Say why the pinned version does not satisfy a requirement, or nothing."""
    pin = pins.get(canonicalize_name(requirement.name))
    if pin is None:
        return f"{requirement.name} has no pin"
    version = str(pin.specifier).removeprefix("==")
    return "" if requirement.specifier.contains(version) else f"{version} is not {requirement}"


def test_constraints_hold_one_exact_version_a_package():
    exact = re.compile(r"==[0-9][0-9a-z.]*")
    assert [str(pin) for pin in PINS.values() if not exact.fullmatch(str(pin.specifier))] == []


@pytest.mark.parametrize("package", sorted(DECLARED))
def test_the_pin_of_every_dependency_lies_in_its_range(package):
    assert unmet(DECLARED[package], PINS) == ""


@pytest.mark.parametrize(
    ("line", "complaint"),
    [("a>=1,<2", ""), ("A_b>=2", "1.5 is not A_b>=2"), ("c", "c has no pin")],
)
def test_a_pin_that_does_not_fit_is_noticed(line, complaint):
    assert unmet(Requirement(line), by_name(["a==1.0", "a-b==1.5"])) == complaint


def test_the_extra_all_is_all_other_extras():
    (everything,) = (Requirement(line) for line in EXTRAS["all"])
    assert everything.name == PROJECT["name"]
    assert everything.extras == set(EXTRAS) - {"all"}


@pytest.mark.parametrize("package", sorted(NAMED))
def test_conda_gets_the_range_of_pyproject_and_a_pin_within(package):
    assert NAMED[package].specifier == DECLARED[package].specifier
    assert unmet(NAMED[package], PINS) == ""


def test_the_promised_packages_are_in_both_ways_to_install():
    assert set(NAMED) >= PROMISED
    assert set(DECLARED) >= PROMISED


def test_conda_installs_the_package_itself_with_the_pins():
    assert {"-c constraints.txt", "-e .[all]"} <= set(PIP_LINES)


def test_one_python_is_meant_everywhere():
    (wanted,) = (item for item in ENVIRONMENT if str(item).startswith("python="))
    version = wanted.removeprefix("python=")
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(version)
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]
    assert parsed(".github/workflows/test.yml")["jobs"]["test"]["container"] in (
        f"python:{version}-bookworm",
    )
    steps = parsed(".github/workflows/book.yml")["jobs"]["build"]["steps"]
    assert [s["with"]["python-version"] for s in steps if "setup-python" in s.get("uses", "")] == [
        version
    ]


def everything_under(names: Iterable[str]) -> set[str]:
    """The packages that installing these brings along, read from what is installed here."""
    reached: set[str] = set()
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in reached:
            continue
        reached.add(name)
        needed = [Requirement(line) for line in metadata.requires(name) or []]
        waiting += [r.name for r in needed if not r.marker or r.marker.evaluate({"extra": ""})]
    return reached


def test_the_core_leaves_a_running_kernel_alone():
    """Colab's kernel breaks when IPython or ipykernel is replaced under it."""
    kernel = {"ipykernel", "ipython", "jupyter-client", "tornado"}
    assert kernel <= everything_under(["ipykernel"])
    assert everything_under(CORE) & kernel == set()


def test_the_citation_is_this_version_of_this_project():
    citation = parsed("CITATION.cff")
    assert str(citation["version"]) == embedood.__version__
    assert citation["license"] == PROJECT["license"]
    assert citation["repository-code"] == PROJECT["urls"]["Source"]
    assert citation["authors"] == PROJECT["authors"]


def test_the_version_has_its_place_in_the_changelog():
    headings = re.findall(r"^## \[(.+?)\]", text("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    released = [Version(heading) for heading in headings[1:]]
    assert released == sorted(released, reverse=True)
    assert all(version <= Version(embedood.__version__) for version in released)


def links(guide: str) -> list[str]:
    targets = re.findall(r"\]\(([^)\s]+)\)", text(guide))
    return [target.partition("#")[0] for target in targets if ":" not in target]


@pytest.mark.parametrize("guide", GUIDES)
def test_links_to_files_lead_somewhere(guide):
    folder = (ROOT / guide).parent
    assert [target for target in links(guide) if not (folder / target).exists()] == []


def named_paths(guide: str) -> list[str]:
    """Paths in backticks into folders that a clone has."""
    words = re.findall(
        r"`((?:\.github|benchmarks|book|embedood|tests|workflow)/[\w./-]*)`", text(guide)
    )
    return [word for word in words if "04_name" not in word]


@pytest.mark.parametrize("guide", GUIDES)
def test_paths_in_the_guides_exist(guide):
    assert [path for path in named_paths(guide) if not (ROOT / path).exists()] == []


def test_the_guides_have_links_and_paths_to_check():
    assert "pyproject.toml" in links("CONTRIBUTING.md")
    assert "workflow/README.md" in named_paths("README.md")


TARGETS = set(re.findall(r"^([a-z]+):", text("Makefile"), re.MULTILINE))


def code_in(guide: str) -> str:
    return "\n".join(re.findall(r"```.*?```|`[^`]+`", text(guide), re.DOTALL))


@pytest.mark.parametrize("guide", GUIDES)
def test_make_targets_in_the_guides_exist(guide):
    assert set(re.findall(r"\bmake ([a-z]+)", code_in(guide))) <= TARGETS


def test_the_readme_names_the_commands_that_matter():
    assert {"figures", "test", "book", "serve"} <= set(
        re.findall(r"\bmake ([a-z]+)", code_in("README.md"))
    )


def commands(workflow: str) -> list[str]:
    jobs = parsed(f".github/workflows/{workflow}.yml")["jobs"].values()
    return [step["run"] for job in jobs for step in job["steps"] if "run" in step]


@pytest.mark.parametrize(("workflow", "target"), [("test", "test"), ("book", "book")])
def test_workflows_call_targets_that_exist(workflow, target):
    called = re.findall(r"\bmake ([a-z]+)", "\n".join(commands(workflow)))
    assert called == [target]
    assert target in TARGETS


def test_all_workflows_are_known_here():
    found = {path.name for path in (ROOT / ".github" / "workflows").iterdir()}
    assert found == {"book.yml", "test.yml"}


def test_pushes_and_pull_requests_are_tested():
    # YAML 1.1 reads the key `on` as true.
    assert set(parsed(".github/workflows/test.yml")[True]) == {"push", "pull_request"}
    assert set(parsed(".github/workflows/book.yml")[True]) == {"push"}


def test_only_main_is_deployed_and_only_the_deployment_may_write():
    book = parsed(".github/workflows/book.yml")
    assert book["permissions"] == {"contents": "read"}
    assert "permissions" not in book["jobs"]["build"]
    deploy = book["jobs"]["deploy"]
    assert deploy["if"] == "github.ref == 'refs/heads/main'"
    assert deploy["permissions"] == {"pages": "write", "id-token": "write"}
    (upload,) = (s for s in book["jobs"]["build"]["steps"] if "pages-artifact" in s.get("uses", ""))
    assert upload["with"]["path"] in text("Makefile")


def test_hooks_before_a_commit_are_those_of_make_lint():
    hooks = [hook for repo in parsed(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", text("Makefile"), re.MULTILINE)
    assert recipe
    lint = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]
    assert [hook["entry"] for hook in hooks if "entry" in hook] == lint
    assert not [hook["id"] for hook in hooks if "strip" in hook["id"]], "outputs are published"
