"""Stage 7: all numbers of a recipe, as ``results.json``, as Markdown, and for the report."""

import argparse
import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from recipes.common.config import unknown
from recipes.common.fidelity import Fidelity, fidelity
from recipes.common.plan import make_plan
from recipes.common.recipe import Recipe, read_resolved
from recipes.common.steps import STAGES, USAGE, Stamps
from recipes.common.tables import results_markdown
from recipes.common.work import WorkFolder
from seqdistill.assessment import assess_quality, assess_word_errors, read_best
from seqdistill.assessment.quality import METRICS
from seqdistill.errors import InputError
from seqdistill.files import atomic_write
from seqdistill.hypotheses import Hypothesis
from seqdistill.report import ReportInput, read_system
from seqdistill.report.groups import compare_by_group
from seqdistill.report.results import SystemResult, compute
from seqdistill.speech.manifest import read_manifest
from seqdistill.uncertainty.measures import MEASURES

SCHEMA = "seqdistill.recipe-results/1"
SENTENCE_METRICS = (*METRICS, "wer")  # those that the report has, too
PACKAGES = ("seqdistill", "torch", "fairseq-fixed", "sentencepiece", "sacrebleu", "jiwer", "numpy")


def assess(
    recipe: Recipe, work: WorkFolder, systems: Sequence[str] | None = None
) -> dict[str, Any]:
    """Compute everything that ``results.json`` holds.

    Args:
        recipe: what ran.
        work: where.
        systems: those that are assessed; None: all. The reference system is only read where it is
            not among them, and nothing is compared by group then.

    Raises:
        InputError: hypotheses are missing or do not fit together.
    """
    metric = recipe.assess.sentence_metric
    if metric not in SENTENCE_METRICS:
        raise unknown("metric", metric, SENTENCE_METRICS, "assess.sentence_metric")
    for measure in recipe.assess.measures:
        if measure not in MEASURES:
            raise InputError(
                f"assess.measures: unknown measure {measure!r}; known are {', '.join(MEASURES)}"
            )
    inputs = [
        read_system(
            name,
            work.decoded(name, "test"),
            {ood: work.decoded(name, ood) for ood in recipe.data.ood},
            forced=work.forced(name),
            forced_validation=work.forced(name, "valid"),
        )
        for name in systems or recipe.systems
    ]
    computed = compute(
        ReportInput(
            inputs,
            quality_metric=recipe.assess.sentence_metric,
            resamples=recipe.assess.resamples,
            seed=recipe.assess.seed,
        )
    )
    known = [result for result in computed if result.name == recipe.reference]
    reference_forced = known[0].system.forced if known else read_best(work.forced(recipe.reference))
    return {
        "schema": SCHEMA,
        "recipe": recipe.name,
        "scale": recipe.scale,
        "title": recipe.title,
        "seed": recipe.seed,
        "measures": recipe.assess.measures,
        "sentence_metric": recipe.assess.sentence_metric,
        "sets": recipe.data.ood,
        "tests": recipe.data.tests,
        "published": [asdict(published) for published in recipe.published],
        "left_out": recipe.left_out,
        "groups": _grouped(recipe, work, computed, known[0]) if known else [],
        "systems": {
            result.name: _system(recipe, work, result, reference_forced) for result in computed
        },
        "steps": step_records(recipe, work),
        "hardware": hardware(),
        "versions": versions(),
    }


def _system(
    recipe: Recipe,
    work: WorkFolder,
    result: SystemResult,
    reference_forced: Sequence[Hypothesis],
) -> dict[str, Any]:
    """The record of one system; what could not be computed is None."""
    likeness: Fidelity | None = None
    if result.name != recipe.reference:
        likeness = fidelity(
            result.system.forced,
            reference_forced,
            recipe.reference,
            resamples=recipe.assess.resamples,
            seed=recipe.assess.seed,
        )
    likelihood, calibration = result.likelihood, result.calibration
    names = (*recipe.data.tests, *recipe.data.ood)
    sets = {name: read_best(work.decoded(result.name, name)) for name in names}
    return {
        "label": recipe.systems[result.name].label,
        "model": asdict(result.model),
        "models": recipe.models_of(result.name),
        "quality": {
            "test": _quality(recipe, result.system.in_domain),
            **{name: _quality(recipe, hypotheses) for name, hypotheses in sets.items()},
        },
        "likelihood": likelihood and {**asdict(likelihood), "signature": likelihood.signature},
        "calibration": calibration
        and {
            "ece": calibration.ece,
            "confidence": calibration.confidence.tolist(),
            "accuracy": calibration.accuracy.tolist(),
            "count": calibration.count.tolist(),
            "signature": calibration.signature,
            "numbers": result.calibration_numbers and result.calibration_numbers.to_dict(),
            "temperature": _temperature(result),
            "temperature_problem": result.temperature_problem,
        },
        "fidelity": likeness and asdict(likeness),
        "ood": result.ood and result.ood.to_dict()["results"],
        "rejection": {
            measure: {"prr": found.prr and asdict(found.prr), "signature": found.signature}
            for measure, found in (result.rejection or {}).items()
        },
    }  # fmt: skip


def group_files(recipe: Recipe, work: WorkFolder) -> dict[str, Path]:
    """What students are compared by beside the length: training text, speakers of the test set."""
    if recipe.data.kind == "speech":
        speakers = work.prepared / "test.tsv"
        known = all(utterance.speaker is not None for utterance in read_manifest(speakers))
        return {"groups": speakers} if known else {}
    return {"training_text": work.text / f"train.{recipe.languages[1]}"}


def _grouped(
    recipe: Recipe, work: WorkFolder, results: Sequence[SystemResult], reference: SystemResult
) -> list[dict[str, Any]]:
    """Where systems differ from the reference system, a record for every kind of groups."""
    files = group_files(recipe, work)
    inputs = ReportInput(
        [result.system for result in results],
        quality_metric=recipe.assess.sentence_metric,
        resamples=recipe.assess.resamples,
        seed=recipe.assess.seed,
        training_text=files.get("training_text"),
        groups=files.get("groups"),
    )
    return [
        {
            "by": by,
            "errors": {result.name: numbers.to_dict() for _, result, numbers in errors},
            "likeness": {result.name: numbers.to_dict() for _, result, numbers in likeness},
        }
        for by, errors, likeness in compare_by_group(results, inputs, reference)
    ]


def _quality(recipe: Recipe, hypotheses: Sequence[Hypothesis]) -> dict[str, Any] | None:
    """Corpus BLEU and chrF2, or word errors where the recipe is about transcripts."""
    if recipe.assess.sentence_metric == "wer":
        errors = assess_word_errors(
            hypotheses, resamples=recipe.assess.resamples, seed=recipe.assess.seed
        )
        return None if errors is None else errors.to_dict()
    score = assess_quality(hypotheses)
    return None if score is None else asdict(score)


def _temperature(result: SystemResult) -> dict[str, Any] | None:
    """The fitted temperature, and calibration at it."""
    fitted, numbers = result.temperature, result.tempered_numbers
    if fitted is None or numbers is None:
        return None
    return {
        **asdict(fitted.temperature),
        "signature": fitted.signature,
        "numbers": numbers.to_dict(),
    }


def step_records(recipe: Recipe, work: WorkFolder) -> list[dict[str, Any]]:
    """What ran: command, commit and wall time of every step up to this one, from the stamps."""
    stamps = Stamps(work.root / "stamps")
    records = []
    for step in make_plan(recipe, work):
        stamp = stamps.read(step)
        if stamp is None or not stamp["finished"]:
            continue
        records.append(
            {
                "name": step.name,
                "stage": STAGES[step.stage],
                "command": shlex.join(stamp["command"]),
                **{
                    key: stamp.get(key)
                    for key in ("commit", "started", "seconds", "resumed", *USAGE)
                },
            }
        )
    return records


def hardware() -> dict[str, Any]:
    """What this ran on."""
    import torch

    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "accelerator": accelerator,
        "system": platform.system(),
    }


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that the numbers depend on."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def report_manifest(recipe: Recipe, work: WorkFolder, results: dict[str, Any]) -> dict[str, Any]:
    """Return what ``seqdistill report`` reads; its paths are relative to the work folder."""

    def decoded(system: str, name: str) -> str:
        return str(work.decoded(system, name).relative_to(work.root))

    systems = []
    for name, system in recipe.systems.items():
        record = results["systems"][name]
        likeness = record["fidelity"]
        scores = {} if likeness is None else {"|Δ ln p| to reference": likeness["log_prob_gap"]}
        systems.append(
            {
                "name": system.label,
                "in_domain": decoded(name, "test"),
                "out_of_domain": {ood: decoded(name, ood) for ood in recipe.data.ood},
                "forced": str(work.forced(name).relative_to(work.root)),
                "forced_validation": str(work.forced(name, "valid").relative_to(work.root)),
                "scores": scores,
            }
        )  # fmt: skip
    machine = results["hardware"]
    left_out = {"left out": "; ".join(f"{k}: {v}" for k, v in recipe.left_out.items())}
    settings = {
        "recipe": f"recipes/{recipe.name}, scale {recipe.scale}, seed {recipe.seed}",
        "reference system": recipe.systems[recipe.reference].label,
        "out-of-domain sets": "; ".join(f"{k}: {v}" for k, v in recipe.data.ood.items()),
        **(left_out if recipe.left_out else {}),
        "commit": ", ".join(sorted({s["commit"] or "unknown" for s in results["steps"]})),
        "hardware": machine["accelerator"] or f"{machine['processor']}, {machine['cores']} cores",
        "versions": ", ".join(f"{k} {v}" for k, v in results["versions"].items() if v),
    }
    files = {
        key: str(path.relative_to(work.root)) for key, path in group_files(recipe, work).items()
    }
    return {"title": recipe.title, "settings": settings, **files, "system": systems}


def _processor() -> str:
    """The processor's name; the architecture where the system does not tell."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of stage 7: assess a work folder; returns the exit status."""
    parser = argparse.ArgumentParser(description="assess what a recipe decoded")
    parser.add_argument("work", type=Path, metavar="FOLDER", help="the recipe's work folder")
    work = WorkFolder(parser.parse_args(arguments).work)
    try:
        recipe = read_resolved(work.recipe)
        results = assess(recipe, work)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for path, content in (
        (work.results, json.dumps(results, indent=2, ensure_ascii=False) + "\n"),
        (
            work.manifest,
            json.dumps(report_manifest(recipe, work, results), indent=2, ensure_ascii=False) + "\n",
        ),
        (work.table, results_markdown(results)),
    ):
        with atomic_write(path) as handle:
            handle.write(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
