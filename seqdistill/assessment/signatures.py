"""Signatures: on one line, what has to be known to get the same number again.

In the spirit of sacreBLEU's (Post, 2018): fields ``key:value`` with bars between them, the same
keys everywhere, and the version of this package at the end.

===========  ===================================================================================
measure      name of the uncertainty
est          of its sequence value: ``chain-rule`` (mean over positions), ``joint``, ``outputs`` or
             ``features``
comb         how members make one sequence model, ``pe`` or ``ep``, where that matters
norm         ``length`` (a number a token) or ``none`` (of the whole sequence)
nbest        hypotheses of a sentence that count: ``1`` is the best one; ``3-5`` where lists differ
aggregation  how those are averaged: ``softmax(lnP/τ)`` or ``uniform``; absent for the best one
metric       definition of the number
unit         what an error rate counts: ``words`` or ``characters+spaces``
case, punct  ``lower`` and ``removed`` where they make no error, else ``mixed`` and ``kept``
align        what aligned texts with their references
bs, rs       bootstrap resamples and seed; ``bs:no`` without
ci           level of the interval in per cent
version      of seqdistill
===========  ===================================================================================
"""

from collections.abc import Mapping

import seqdistill
from seqdistill.assessment.n_best import NBest
from seqdistill.uncertainty.measures import MEASURES

_UNNORMALISED = "unnormalised_"  # how names of measures begin that are not divided by the length


def sign(fields: Mapping[str, object]) -> str:
    """Return a signature; the version comes last.

    Example:
        >>> sign({"metric": "auroc", "n": 7}).rpartition("|")[0]
        'metric:auroc|n:7'
    """
    return "|".join(
        f"{key}:{value}" for key, value in {**fields, "version": seqdistill.__version__}.items()
    )


def measure_fields(measure: str | None, n_best: NBest | None = None) -> dict[str, object]:
    """Return the fields of a sequence measure.

    Args:
        measure: its name; a name outside the table of measures gets no estimate and combination,
            and scores without a name (None) are ``scores``.
        n_best: what it was averaged over; None: it is that of the best hypothesis.

    Example:
        >>> measure_fields("epkl")["est"], measure_fields("mine")
        ('chain-rule', {'measure': 'mine', 'nbest': '1'})
    """
    if measure is None:
        return {"measure": "scores"}
    fields: dict[str, object] = {"measure": measure}
    if measure in MEASURES:
        known = MEASURES[measure]
        fields["est"] = known.estimate
        if known.combination is not None:
            fields["comb"] = known.combination
        is_average = known.estimate in ("chain-rule", "joint")
        fields["norm"] = (
            "length" if is_average and not measure.startswith(_UNNORMALISED) else "none"
        )
    return fields | ({"nbest": "1"} if n_best is None else n_best.fields())


def bootstrap_fields(resamples: int, seed: int, *, interval: str = "95") -> dict[str, object]:
    """Return the fields of a bootstrap over sentences; ``bs:no`` where there was none."""
    return {"bs": resamples, "rs": seed, "ci": interval} if resamples else {"bs": "no"}


def nested(signature: str) -> str:
    """Return another tool's signature as one field's value: its bars become semicolons.

    Example:
        >>> nested("nrefs:1|case:mixed")
        '[nrefs:1;case:mixed]'
    """
    return f"[{signature.replace('|', ';')}]"
