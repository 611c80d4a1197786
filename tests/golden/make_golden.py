"""Write ``core.json``: values of the core's formulas, made with 100 digits and written with 50.

    python -m tests.golden.make_golden            # compares
    python -m tests.golden.make_golden --write    # replaces the file

Inputs are short decimals and binary fractions, given in the file beside the values. The values
come from :mod:`tests.reference` alone; nothing of the package takes part.
"""

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

from tests.reference import dirichlets, losses, proxies
from tests.reference.arithmetic import (
    Number,
    concentrations,
    context,
    digamma,
    exp,
    log_gamma,
    number,
    numbers,
    total,
    trigamma,
)

PATH = Path(__file__).with_name("core.json")
DIGITS = 50

LOGITS = [-80.0, -20.0, -4.5, -1.0, 0.0, 0.75, 3.0, 12.0, 35.0, 80.0]
# Binary fractions: their logarithms, rounded, are the only difference of a test's input.
MEMBERS = [
    [0.75, 0.125, 0.0625, 0.0625],
    [0.5, 0.25, 0.125, 0.125],
    [0.25, 0.5, 0.0625, 0.1875],
]
STUDENTS = {
    "near": [3.0, 2.0, 0.5, 1.0],
    "far": [-6.0, 9.0, 0.0, -2.0],
    "extreme": [80.0, -80.0, 40.0, -40.0],
}
MEASURES = (
    "total_uncertainty",
    "data_uncertainty",
    "mutual_information",
    "epkl",
    "reverse_mutual_information",
)


def text(value: Number) -> str:
    """50 digits, as a string: JSON's numbers have 17."""
    return str(context.nstr(value, DIGITS, strip_zeros=False))


def gamma_family() -> list[dict[str, Any]]:
    """The functions of 1 + e^z."""
    rows = []
    for z in LOGITS:
        a = exp(number(z))
        x = 1 + a
        rows.append(
            {
                "z": z,
                "digamma": text(digamma(x)),
                "trigamma": text(a * trigamma(x)),
                "trigamma_gap": text(a * (1 - a * trigamma(x))),
                "entropy_term": text(log_gamma(x) - a * digamma(x) + a),
                "q": text(x * (x * trigamma(x) - 1)),
            }
        )
    return rows


@cache
def ensemble() -> dict[str, Any]:
    """Means of the members (lists) and their measures and precisions (numbers)."""
    members = [numbers(member) for member in MEMBERS]
    M = len(members)
    mean = [total(piece) / M for piece in zip(*members, strict=True)]
    mean_log = [total(map(context.log, piece)) / M for piece in zip(*members, strict=True)]
    uncertainty = -total(p * context.log(p) for p in mean)
    data = -total(p * context.log(p) for member in members for p in member) / M
    cross = -total(p * lp for p, lp in zip(mean, mean_log, strict=True))
    rmi, epkl = cross - uncertainty, cross - data
    return {
        "mean_probs": mean,
        "mean_log_probs": mean_log,
        "total_uncertainty": uncertainty,
        "data_uncertainty": data,
        "mutual_information": uncertainty - data,
        "epkl": epkl,
        "reverse_mutual_information": rmi,
        "inverse_precision_mkl": proxies.mkl_inverse_precision(rmi, len(mean)),
        "inverse_precision_epkl": proxies.epkl_inverse_precision(epkl, len(mean)),
        "inverse_precision_exact": proxies.exact_inverse_precision(mean, rmi),
    }


def student(logits: list[float], offset: float) -> dict[str, Any]:
    """Uncertainties and all losses of one student against the ensemble."""
    teachers = ensemble()
    mean, inverse = teachers["mean_probs"], teachers["inverse_precision_mkl"]
    alpha = concentrations(logits, offset)
    made: dict[str, Any] = {name: text(getattr(dirichlets, name)(alpha)) for name in MEASURES}
    values = {
        f"{name}-{normalisation}": getattr(losses, name)(
            logits, mean, inverse, offset, normalisation
        )
        for name in ("proxy_dirichlet", "proxy_dirichlet_forward")
        for normalisation in ("proxy", "total")
    }
    values["end2"] = losses.end2(logits, teachers["mean_log_probs"], offset)
    values["mean_kl"] = losses.mean_kl(logits, mean)
    for name, (value, gradient) in values.items():
        made[name] = {"value": text(value), "gradient": [text(g) for g in gradient]}
    return made


def golden() -> dict[str, Any]:
    """Everything that the file holds."""
    return {
        "about": "made by tests/golden/make_golden.py; strings are 50-digit numbers, in nats",
        "gamma": gamma_family(),
        "members": MEMBERS,
        "ensemble": {k: text(v) for k, v in ensemble().items() if not isinstance(v, list)},
        "students": [
            {"name": name, "logits": logits, "offset": offset, **student(logits, offset)}
            for name, logits in STUDENTS.items()
            for offset in (0.0, 1.0)
        ],
    }


def render() -> str:
    """The file's text."""
    return json.dumps(golden(), indent=1, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Compare or write."""
    if arguments == ["--write"]:
        PATH.write_text(render(), encoding="utf-8")
        print(f"wrote {PATH}", file=sys.stderr)
        return 0
    if arguments:
        print(__doc__, file=sys.stderr)
        return 2
    same = PATH.read_text(encoding="utf-8") == render()
    print("the file is what this script makes" if same else "the file differs; --write replaces it")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
