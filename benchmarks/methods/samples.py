"""Numbers of one run over resampled test sentences, which two runs can have in common."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.methods.method import Run
from benchmarks.methods.runs import run_folder
from recipes.common.recipe import build_resolved
from recipes.common.work import WorkFolder
from seqdistill.assessment import assess_word_errors, read_best
from seqdistill.assessment.bootstrap import Estimate, estimate, tallies
from seqdistill.assessment.calibration import hypotheses_likelihood
from seqdistill.assessment.checks import FloatArray
from seqdistill.assessment.quality import sentence_quality
from seqdistill.assessment.rejection import prr_replicates
from seqdistill.errors import InputError
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


def of_run(work: WorkFolder, run: Run, values: dict[str, float]) -> dict[str, Sampled]:
    """Return what can be resampled of a run that is done: metric → its number.

    Args:
        work: the bench's folder.
        run: which.
        values: its numbers in the table, by metric.
    """
    content = json.loads(run_folder(work, run).description.read_text(encoding="utf-8"))
    recipe = build_resolved(content["recipe"])
    resamples, seed = recipe.assess.resamples, recipe.assess.seed
    rows = read_best(work.decoded(run.name, "test"))
    found = {"nll": nll(read_best(work.forced(run.name)), resamples, seed)}
    if "bleu" in values:
        found["bleu"] = bleu(rows, values["bleu"], resamples, seed)
    if "wer" in values:
        found["wer"] = word_error_rate(rows, values["wer"] / 100.0, resamples, seed) * 100.0
    outside = [read_best(work.decoded(run.name, name)) for name in recipe.data.ood]
    quality = sentence_quality(
        [row.text for row in rows],
        [row.reference or "" for row in rows],
        metric=recipe.assess.sentence_metric,
    )
    for measure in content["detection"]:
        if f"auroc:{measure}:mean" in values:
            found[f"auroc:{measure}:mean"] = mean_auroc(
                [row.uncertainty[measure] for row in rows],
                [[row.uncertainty[measure] for row in one] for one in outside],
                resamples,
                seed,
            )
    for measure in content["rejection"]:
        if f"prr:{measure}" in values:
            scores = np.array([row.uncertainty[measure] for row in rows])
            drawn = prr_replicates(quality, scores, resamples, seed)
            found[f"prr:{measure}"] = Sampled(values[f"prr:{measure}"] / 100.0, drawn) * 100.0
    return found
