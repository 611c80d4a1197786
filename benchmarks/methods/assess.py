"""``python -m benchmarks.methods.assess WORK RUN``: the numbers and the costs of one run."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.methods.archive import SCHEMA
from benchmarks.methods.runs import RunFolder
from benchmarks.methods.samples import Sampled, of_run, write_samples
from recipes.common.assess import assess
from recipes.common.recipe import Recipe, build_resolved
from recipes.common.steps import HASHES
from recipes.common.work import WorkFolder
from seqdistill.assessment import read_best
from seqdistill.assessment.bootstrap import Estimate
from seqdistill.errors import InputError
from seqdistill.files import atomic_write


def assess_run(work: WorkFolder, name: str) -> tuple[dict[str, Any], dict[str, Sampled]]:
    """Return what a run's ``results.json`` holds, and its resampled numbers.

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
    found = {**quality(recipe, system), **token_metrics(system)}
    for measure in content["detection"]:
        found[f"rho:{measure}"] = rank_correlation(system, measure)
    for measure in content["detection"]:
        found |= detection_metrics(system, measure)
    for measure in content["rejection"]:
        ratio = system["rejection"].get(measure, {}).get("prr")
        found[f"prr:{measure}"] = _estimate(ratio, 100.0)
    known = {metric: one for metric, one in found.items() if one is not None}
    sampled = of_run(
        recipe, work, name, content, {metric: one.value for metric, one in known.items()}
    )
    for metric, one in sampled.items():
        if metric not in known or known[metric].low is None:
            known[metric] = one.estimate
    known |= {metric: Estimate(value) for metric, value in cost.items() if value is not None}
    record = {
        "schema": SCHEMA,
        "run": name,
        "updates": content["updates"],
        "settings": content["settings"],
        "metrics": {metric: asdict(value) for metric, value in known.items()},
        "facts": facts(results, name, content["steps"], stamps),
        "recipe": results,
    }
    return record, sampled


def facts(
    results: Mapping[str, Any],
    name: str,
    steps: Mapping[str, Sequence[str]],
    stamps: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Return what has to be known of one run to redo it.

    Args:
        results: the recipe's record of the run.
        name: the run's.
        steps: names of its steps by what they are for.
        stamps: of all steps, by name.
    """
    system = results["systems"][name]
    scored = system["quality"]["test"] or {}
    hardware = results["hardware"]
    return {
        "label": system["label"],
        "commits": sorted({step["commit"] or "unknown" for step in results["steps"]}),
        "machine": f"{hardware['accelerator'] or hardware['processor']}, {hardware['cores']} cores",
        "versions": ", ".join(f"{k} {v}" for k, v in results["versions"].items() if v),
        "signature": scored and (scored.get("bleu") or scored["rates"]["wer"])["signature"],
        "resumed": [step for step in steps["training"] if stamps[step]["resumed"]],
    }


def quality(recipe: Recipe, system: Mapping[str, Any]) -> dict[str, Estimate | None]:
    """BLEU and chrF2 of the test set, or its word errors; none without references."""
    score = system["quality"]["test"]
    if score is None:
        return {}
    if recipe.assess.sentence_metric == "wer":
        return {rate: _estimate(score["rates"][rate], 100.0) for rate in ("wer", "cer")}
    return {name: Estimate(score[name]["value"]) for name in ("bleu", "chrf")}


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


def rank_correlation(system: Mapping[str, Any], measure: str) -> Estimate | None:
    """Spearman of a measure along the references with the ensemble's, none of what it lacks."""
    value = (system["fidelity"] or {}).get("spearman", {}).get(measure)
    return None if value is None else Estimate(value)


def detection_metrics(system: Mapping[str, Any], measure: str) -> dict[str, Estimate | None]:
    """Detection of every set by one measure (in %), none by what the model cannot measure."""
    return {
        f"auroc:{measure}:{one['set']}": _estimate(one["auroc"], 100.0)
        for one in system["ood"] or []
        if one["measure"] == measure
    }


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
        results, sampled = assess_run(work, given.run)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    folder = RunFolder(work.root / "runs" / given.run)
    write_samples(folder.samples, sampled)
    with atomic_write(folder.results) as handle:
        handle.write(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
