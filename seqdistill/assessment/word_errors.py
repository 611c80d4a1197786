"""Word and character error rates of transcripts, with intervals.

Rates divide sums over utterances, so long utterances weigh more:

    WER = (S + I + D) / (S + D + H)

with S substitutions, I insertions, D deletions and H hits; S + D + H are the words of the
references. What was recognised where a reference is empty counts as insertions; a set without a
single word in its references has no rate (None). See
:mod:`seqdistill.assessment.word_alignment` for the counts.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from seqdistill.assessment.bootstrap import IntArray, check_bootstrap, estimate, tallies
from seqdistill.assessment.checks import FloatArray
from seqdistill.assessment.numbers import Numbers, join
from seqdistill.assessment.signatures import bootstrap_fields, sign
from seqdistill.assessment.word_alignment import (
    AS_WRITTEN,
    ErrorCounts,
    Normalisation,
    count_errors,
    error_fields,
)

#: Rate → how tables call it. Those of words are shares of the reference's words.
ERROR_RATES = {
    "wer": "WER",
    "substitutions": "sub",
    "insertions": "ins",
    "deletions": "del",
    "ser": "SER",
    "cer": "CER",
}


@dataclass(frozen=True)
class WordErrors:
    """Errors of one system on one set.

    Attributes:
        words: counts in words.
        characters: counts in characters, the spaces between words among them.
        rates: those of :data:`ERROR_RATES` with intervals and signatures: word error rate, its
            three parts, share of utterances with any error (SER) and character error rate; shares,
            lower = better. Two systems on the same utterances are compared by
            :func:`~seqdistill.assessment.numbers.compare_numbers`.
        normalisation: of both texts.
    """

    words: ErrorCounts
    characters: ErrorCounts
    rates: Numbers
    normalisation: Normalisation

    def to_dict(self) -> dict[str, Any]:
        """Return what a JSON file holds of the result."""
        return {
            "n": self.rates.n,
            "rates": self.rates.to_dict(),
            "words": self.words.to_dict(),
            "characters": self.characters.to_dict(),
            "normalisation": asdict(self.normalisation),
        }


def word_errors(
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    normalisation: Normalisation = AS_WRITTEN,
    resamples: int = 1000,
    seed: int = 0,
) -> WordErrors:
    """Count the errors of a system's hypotheses.

    Args:
        hypotheses: n texts.
        references: n texts, in the same order.
        normalisation: of both.
        resamples: bootstrap resamples of utterances for the intervals, 0 for none.
        seed: of the bootstrap. Results of one seed on the same utterances are paired.

    Raises:
        InputError: nothing came, the lengths differ, or jiwer is not installed.

    Source: V. I. Levenshtein, 1966; rates as NIST's sclite reports them, but every edit costs 1.

    Example:
        >>> found = word_errors(["a x c", "d"], ["a b c", "d e"], resamples=0)
        >>> found.rates.numbers["wer"].value, found.words.to_dict()["deletions"]
        (0.4, 1)
    """
    check_bootstrap(resamples, seed)
    words = count_errors(hypotheses, references, normalisation=normalisation)
    characters = count_errors(
        hypotheses, references, unit="characters", normalisation=normalisation
    )
    n = len(references)
    parts = [words.edits, words.substitutions, words.insertions, words.deletions]
    by_utterance = np.stack(
        [*parts, words.edits > 0, characters.edits, words.reference, characters.reference], axis=1
    ).astype(np.int64)
    values = _rates(by_utterance.sum(axis=0, keepdims=True), n)
    drawn = [_rates(tally @ by_utterance, n) for tally in tallies(n, resamples, seed)]
    replicates = join(drawn, ERROR_RATES)
    return WordErrors(
        words=words,
        characters=characters,
        rates=Numbers(
            numbers={
                name: None if np.isnan(value[0]) else estimate(float(value[0]), replicates[name])
                for name, value in values.items()
            },
            replicates=replicates,
            signatures={
                name: sign(
                    {
                        "metric": name,
                        **error_fields(_unit(name), normalisation),
                        "n": n,
                        "ref": int((characters if name == "cer" else words).reference.sum()),
                        **bootstrap_fields(resamples, seed),
                    }
                )
                for name in ERROR_RATES
            },
            n=n,
            resamples=resamples,
            seed=seed,
        ),
        normalisation=normalisation,
    )


def _rates(sums: IntArray, n: int) -> dict[str, FloatArray]:
    """Every rate, each (R,), of sums (R, 8) over n utterances."""
    edits, substitutions, insertions, deletions, wrong, in_characters, words, characters = sums.T
    return {
        "wer": _quotient(edits, words),
        "substitutions": _quotient(substitutions, words),
        "insertions": _quotient(insertions, words),
        "deletions": _quotient(deletions, words),
        "ser": wrong / n,
        "cer": _quotient(in_characters, characters),
    }


def _quotient(errors: Any, units: Any) -> FloatArray:
    found: FloatArray = np.divide(errors, units, out=np.full(len(units), np.nan), where=units > 0)
    return found


def _unit(rate: str) -> str:
    return "characters" if rate == "cer" else "words"
