"""Hydra students in fairseq: trained, resumed, decoded and scored by the real programs."""

import io
import math
import os
from pathlib import Path
from typing import Any

import fairseq.options
import fairseq.tasks
import pytest
import torch
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

from fairseq_plugins.features import token_logits
from fairseq_plugins.generation import UncertaintyScorer, UncertaintySequenceGenerator
from fairseq_plugins.generation.loading import load_models
from fairseq_plugins.outputs import attach_outputs
from seqdistill.cli.main import main
from seqdistill.errors import InputError
from seqdistill.hypotheses import read_hypotheses
from seqdistill.student import StudentHead
from seqdistill.uncertainty.estimators import UncertaintyOptions
from tests.plugins.corpus import Corpus, logged, run, training_arguments
from tests.plugins.jobs import run_job
from tests.plugins.scale_runs import run_together
from tests.plugins.tiny_models import collate, tiny_batch, tiny_dictionary, tiny_model

pytestmark = [
    pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask"),
    # fairseq, while a checkpoint is loaded
    pytest.mark.filterwarnings("ignore::UserWarning:hydra"),
]

DICTIONARY = tiny_dictionary()
HEAD = StudentHead("hydra", settings={"members": 3, "rank": 2})
OPTIONS = ["--criterion", "hydra", "--hydra-rank", 4, "--student-init", 1]


def train(corpus: Corpus, save_dir: Path, *options: object) -> tuple[int | None, str]:
    """Train by the real program; return its exit status and what it printed."""
    (outcome,) = run_job(training_arguments(corpus, save_dir, *options), 1, save_dir / "logs")
    return outcome.code, outcome.output


def student_and_ensemble() -> tuple[Any, list[Any]]:
    """A Hydra student, and ordinary models that are its heads.

    Biases of 100 keep the relu where it is the identity, so head m is one linear map of the
    features: the projection W (I + U D) with the bias W U b makes an ordinary model of it.
    """
    student = tiny_model(0, DICTIONARY, HEAD)
    attach_outputs(student, HEAD)
    outputs = student.decoder.student_outputs
    torch.manual_seed(7)
    torch.nn.init.normal_(outputs.up, std=0.2)
    outputs.down_bias.data.fill_(100.0)
    outputs.up.data[..., 1] = -outputs.up.data[..., 0] * 1.01  # the biases nearly cancel
    weight = student.decoder.output_projection.weight.data
    ensemble = []
    for m in range(3):
        model = tiny_model(0, DICTIONARY)
        up, down, bias = (x.data[m] for x in (outputs.up, outputs.down, outputs.down_bias))
        projection = torch.nn.Linear(weight.shape[1], weight.shape[0])
        projection.weight.data = weight + weight @ up @ down
        projection.bias.data = weight @ up @ bias[0]
        model.decoder.output_projection = projection
        ensemble.append(model.eval())
    return student, ensemble


@pytest.mark.parametrize("combination", ["pe", "ep"])
def test_a_student_whose_heads_are_models_decodes_as_their_ensemble(combination: str) -> None:
    student, ensemble = student_and_ensemble()
    options = UncertaintyOptions(("all",), combination)
    sample = tiny_batch(DICTIONARY, [1, 7, 3, 5], with_target=True)
    for made in (
        lambda models: UncertaintySequenceGenerator(
            models, DICTIONARY, options=options, beam_size=3, max_len_a=1.2, max_len_b=8
        ),
        lambda models: UncertaintyScorer(DICTIONARY, options=options),
    ):
        found, expected = (
            made(models).generate(models, sample) for models in ([student], ensemble)
        )
        for mine, theirs in zip(found, expected, strict=True):
            assert mine[0]["model"].kind == "hydra"
            assert mine[0]["tokens"].tolist() == theirs[0]["tokens"].tolist()
            assert mine[0]["uncertainty"] == pytest.approx(
                theirs[0]["uncertainty"], rel=2e-3, abs=2e-4
            )
            torch.testing.assert_close(
                mine[0]["token_log_probs"], theirs[0]["token_log_probs"], rtol=1e-3, atol=1e-3
            )
        assert max(h[0]["uncertainty"]["epkl"] for h in found) > 0.05, "the heads do not differ"


def test_padding_and_batches_change_nothing() -> None:
    student, _ = student_and_ensemble()
    sample = tiny_batch(DICTIONARY, [1, 9, 3, 5], with_target=True)
    pad = DICTIONARY.pad()
    for options in (UncertaintyOptions(), UncertaintyOptions(("all",), "ep")):
        scorer = UncertaintyScorer(DICTIONARY, options=options)
        for row, together in enumerate(scorer.generate([student], sample)):
            source = sample["net_input"]["src_tokens"][row]
            target = sample["target"][row]
            alone = collate(DICTIONARY, [source[source != pad]], [target[target != pad]])
            ((expected,),) = scorer.generate([student], alone)
            assert together[0]["uncertainty"] == pytest.approx(expected["uncertainty"], abs=1e-4)


@pytest.fixture(scope="module")
def trained(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("hydra")
    code, output = train(corpus, folder, *OPTIONS, "--max-update", 12, "--mix-weight", 0.1)
    assert code == 0, output
    return folder / "checkpoint_last.pt", output


def test_a_student_trains_and_logs_what_matters(trained: tuple[Path, str]) -> None:
    checkpoint, output = trained
    curve = [record["loss"] for record in logged(output, "train_inner")]
    assert len(curve) == 12
    assert sum(curve[-4:]) < sum(curve[:4])
    (last, *_) = logged(output, "valid")[-1:]
    for name in ("nll_loss", "accuracy", "ensemble_mi", "spearman_mi", "spearman_rmi"):
        assert math.isfinite(last[f"valid_{name}"]), name
    state = torch.load(checkpoint, weights_only=True)
    assert state["task_state"]["student_head"]["settings"] == {"members": 2, "rank": 4}
    assert state["model"]["decoder.student_outputs.up"].shape == (2, 16, 4)
    assert bool(state["model"]["decoder.student_outputs.up"].abs().max() > 0)


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
        assert (alone.model.kind, alone.model.members) == ("hydra", 2)
        assert alone.tokens == found[1][number].tokens
        assert alone.uncertainty == pytest.approx(found[1][number].uncertainty, abs=2e-4)
        assert alone.uncertainty["mutual_information"] > 0
    result = run(
        "seqdistill-fairseq-validate", corpus.data, "--path", trained[0], "--batch-size", 4,
        "--cpu", "--valid-subset", "valid",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "spearman_rmi" in result.stdout + result.stderr


def test_translating_and_scoring_by_our_own_verbs(
    corpus: Corpus, trained: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = (str(corpus.data.parent / f"test.{language}") for language in ("en", "de"))
    common = ["--path", str(trained[0]), "--data", str(corpus.data), "-s", "en", "-t", "de"]
    common.append("--cpu")
    monkeypatch.setattr("sys.stdin", io.StringIO(Path(source).read_text("utf-8")))
    assert main(["translate", *common, "--beam", "2", "--output", str(tmp_path / "t")]) == 0
    assert {h.model.kind for h in read_hypotheses(tmp_path / "t")} == {"hydra"}
    texts = ["--source", source, "--translations", target, "--against", corpus.ensemble_paths]
    assert main(["score", *common, *texts, "--output", str(tmp_path / "s")]) == 0
    (first, *_) = read_hypotheses(tmp_path / "s")
    assert first.model.kind == "hydra"
    assert first.against is not None
    assert first.against.model.kind == "ensemble"


def test_a_training_that_is_resumed_is_the_same(corpus: Corpus, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    runs = {
        name: training_arguments(corpus, folder, *OPTIONS, "--max-update", updates)
        for name, folder, updates in (("whole", whole, 6), ("begun", parts, 3), ("ended", parts, 6))
    }
    run_together(tmp_path / "logs", runs)
    expected, found = (
        torch.load(folder / "checkpoint_last.pt", weights_only=True)["model"]
        for folder in (whole, parts)
    )
    assert expected.keys() == found.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=0)


def build(corpus: Corpus, *options: object) -> Any:
    """Build student and criterion as fairseq-train does; return the student."""
    arguments = training_arguments(corpus, corpus.data.parent / "unused", *options)
    at = arguments.index("--user-dir")  # the plug-in is imported already
    del arguments[at : at + 2]
    parser = fairseq.options.get_training_parser()
    given = fairseq.options.parse_args_and_arch(parser, input_args=arguments)
    cfg = convert_namespace_to_omegaconf(given)
    task = fairseq.tasks.setup_task(cfg.task)
    model = task.build_model(cfg.model)
    task.build_criterion(cfg.criterion)
    return model


def test_a_student_begins_from_one_of_its_kind(corpus: Corpus, trained: tuple[Path, str]) -> None:
    start = ["--student-init", trained[0]]
    student = build(corpus, "--criterion", "hydra", "--hydra-rank", 4, *start)
    weights = torch.load(trained[0], weights_only=True)["model"]
    assert student.state_dict().keys() == weights.keys()
    for name, weight in student.state_dict().items():
        assert torch.equal(weight, weights[name]), name
    for options, message in (
        (["--criterion", "hydra", "--hydra-rank", 8], r"kind hydra \(members 2, rank 4\), and"),
        (["--criterion", "mean_kl"], "this criterion trains a student of kind softmax"),
        (["--criterion", "cross_entropy"], "this criterion trains an ordinary model"),
    ):
        with pytest.raises(InputError, match=message):
            build(corpus, *options, *start)


def test_what_does_not_go_is_said(
    corpus: Corpus, trained: tuple[Path, str], tmp_path: Path
) -> None:
    paths = os.pathsep.join([str(trained[0]), str(corpus.teachers[0])])
    for options, message in (
        (["--target-store", "store"], "learns from every member's distribution"),
        (["--teacher-placement", "shard"], "take replicate or offload"),
        (["--no-fused-loss"], "criterion hydra has one form"),
        (["--predictive", "mean"], "needs a Dirichlet student, hydra trains heads"),
        (["--ensemble-paths", paths], "a student of kind hydra, which has more outputs"),
    ):
        with pytest.raises(InputError, match=message):
            build(corpus, "--criterion", "hydra", *options)
    # A checkpoint whose heads were taken out.
    state = torch.load(trained[0], weights_only=True)
    for name in [name for name in state["model"] if "student_outputs" in name]:
        del state["model"][name]
    torch.save(state, tmp_path / "bare.pt")
    place = (str(corpus.data), "en", "de")
    with pytest.raises(InputError, match="hydra with 2 heads of rank 4, but the checkpoint has no"):
        load_models([str(tmp_path / "bare.pt")], *place)
    # What reads one row of logits, and fairseq's own search, are not given half a student.
    (student,) = load_models([str(trained[0])], *place).models
    sample = tiny_batch(student.decoder.dictionary, [3, 2], with_target=True)
    with pytest.raises(InputError, match="more outputs than one row of logits"):
        token_logits(student, sample["net_input"], sample["target"].ne(1))
    logits = student(**sample["net_input"])
    with pytest.raises(InputError, match=r"decode with --task ensemble_teacher_translation"):
        student.get_normalized_probs(logits, log_probs=True)
