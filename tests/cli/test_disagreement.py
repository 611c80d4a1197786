import json
from dataclasses import replace
from pathlib import Path

import pytest

from seqdistill.assessment import auroc
from seqdistill.cli.main import main
from seqdistill.hypotheses import Hypothesis, ModelInfo, read_hypotheses, write_hypotheses
from tests.reference.hypothesis_sets import make_hypotheses

MEMBER = ModelInfo("softmax", 1, "softmax")


def write_members(folder: Path, texts: list[list[str]]) -> list[str]:
    """One file a member; returns their paths."""
    like = make_hypotheses(1, kind="softmax")[0]
    paths = []
    for m, of_member in enumerate(texts):
        hypotheses: list[Hypothesis] = [
            replace(like, id=n, text=text, source=f"source {n}", model=MEMBER)
            for n, text in enumerate(of_member)
        ]
        paths.append(str(folder / f"member{m}.jsonl"))
        write_hypotheses(paths[-1], hypotheses)
    return paths


def write_into(folder: Path, count: int, name: str = "ensemble") -> str:
    """An ensemble's n-best lists of two, with a field that this schema does not know."""
    path = folder / f"{name}.jsonl"
    lines = []
    for hypothesis in make_hypotheses(count):
        for rank in (0, 1):
            one = replace(hypothesis, rank=rank, source=f"source {hypothesis.id}")
            lines.append(json.dumps(json.loads(one.to_json()) | {"ood": None}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_the_measure_is_added_and_all_else_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = write_members(tmp_path, [["a b c d", "same"], ["a x d", "same"]])
    into, output = write_into(tmp_path, 2), tmp_path / "more.jsonl"
    command = ["disagreement", *members, "--metric", "wer", "--into", into]
    assert main([*command, "--output", str(output)]) == 0
    assert "mean 0.2917, 1 with equal translations; added to 4" in capsys.readouterr().err
    before = [json.loads(line) for line in Path(into).read_text(encoding="utf-8").splitlines()]
    after = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    found = [record["uncertainty"].pop("output_disagreement_wer") for record in after]
    assert found == pytest.approx([7 / 12, 7 / 12, 0.0, 0.0], rel=1e-14)
    assert after == before
    # Once more with another metric, into what came out.
    again = tmp_path / "again.jsonl"
    command = ["disagreement", *members, "--into", str(output), "--output", str(again)]
    assert main(command) == 0
    (first, *_) = read_hypotheses(again)
    assert {"output_disagreement_wer", "output_disagreement_bleu"} <= first.uncertainty.keys()


def test_other_verbs_see_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    disagreements = {"test": ["b", "b c", "a"], "news": ["x", "a y", "z"]}
    for name, second in disagreements.items():
        folder = tmp_path / name
        members = write_members(folder, [["b", "b c", "a"], second])
        into = write_into(folder, 3)
        arguments = ["disagreement", *members, "--metric", "chrf", "--into", into]
        assert main([*arguments, "--output", str(folder / "more.jsonl")]) == 0
    capsys.readouterr()
    files = ["--in-domain", str(tmp_path / "test" / "more.jsonl")]
    files += ["--out-of-domain", str(tmp_path / "news" / "more.jsonl")]
    more = ["--measures", "output_disagreement_chrf", "--bootstrap", "0", "--json"]
    assert main(["ood", *files, *more]) == 0
    result = json.loads(capsys.readouterr().out)["results"][0]
    assert result["auroc"]["value"] == auroc([0, 0, 0], [1, 1, 1]) == 1.0
    assert result["signature"].startswith(
        "measure:output_disagreement_chrf|est:outputs|norm:none|nbest:1|"
    )


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ("one member", 2, "at least two members"),
        ("twice", 2, "is given twice"),
        ("fewer sentences", 1, r"sentence 1 is not in"),
        ("other sources", 1, "the source of sentence 0 is not that of"),
        ("there already", 1, "it has output_disagreement_bleu already"),
    ],
)
def test_bad_input(
    change: str,
    status: int,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    members = write_members(tmp_path, [["a", "b"], ["a", "c"]])
    into = write_into(tmp_path, 2)
    if change == "one member":
        members = members[:1]
    elif change == "twice":
        members = [members[0]] * 2
    elif change == "fewer sentences":
        members[1] = write_members(tmp_path / "few", [["a"]])[0]
    elif change == "other sources":
        text = Path(members[1]).read_text(encoding="utf-8")
        Path(members[1]).write_text(text.replace("source 0", "sauce 0"), encoding="utf-8")
    else:
        text = Path(into).read_text(encoding="utf-8")
        added = '"uncertainty": {"output_disagreement_bleu": 0.5, '
        Path(into).write_text(text.replace('"uncertainty": {', added), encoding="utf-8")
    arguments = ["disagreement", *members, "--into", into, "--output", str(tmp_path / "out.jsonl")]
    assert main(arguments) == status
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


def test_a_choice_of_measures_cannot_compute_it(capsys: pytest.CaptureFixture[str]) -> None:
    from seqdistill.errors import InputError
    from seqdistill.uncertainty.measures import available_measures, resolve_measures

    assert "output_disagreement_bleu" not in available_measures("ensemble")
    with pytest.raises(InputError, match=r"output_disagreement_bleu \(seqdistill disagreement\)"):
        resolve_measures(("output_disagreement_bleu",), "ensemble")
