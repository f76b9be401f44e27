# notebook × profile × seeds. Each rule calls one command of the package, which writes its outputs
# whole or not at all. What a job depends on is compared by content (params), not by date, so that
# a checkout repeats nothing.
import os

from embedood.batch import BatchError, jobs
from snakemake.exceptions import WorkflowError

PROFILE = str(config.get("profile", "quick"))
OVERRIDES = {"seeds": config["seeds"]} if "seeds" in config else {}
BUILD = f"build/{PROFILE}"

try:
    NAMES = str(config.get("notebooks") or "").split() or jobs.notebook_names()
    JOBS = {job.notebook: job for job in (jobs.validate(n, PROFILE, OVERRIDES) for n in NAMES)}
except BatchError as error:
    raise WorkflowError(str(error)) from None

# The models of all notebooks, by the name of their marker: notebooks with equal parameters share.
TRAINED = {
    jobs.training_name(job, preset, seed): (preset, seed, jobs.training_parameters(job))
    for job in JOBS.values()
    for preset in job.trains
    for seed in job.seeds
}

os.environ |= {"EMBEDOOD_ENGINE": "snakemake", "EMBEDOOD_NOTEBOOKS": " ".join(JOBS)}


wildcard_constraints:
    notebook="|".join(JOBS),


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
        package=jobs.package_digest(),
        preset=lambda w: TRAINED[w.model][0],
        seed=lambda w: TRAINED[w.model][1],
        parameters=lambda w: TRAINED[w.model][2],
    threads: workflow.cores
    resources:
        mem_mb=8000,
        runtime=180,
    shell:
        "exec embedood train {params.preset} --seed {params.seed}"
        " --parameters {params.parameters:q} --marker {output} --log {log}"


rule notebook:
    input:
        lambda w: [f"{BUILD}/trained/{m}.json" for m in jobs.training_names(JOBS[w.notebook])],
    output:
        f"{BUILD}/{{notebook}}.ipynb",
        f"{BUILD}/{{notebook}}.json",
    log:
        f"{BUILD}/logs/{{notebook}}.log",
    params:
        digest=lambda w: jobs.job_digest(JOBS[w.notebook]),
        seeds=f"--seeds {OVERRIDES['seeds']}" if OVERRIDES else "",
    threads: 1
    resources:
        mem_mb=8000,
        runtime=120,
    shell:
        "exec embedood run {wildcards.notebook} --profile {PROFILE} {params.seeds}"
