"""Numbers of one run over resampled test sentences, which two runs can have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recipes.common.recipe import Recipe
from recipes.common.work import WorkFolder
from seqdistill.assessment import assess_word_errors, read_best
from seqdistill.assessment.bootstrap import Estimate, estimate, tallies
from seqdistill.assessment.calibration import hypotheses_likelihood
from seqdistill.assessment.checks import FloatArray
from seqdistill.assessment.quality import sentence_quality
from seqdistill.assessment.rejection import prr_replicates
from seqdistill.errors import InputError
from seqdistill.files import atomic_write
from seqdistill.hypotheses import Hypothesis


@dataclass(frozen=True)
class Sampled:
    """A number and what resamples of the test sentences make of it.

    Attributes:
        value: of all sentences; NaN where only a difference of replicates is wanted.
        replicates: (R), NaN where the number does not exist.
    """

    value: float
    replicates: FloatArray

    @property
    def estimate(self) -> Estimate:
        """The number with its interval."""
        return estimate(self.value, self.replicates)

    def __mul__(self, factor: float) -> "Sampled":
        """Return it in another unit."""
        return Sampled(factor * self.value, factor * self.replicates)


def bleu(rows: Sequence[Hypothesis], value: float, resamples: int, seed: int) -> Sampled:
    """Return corpus BLEU.

    Args:
        rows: hypotheses with references.
        value: BLEU of all of them.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    from sacrebleu.metrics import BLEU

    scorer, by_sentence = BLEU(effective_order=True), []
    for row in rows:
        score = scorer.sentence_score(row.text, [row.reference or ""])
        by_sentence.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
    statistics = np.array(by_sentence, dtype=np.int64)  # (n, 2 · order + 2)
    order = (statistics.shape[1] - 2) // 2
    replicates = [
        BLEU.compute_bleu(
            [int(count) for count in sums[:order]],
            [int(total) for total in sums[order : 2 * order]],
            int(sums[-2]),
            int(sums[-1]),
            smooth_method="exp",  # as that of the corpus; the function's own default is none
        ).score
        for counts in tallies(len(rows), resamples, seed)
        for sums in counts @ statistics
    ]
    return Sampled(value, np.array(replicates, dtype=np.float64))


def mean_auroc(
    inside: Sequence[float], outside: Sequence[Sequence[float]], resamples: int, seed: int
) -> Sampled:
    """Return the mean AUROC over sets, in %.

    Every set has the in-domain sentences in common, so a resample draws those once for all sets.

    Args:
        inside: uncertainty of the in-domain sentences.
        outside: of each out-of-domain set.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    # wins[j, i]: whether out-of-domain j scores above in-domain i, ties at half.
    low = np.asarray(inside, dtype=np.float64)
    wins = [
        (high[:, None] > low).astype(np.float64) + 0.5 * (high[:, None] == low)
        for high in (np.asarray(scores, dtype=np.float64) for scores in outside)
    ]
    value = float(np.mean([one.mean() for one in wins]))
    total = np.zeros(resamples)
    if resamples:
        drawn = np.concatenate(list(tallies(len(low), resamples, seed)))  # (R, n_in)
        for number, one in enumerate(wins, start=1):
            theirs = np.concatenate(list(tallies(len(one), resamples, seed + number)))
            total += ((theirs @ one) * drawn).sum(axis=1) / one.size
    return Sampled(value, total / len(wins)) * 100.0


def nll(rows: Sequence[Hypothesis], resamples: int, seed: int) -> Sampled:
    """Return the negative log-likelihood of forced references, nats a token."""
    sums = np.array([[-sum(row.token_log_probs), len(row.token_log_probs)] for row in rows])
    drawn = [counts @ sums for counts in tallies(len(rows), resamples, seed)]
    replicates = np.concatenate([np.empty((0, 2)), *drawn])
    return Sampled(hypotheses_likelihood(rows).nll, replicates[:, 0] / replicates[:, 1])


def word_error_rate(rows: Sequence[Hypothesis], value: float, resamples: int, seed: int) -> Sampled:
    """Return the corpus's word error rate, a share of the references' words.

    Args:
        rows: hypotheses with references.
        value: that of all of them.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        InputError: there are no references.
    """
    errors = assess_word_errors(rows, resamples=resamples, seed=seed)
    if errors is None:
        raise InputError("word errors need references, and the hypotheses have none")
    return Sampled(value, errors.rates.replicates["wer"])


def of_run(
    recipe: Recipe,
    work: WorkFolder,
    name: str,
    measures: Mapping[str, Sequence[str]],
    values: Mapping[str, float],
) -> dict[str, Sampled]:
    """Return what can be resampled of a run: metric → its number.

    Args:
        recipe: the run as a recipe.
        work: the bench's folder.
        name: the run's.
        measures: ``detection`` and ``rejection``: those of the table.
        values: its numbers, by metric, the means over sets left away.
    """
    resamples, seed = recipe.assess.resamples, recipe.assess.seed
    rows = read_best(work.decoded(name, "test"))
    found = {"nll": nll(read_best(work.forced(name)), resamples, seed)}
    if "bleu" in values:
        found["bleu"] = bleu(rows, values["bleu"], resamples, seed)
    if "wer" in values:
        found["wer"] = word_error_rate(rows, values["wer"] / 100.0, resamples, seed) * 100.0
    outside = {one: read_best(work.decoded(name, one)) for one in recipe.data.ood}
    for measure in measures["detection"]:
        sets = [rows for one, rows in outside.items() if f"auroc:{measure}:{one}" in values]
        if sets:
            found[f"auroc:{measure}:mean"] = mean_auroc(
                [row.uncertainty[measure] for row in rows],
                [[row.uncertainty[measure] for row in one] for one in sets],
                resamples,
                seed,
            )
    quality = sentence_quality(
        [row.text for row in rows],
        [row.reference or "" for row in rows],
        metric=recipe.assess.sentence_metric,
    )
    for measure in measures["rejection"]:
        if f"prr:{measure}" in values:
            scores = np.array([row.uncertainty[measure] for row in rows])
            drawn = prr_replicates(quality, scores, resamples, seed)
            found[f"prr:{measure}"] = Sampled(values[f"prr:{measure}"] / 100.0, drawn) * 100.0
    return found


def write_samples(path: Path, found: Mapping[str, Sampled]) -> None:
    """Write replicates, as what they differ from their number by, at half precision.

    That is an error of a thousandth of an interval's width, and half the size.
    """
    gaps: dict[str, Any] = {
        name: (one.replicates - one.value).astype(np.float16) for name, one in found.items()
    }
    with atomic_write(path, binary=True) as handle:
        np.savez_compressed(handle, **gaps)


def read_samples(path: Path, values: Mapping[str, float]) -> dict[str, Sampled]:
    """Read what :func:`write_samples` wrote.

    Args:
        path: the file.
        values: the numbers themselves, by metric.

    Raises:
        InputError: it is not there, or is of other numbers.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {
                name: Sampled(values[name], values[name] + arrays[name].astype(np.float64))
                for name in arrays.files
            }
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path}: expected the resampled numbers of a run, {error}; remove the run's two "
            "files, and it is made again"
        ) from error
