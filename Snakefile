# notebook × profile × seeds. Each rule calls one command of the package, which writes its outputs
# whole or not at all. What a job depends on is compared by content, not by date, so that a checkout
# repeats nothing: a digest of it lies in a file that is written when the digest changes.
import os
import sys

from embedood.batch import BatchError, jobs
from snakemake.exceptions import WorkflowError

PROFILE = str(config.get("profile", "quick"))
OVERRIDES = {"seeds": config["seeds"]} if "seeds" in config else {}
BUILD = f"build/{PROFILE}"
EMBEDOOD = f"exec {sys.executable} -m embedood.cli"

try:
    NAMES = str(config.get("notebooks") or "").split()
    JOBS = {job.notebook: job for job in jobs.validate_all(NAMES, PROFILE, OVERRIDES)}
except BatchError as error:
    raise WorkflowError(str(error)) from None

# The models of all notebooks, by name: equal experiments are trained once.
MODELS = {model.name: model for job in JOBS.values() for model in jobs.trainings(job)}

os.environ |= {
    "EMBEDOOD_ENGINE": "snakemake",
    "EMBEDOOD_NOTEBOOKS": " ".join(JOBS),
    "EMBEDOOD_MODELS": " ".join(MODELS),
}


wildcard_constraints:
    notebook="|".join(JOBS),
    model="[^/]+",


localrules:
    figures,


rule figures:
    input:
        expand(f"{BUILD}/{{notebook}}.{{kind}}", notebook=JOBS, kind=["ipynb", "json"]),


# A training uses all cores, so two never run at once on one machine.
rule train:
    output:
        f"{BUILD}/trained/{{model}}.json",
    log:
        f"{BUILD}/logs/train-{{model}}.log",
    params:
        preset=lambda w: MODELS[w.model].preset,
        seed=lambda w: MODELS[w.model].seed,
        parameters=lambda w: MODELS[w.model].parameters,
    threads: workflow.cores
    resources:
        mem_mb=8000,
        runtime=180,
    shell:
        "{EMBEDOOD} train {params.preset} --seed {params.seed}"
        " --parameters {params.parameters:q} --marker {output} --log {log}"


rule notebook:
    input:
        lambda w: jobs.noted_digest(JOBS[w.notebook], BUILD),
        lambda w: [f"{BUILD}/trained/{m.name}.json" for m in jobs.trainings(JOBS[w.notebook])],
    output:
        f"{BUILD}/{{notebook}}.ipynb",
        f"{BUILD}/{{notebook}}.json",
    log:
        f"{BUILD}/logs/{{notebook}}.log",
    params:
        seeds=lambda w: (
            f"--seeds {OVERRIDES['seeds']}"
            if OVERRIDES and "seeds" in JOBS[w.notebook].parameters
            else ""
        ),
    threads: 1
    resources:
        mem_mb=8000,
        runtime=120,
    shell:
        "{EMBEDOOD} run {wildcards.notebook} --profile {PROFILE} {params.seeds}"
