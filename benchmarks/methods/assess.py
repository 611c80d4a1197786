"""``python -m benchmarks.methods.assess WORK RUN``: the numbers and the costs of one run."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.methods.runs import RunFolder
from benchmarks.methods.samples import bleu, mean_auroc
from recipes.common.assess import assess
from recipes.common.recipe import Recipe, build_resolved
from recipes.common.steps import HASHES
from recipes.common.work import WorkFolder
from seqdistill.assessment import read_best
from seqdistill.assessment.bootstrap import Estimate
from seqdistill.errors import InputError
from seqdistill.files import atomic_write

SCHEMA = "seqdistill.method-results/1"


def assess_run(work: WorkFolder, name: str) -> dict[str, Any]:
    """Return what a run's ``results.json`` holds: the recipe's record of it, metrics and costs.

    Raises:
        InputError: hypotheses are missing or do not fit together.
    """
    folder = RunFolder(work.root / "runs" / name)
    content = json.loads(folder.description.read_text(encoding="utf-8"))
    recipe = build_resolved(content["recipe"])
    results = assess(recipe, work, [name])
    system = results["systems"][name]
    stamps = read_stamps(work)
    cost = costs(recipe, work, name, content["steps"], stamps)
    found = {**quality(recipe, work, name, system), **token_metrics(system)}
    for measure in content["detection"]:
        found |= detection_metrics(recipe, work, name, system, measure)
    for measure in content["rejection"]:
        ratio = system["rejection"].get(measure, {}).get("prr")
        found[f"prr:{measure}"] = _estimate(ratio, 100.0)
    found |= {metric: Estimate(value) for metric, value in cost.items() if value is not None}
    return {
        "schema": SCHEMA,
        "run": name,
        "updates": content["updates"],
        "metrics": {metric: asdict(value) for metric, value in found.items() if value is not None},
        "resumed": [step for step in content["steps"]["training"] if stamps[step]["resumed"]],
        "recipe": results,
    }


def quality(
    recipe: Recipe, work: WorkFolder, name: str, system: Mapping[str, Any]
) -> dict[str, Estimate | None]:
    """BLEU and chrF2 of the test set, or its word errors; none without references."""
    score = system["quality"]["test"]
    if score is None:
        return {}
    if recipe.assess.sentence_metric == "wer":
        return {rate: _estimate(score["rates"][rate], 100.0) for rate in ("wer", "cer")}
    rows = read_best(work.decoded(name, "test"))
    resampled = bleu(rows, score["bleu"]["value"], recipe.assess.resamples, recipe.assess.seed)
    return {"bleu": resampled.estimate, "chrf": Estimate(score["chrf"]["value"])}


def token_metrics(system: Mapping[str, Any]) -> dict[str, Estimate | None]:
    """Likelihood, calibration and likeness to the ensemble along the references."""
    numbers = (system["calibration"] or {}).get("numbers") or {}
    likeness = system["fidelity"] or {}
    return {
        "nll": _estimate(numbers.get("nll")),
        "ece": _estimate(numbers.get("ece_equal_mass"), 100.0),
        "kl": _estimate(likeness.get("kl_divergence")),
        "agreement": _estimate(likeness.get("top1_agreement"), 100.0),
    }


def detection_metrics(
    recipe: Recipe, work: WorkFolder, name: str, system: Mapping[str, Any], measure: str
) -> dict[str, Estimate | None]:
    """Detection of every set and on average by one measure (in %).

    What the model cannot measure is left away.
    """
    found: dict[str, Estimate | None] = {}
    entries = [one for one in system["ood"] or [] if one["measure"] == measure]
    for one in entries:
        found[f"auroc:{measure}:{one['set']}"] = _estimate(one["auroc"], 100.0)
    if entries:
        inside = read_best(work.decoded(name, "test"))
        outside = [read_best(work.decoded(name, one["set"])) for one in entries]
        found[f"auroc:{measure}:mean"] = mean_auroc(
            [row.uncertainty[measure] for row in inside],
            [[row.uncertainty[measure] for row in rows] for rows in outside],
            recipe.assess.resamples,
            recipe.assess.seed,
        ).estimate
    return found


def costs(
    recipe: Recipe,
    work: WorkFolder,
    name: str,
    steps: Mapping[str, Sequence[str]],
    stamps: Mapping[str, Mapping[str, Any]],
) -> dict[str, float | None]:
    """Return what stores, training and decoding took, from the stamps of their steps.

    CPU time is user and system time of the processes, start of Python and loading included. A
    baseline has no training of its own; what decodes another's student has that one's.
    """
    stores, training, decoding = (
        [stamps[step] for step in steps[part]] for part in ("stores", "training", "decoding")
    )
    names = ("test", *recipe.data.tests, *recipe.data.ood)
    sentences = sum(len(read_best(work.decoded(name, one))) for one in names)
    return {
        "store_cpu_minutes": _sum(stores, "cpu_seconds", 1 / 60),
        "train_cpu_minutes": _sum(training, "cpu_seconds", 1 / 60),
        "train_wall_minutes": _sum(training, "seconds", 1 / 60),
        "train_peak_gib": _peak(training),
        "decode_cpu_ms": _sum(decoding, "cpu_seconds", 1000 / sentences),
        "decode_wall_ms": _sum(decoding, "seconds", 1000 / sentences),
        "decode_peak_gib": _peak(decoding),
    }


def read_stamps(work: WorkFolder) -> dict[str, dict[str, Any]]:
    """Return the stamps of a work folder by the names of their steps."""
    paths = (path for path in (work.root / "stamps").glob("*.json") if path.name != HASHES)
    stamps = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
    return {stamp["name"]: stamp for stamp in stamps}


def _sum(steps: Sequence[Mapping[str, Any]], key: str, factor: float) -> float | None:
    values = [step.get(key) for step in steps]
    return None if not values or None in values else factor * float(sum(values))  # type: ignore[arg-type]


def _peak(steps: Sequence[Mapping[str, Any]]) -> float | None:
    values = [step["peak_bytes"] for step in steps if step.get("peak_bytes")]
    return max(values) / 2**30 if values else None


def _estimate(found: Mapping[str, Any] | None, factor: float = 1.0) -> Estimate | None:
    if found is None:
        return None
    return _scaled(Estimate(found["value"], found["low"], found["high"]), factor)


def _scaled(found: Estimate, factor: float) -> Estimate:
    ends = (None if end is None else factor * end for end in (found.low, found.high))
    return Estimate(factor * found.value, *ends)


def main(arguments: Sequence[str] | None = None) -> int:
    """Assess one run; returns the exit status."""
    parser = argparse.ArgumentParser(description="assess one run of the bench")
    parser.add_argument("work", type=Path, metavar="WORK", help="the bench's work folder")
    parser.add_argument("run", metavar="RUN", help="its name, such as proxy-seed1")
    given = parser.parse_args(arguments)
    work = WorkFolder(given.work)
    try:
        results = assess_run(work, given.run)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    with atomic_write(RunFolder(work.root / "runs" / given.run).results) as handle:
        handle.write(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
