"""Students of distilled expectations in fairseq: from teachers or a store, decoded, scored."""

import io
import math
from pathlib import Path

import pytest
import torch

from fairseq_plugins.generation import UncertaintyScorer, UncertaintySequenceGenerator
from fairseq_plugins.generation.conversion import text_decoder, to_hypotheses
from fairseq_plugins.outputs import attach_outputs
from seqdistill.cli.main import main
from seqdistill.errors import InputError
from seqdistill.hypotheses import read_hypotheses
from seqdistill.student import StudentHead
from seqdistill.uncertainty.estimators import UncertaintyOptions
from tests.plugins.corpus import Corpus, logged, run, training_arguments
from tests.plugins.jobs import run_job
from tests.plugins.test_hydra import build
from tests.plugins.test_target_store_training import cache, vocabulary_size
from tests.plugins.tiny_models import collate, tiny_batch, tiny_dictionary, tiny_model

pytestmark = [
    pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask"),
    # fairseq, while a checkpoint is loaded
    pytest.mark.filterwarnings("ignore::UserWarning:hydra"),
]

DICTIONARY = tiny_dictionary()
NAMES = ("mutual_information", "reverse_mutual_information")
HEAD = StudentHead("expectations", settings={"names": NAMES, "rank": 4})
OPTIONS = ["--criterion", "expectations", "--expectations-rank", 8, "--student-init", 1]


def train(corpus: Corpus, save_dir: Path, *options: object) -> tuple[int | None, str]:
    """Train by the real program; return its exit status and what it printed."""
    (outcome,) = run_job(training_arguments(corpus, save_dir, *options), 1, save_dir / "logs")
    return outcome.code, outcome.output


def test_search_and_scorer_agree_and_decode_as_the_model_alone() -> None:
    student = tiny_model(0, DICTIONARY, HEAD)
    attach_outputs(student, HEAD)
    torch.manual_seed(1)
    torch.nn.init.normal_(student.decoder.student_outputs.last.weight)
    alone = tiny_model(0, DICTIONARY)
    options = UncertaintyOptions(("all",))
    sample = tiny_batch(DICTIONARY, [1, 7, 3, 5])

    def decode(model):
        return UncertaintySequenceGenerator(
            [model], DICTIONARY, options=options, beam_size=3, max_len_a=1.2, max_len_b=8
        ).generate([model], sample)

    pad = DICTIONARY.pad()
    spread = []
    for row, (found, expected) in enumerate(zip(decode(student), decode(alone), strict=True)):
        best = found[0]
        assert best["tokens"].tolist() == expected[0]["tokens"].tolist()
        shared = expected[0]["uncertainty"]
        assert {name: best["uncertainty"][name] for name in shared} == pytest.approx(shared)
        source = sample["net_input"]["src_tokens"][row]
        again = collate(DICTIONARY, [source[source != pad]], [best["tokens"]])
        ((forced,),) = UncertaintyScorer(DICTIONARY, options=options).generate([student], again)
        assert best["uncertainty"] == pytest.approx(forced["uncertainty"], rel=1e-4, abs=1e-5)
        spread.append(best["uncertainty"]["epkl"])
    assert max(spread) - min(spread) > 1e-3, "the outputs say the same everywhere"


def test_all_measures_are_those_that_follow_from_what_was_learnt() -> None:
    head = StudentHead("expectations", settings={"names": ("data_uncertainty",), "rank": 4})
    student = tiny_model(0, DICTIONARY, head)
    attach_outputs(student, head)
    sample = tiny_batch(DICTIONARY, [1, 3], with_target=True)
    scorer = UncertaintyScorer(DICTIONARY, options=UncertaintyOptions(("all",)))
    scored = scorer.generate([student], sample)
    given = {"dictionary": DICTIONARY, "target_text": text_decoder(DICTIONARY)}
    for hypothesis in to_hypotheses(sample, scored, [0, 1], measures=("all",), **given):
        assert "mutual_information" in hypothesis.uncertainty
        assert "epkl" not in hypothesis.uncertainty
    with pytest.raises(InputError, match="epkl were not computed"):
        list(to_hypotheses(sample, scored, [0, 1], measures=("all", "epkl"), **given))


@pytest.fixture(scope="module")
def trained(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("expectations")
    code, output = train(corpus, folder, *OPTIONS, "--max-update", 30)
    assert code == 0, output
    return folder / "checkpoint_last.pt", output


def test_a_student_trains_and_logs_what_matters(trained: tuple[Path, str]) -> None:
    checkpoint, output = trained
    for name in ("loss", "expectations_loss"):
        curve = [record[name] for record in logged(output, "train_inner")]
        assert len(curve) == 30
        assert sum(curve[-4:]) < sum(curve[:4]), name
    (last, *_) = logged(output, "valid")[-1:]
    names = ["nll_loss", "ensemble_mi", "spearman_epkl", "spearman_rmi", "spearman_tu_predictive"]
    for name in names:
        assert math.isfinite(last[f"valid_{name}"]), name
    state = torch.load(checkpoint, weights_only=True)
    assert state["task_state"]["student_head"]["settings"] == {"names": NAMES, "rank": 8}
    assert "decoder.student_outputs.last.weight" in state["model"]


def test_stored_targets_give_the_same_training(
    corpus: Corpus, trained: tuple[Path, str], tmp_path: Path
) -> None:
    everything = ["--store-dtype", "float32", "--top-k", vocabulary_size(corpus)]
    stores = [
        cache(corpus, tmp_path / name, "--subset", name, *everything) for name in ("train", "valid")
    ]
    code, output = train(
        corpus, tmp_path / "student", *OPTIONS[:4], "--student-init", corpus.teachers[0],
        "--max-update", 30, "--target-store", ":".join(stores), "--ensemble-paths", "",
    )  # fmt: skip
    assert code == 0, output
    for logger in ("train_inner", "valid"):
        expected, found = (logged(text, logger) for text in (trained[1], output))
        prefix = "valid_" if logger == "valid" else ""
        for name in ("loss", "expectations_loss", "nll_loss"):
            assert [r[prefix + name] for r in found] == pytest.approx(
                [r[prefix + name] for r in expected], rel=2e-3, abs=2e-3
            ), name


def test_decoding_needs_no_flag_and_batches_change_nothing(
    corpus: Corpus, trained: tuple[Path, str], tmp_path: Path
) -> None:
    found = []
    for batch in (1, 5):
        output = tmp_path / f"{batch}.jsonl"
        result = run(
            "seqdistill-fairseq-generate", corpus.data, "--path", trained[0], "--batch-size", batch,
            "--cpu", "--quiet", "--uncertainty-output", output, "--uncertainty-measures", "all",
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        found.append({h.id: h for h in read_hypotheses(output)})
    for number, alone in found[0].items():
        assert alone.model.kind == "expectations"
        assert alone.tokens == found[1][number].tokens
        measures = alone.uncertainty
        assert measures == pytest.approx(found[1][number].uncertainty, abs=2e-4)
        assert measures["total_uncertainty"] == pytest.approx(
            measures["data_uncertainty"] + measures["mutual_information"], abs=1e-5
        )
        assert measures["epkl"] == pytest.approx(
            measures["mutual_information"] + measures["reverse_mutual_information"], abs=1e-5
        )


def test_our_own_verbs_and_what_they_refuse(
    corpus: Corpus,
    trained: tuple[Path, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, target = (str(corpus.data.parent / f"test.{language}") for language in ("en", "de"))
    common = ["--path", str(trained[0]), "--data", str(corpus.data), "-s", "en", "-t", "de"]
    common.append("--cpu")
    texts = ["--source", source, "--translations", target]
    assert main(["score", *common, *texts, "--output", str(tmp_path / "s")]) == 0
    assert {h.model.kind for h in read_hypotheses(tmp_path / "s")} == {"expectations"}
    monkeypatch.setattr("sys.stdin", io.StringIO("w1 w2\n"))
    assert main(["translate", *common, "--uncertainty-measures", "inverse_precision"]) == 1
    assert "a model of kind expectations has no inverse_precision" in capsys.readouterr().err
    for options, message in (
        (["--expectations", "epkl"], "expected data_uncertainty or mutual_information as well"),
        (["--expectations-weight=-1"], "--expectations-weight: expected 0 or more"),
        (["--predictive", "mean"], "needs a Dirichlet student, expectations trains none"),
    ):
        with pytest.raises(InputError, match=message):
            build(corpus, "--criterion", "expectations", *options)
