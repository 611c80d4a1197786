"""The benchmark of cheap teachers runs, and its numbers are those of the verbs' functions."""

import json
from pathlib import Path

import pytest

from benchmarks.cheap_teachers import main
from tests.plugins.corpus import Corpus


def test_one_row_a_system(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text"
    text.mkdir()
    lines = [f"w{n} w{n + 1} w{n + 2}" for n in range(8)]
    for name in ("test.en", "test.de", "news.en"):
        (text / name).write_text("\n".join(lines) + "\n", "utf-8")
    arguments = ["--data", str(corpus.data), "--text", str(text), "--sets", "news",
                 "--output", str(tmp_path)]  # fmt: skip
    systems = ["--system", f"both={corpus.ensemble_paths}", "--system", f"one={corpus.teachers[0]}"]
    assert main([*arguments, *systems]) == 0
    assert "AUROC MI" in capsys.readouterr().out
    both, one = json.loads((tmp_path / "cheap_teachers.json").read_text())["rows"]
    assert both["members"] == 2
    # The set outside the domain is the test set itself.
    assert both["auroc_mutual_information_mean"] == 0.5 == one["auroc_total_uncertainty_mean"]
    assert both["mean_mutual_information"] > 0
    assert "mean_mutual_information" not in one
    assert both["nll"] != one["nll"] > 0
    with pytest.raises(SystemExit):
        main([*arguments, "--overwrite", "--sets", "nowhere", *systems])
    assert "no such file" in capsys.readouterr().err
