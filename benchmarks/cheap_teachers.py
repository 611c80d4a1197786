"""Ensembles made cheaply beside independent members: likelihood, quality, uncertainty, time.

A system is its members' checkpoints. Each translates the test set and the sets that lie outside the
domain, and scores the references. The table: NLL of a token of the references (nats), chrF, AUROC
of mutual information and total uncertainty (mean over the sets, %), and the prediction rejection
ratio of both on chrF of the test sentences (%), with 95 % bootstrap intervals where there are some;
CPU seconds of the translating.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import (
    base_parser,
    environment,
    prepare,
    progress,
    refusals,
    text_table,
    write_results,
)
from fairseq_plugins.generation.translator import Translator
from fairseq_plugins.teachers import find_members
from seqdistill.assessment.calibration import hypotheses_likelihood
from seqdistill.assessment.detection import detect
from seqdistill.assessment.hypothesis_sets import uncertainty_of
from seqdistill.assessment.quality import corpus_quality, sentence_quality
from seqdistill.assessment.rejection import reject
from seqdistill.cli.common import named_paths
from seqdistill.errors import InputError
from seqdistill.hypotheses import Hypothesis

MEASURES = ("mutual_information", "total_uncertainty")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = base_parser("cheap_teachers", __doc__ or "", "see docs/cheap-teachers.md")
    parser.add_argument("--system", action="append", required=True, metavar="NAME=A.pt:B.pt…",
                        help="members, or a quoted glob; may be given several times")  # fmt: skip
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="dictionaries")
    parser.add_argument("--sentencepiece-model", type=Path, metavar="FILE",
                        help="segments the lines; without it they are pieces")  # fmt: skip
    parser.add_argument("--text", type=Path, required=True, metavar="DIR",
                        help="of recipes/tatoeba_en_de: test.en, test.de, news.en, …")  # fmt: skip
    parser.add_argument("--sets", nargs="+", default=["news", "interface", "german_source"],
                        metavar="NAME", help="outside the domain (%(default)s)")  # fmt: skip
    parser.add_argument("--test-sentences", type=int, default=300, metavar="N", help="%(default)s")
    parser.add_argument("--set-sentences", type=int, default=150, metavar="N", help="%(default)s")
    given = parser.parse_args(arguments)
    with refusals(parser):
        stem = prepare(given, "cheap_teachers")
        texts = {name: _lines(given.text / f"{name}.en", given.set_sentences)
                 for name in given.sets}  # fmt: skip
        test = _lines(given.text / "test.en", given.test_sentences)
        references = _lines(given.text / "test.de", given.test_sentences)
        rows = []
        for name, paths in named_paths(given.system, "--system").items():
            single = Path(paths).is_file()
            members = [paths] if single else find_members(paths)
            progress(f"{name}: {len(members)} members")
            translator = Translator(
                members, given.data, "en", "de", sentencepiece_model=given.sentencepiece_model,
                max_len_a=1.2, max_len_b=10, use_cpu=True,
            )  # fmt: skip
            rows.append(_row(name, members, translator, test, references, texts, given.seed))
        left_out = ("system", "output", "name", "overwrite")
        command = ["python", "-m", "benchmarks.cheap_teachers", *(arguments or sys.argv[1:])]
        record = {
            "settings": {k: str(v) for k, v in vars(given).items() if k not in left_out},
            "environment": environment("cpu", command),
            "rows": rows,
        }
        write_results(stem, record, rows)
        print(_table(rows))
    return 0


def _row(
    name: str,
    members: Sequence[str],
    translator: Translator,
    test: list[str],
    references: list[str],
    texts: dict[str, list[str]],
    seed: int,
) -> dict[str, Any]:
    """Translate, score and measure; one row of the table."""
    started = time.process_time()
    inside = list(_translated(translator, test))
    outside = {name: list(_translated(translator, lines)) for name, lines in texts.items()}
    seconds = time.process_time() - started
    forced = [
        hypothesis
        for at in range(0, len(test), 32)
        for hypothesis in translator.score(test[at : at + 32], references[at : at + 32])
    ]
    found = [hypothesis.text for hypothesis in inside]
    quality = sentence_quality(found, references)
    row: dict[str, Any] = {
        "system": name,
        "members": len(members),
        "megabytes": round(sum(Path(path).stat().st_size for path in members) / 1e6, 1),
        "nll": hypotheses_likelihood(forced).nll,
        "chrf": corpus_quality(found, references).chrf.value,
    }
    for measure in MEASURES if len(members) > 1 else MEASURES[1:]:
        scores = uncertainty_of(inside, measure)
        values = []
        for set_name, hypotheses in outside.items():
            result = detect(scores, uncertainty_of(hypotheses, measure), seed=seed).auroc
            row |= _columns(f"auroc_{measure}_{set_name}", result)
            values.append(result.value)
        row[f"auroc_{measure}_mean"] = float(np.mean(values))
        row |= _columns(f"prr_{measure}", reject(quality, scores, seed=seed).prr)
        row[f"mean_{measure}"] = float(np.mean(scores))
    return row | {"cpu_seconds": seconds}


def _translated(translator: Translator, lines: list[str]) -> Iterator[Hypothesis]:
    for at in range(0, len(lines), 32):
        yield from translator.translate(lines[at : at + 32], first_id=at)


def _columns(name: str, estimate: Any) -> dict[str, Any]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _lines(path: Path, count: int) -> list[str]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; --text is the folder of the recipe's stage 1")
    return path.read_text("utf-8").removesuffix("\n").split("\n")[:count]


def _table(rows: list[dict[str, Any]]) -> str:
    def share(row: dict[str, Any], name: str) -> str:
        return "" if name not in row else f"{100 * row[name]:.1f}"

    def interval(row: dict[str, Any], name: str) -> str:
        if name not in row:
            return ""
        value, low, high = (100 * row[f"{name}{end}"] for end in ("", "_low", "_high"))
        return f"{value:.0f} [{low:.0f}, {high:.0f}]"

    header = ["system", "MB", "NLL", "chrF", "MI", "AUROC MI", "AUROC TU", "PRR MI", "PRR TU", "s"]
    return text_table(
        header,
        [
            [
                row["system"], f"{row['megabytes']:.0f}", f"{row['nll']:.3f}", f"{row['chrf']:.1f}",
                f"{row.get('mean_mutual_information', 0):.3f}",
                share(row, "auroc_mutual_information_mean"),
                share(row, "auroc_total_uncertainty_mean"),
                interval(row, "prr_mutual_information"), interval(row, "prr_total_uncertainty"),
                f"{row['cpu_seconds']:.0f}",
            ]
            for row in rows
        ],
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
