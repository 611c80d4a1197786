"""Students with a distribution over logits in fairseq: trained, decoded and scored."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq_plugins.generation import UncertaintyScorer, UncertaintySequenceGenerator
from fairseq_plugins.outputs import attach_outputs
from seqdistill.hypotheses import read_hypotheses
from seqdistill.student import StudentHead
from seqdistill.uncertainty.estimators import UncertaintyOptions
from seqdistill.uncertainty.logit_space import LOGIT_SPACE_KINDS
from tests.plugins.corpus import Corpus, logged, run, train
from tests.plugins.tiny_models import collate, tiny_batch, tiny_dictionary, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")

DICTIONARY = tiny_dictionary()
SETTINGS: dict[str, dict[str, Any]] = {
    "laplace": {"comparable": "log_softmax", "rank": 0, "samples": 4},
    "gaussian": {"comparable": "centred", "rank": 2, "samples": 4},
    "concrete": {"samples": 4},
}
OPTIONS: dict[str, list[object]] = {
    "laplace": ["--criterion", "logit_laplace", "--student-samples", 4, "--mix-weight", 0.1],
    "gaussian": ["--criterion", "logit_gaussian", "--comparable-logits", "centred",
                 "--scale-rank", 3, "--likelihood-weight", 0.5],
    "concrete": ["--criterion", "concrete", "--mean-weight", 0.5, "--predictive", "mean"],
}  # fmt: skip


def student(kind: str, predictive: str = "base") -> Any:
    """A random student whose scales depend on the features."""
    head = StudentHead(kind, None, predictive, None, SETTINGS[kind])
    model = tiny_model(0, DICTIONARY, head)
    attach_outputs(model, head)
    torch.manual_seed(5)
    torch.nn.init.normal_(model.decoder.student_outputs.weight, std=0.3)
    return model.eval()


@pytest.mark.parametrize("kind", LOGIT_SPACE_KINDS)
@pytest.mark.parametrize("predictive", ["base", "mean"])
def test_a_decoded_hypothesis_has_the_measures_of_its_scoring(kind: str, predictive: str) -> None:
    model, options = student(kind, predictive), UncertaintyOptions(("all",))
    sample = tiny_batch(DICTIONARY, [1, 7, 3, 5], with_target=True)
    generator = UncertaintySequenceGenerator(
        [model], DICTIONARY, options=options, beam_size=3, max_len_a=1.2, max_len_b=8
    )
    decoded = [best for best, *_ in generator.generate([model], sample)]
    pad = DICTIONARY.pad()
    sources = [row[row != pad] for row in sample["net_input"]["src_tokens"]]
    again = collate(DICTIONARY, sources, [best["tokens"] for best in decoded])
    scored = UncertaintyScorer(DICTIONARY, options=options).generate([model], again)
    for mine, (theirs,) in zip(decoded, scored, strict=True):
        assert mine["model"].kind == kind
        assert mine["tokens"].tolist() == theirs["tokens"].tolist()
        assert mine["uncertainty"] == pytest.approx(theirs["uncertainty"], rel=1e-3, abs=1e-4)
        torch.testing.assert_close(
            mine["token_log_probs"], theirs["token_log_probs"], rtol=1e-3, atol=1e-4
        )
    assert max(best["uncertainty"]["mutual_information"] for best in decoded) > 0.01


def test_padding_and_batches_change_nothing() -> None:
    model = student("laplace")
    sample = tiny_batch(DICTIONARY, [1, 9, 3, 5], with_target=True)
    pad = DICTIONARY.pad()
    scorer = UncertaintyScorer(DICTIONARY, options=UncertaintyOptions(("all",)))
    for row, together in enumerate(scorer.generate([model], sample)):
        source, target = sample["net_input"]["src_tokens"][row], sample["target"][row]
        alone = collate(DICTIONARY, [source[source != pad]], [target[target != pad]])
        ((expected,),) = scorer.generate([model], alone)
        assert together[0]["uncertainty"] == pytest.approx(expected["uncertainty"], abs=1e-4)


@pytest.mark.parametrize("kind", LOGIT_SPACE_KINDS)
def test_training_and_decoding_by_the_real_programs(
    corpus: Corpus, tmp_path: Path, kind: str
) -> None:
    result = train(corpus, tmp_path, *OPTIONS[kind], "--student-init", 1, "--max-update", 12)
    assert result.returncode == 0, result.stderr
    output = result.stdout + result.stderr
    curve = [record["loss"] for record in logged(output, "train_inner")]
    assert len(curve) == 12
    assert sum(curve[-4:]) < sum(curve[:4])
    (last, *_) = logged(output, "valid")[-1:]
    for name in ("nll_loss", "accuracy", "ensemble_mi", "spearman_mi", "spearman_rmi"):
        assert math.isfinite(last[f"valid_{name}"]), name

    checkpoint = tmp_path / "checkpoint_last.pt"
    state = torch.load(checkpoint, weights_only=True)
    head = state["task_state"]["student_head"]
    assert head["kind"] == kind
    assert head["predictive"] == ("mean" if kind == "concrete" else "base")
    V = state["model"]["decoder.embed_tokens.weight"].shape[0]
    weight = state["model"]["decoder.student_outputs.weight"]
    assert weight.shape == {"laplace": (V, 16), "gaussian": (V, 3), "concrete": (1, 16)}[kind]
    assert bool(weight.abs().max() > 0), "the scales did not learn"

    found = []
    for batch in (1, 5):
        path = tmp_path / f"{batch}.jsonl"
        result = run(
            "seqdistill-fairseq-generate", corpus.data, "--path", checkpoint, "--cpu", "--quiet",
            "--batch-size", batch, "--uncertainty-output", path, "--uncertainty-measures", "all",
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        found.append({h.id: h for h in read_hypotheses(path)})
    for number, alone in found[0].items():
        assert alone.model.kind == kind
        assert alone.model.samples == (4 if kind == "laplace" else 16)
        assert alone.model.seed == 0
        assert alone.tokens == found[1][number].tokens
        assert alone.uncertainty == pytest.approx(found[1][number].uncertainty, abs=2e-4)
    if kind != "laplace":
        return
    # The checkpoint's choices can be overruled.
    path = tmp_path / "mean.jsonl"
    result = run(
        "seqdistill-fairseq-generate", corpus.data, "--path", checkpoint, "--cpu", "--quiet",
        "--uncertainty-output", path, "--predictive", "mean", "--dirichlet-samples", 3,
        "--dirichlet-seed", 9, "--score-reference",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    for scored in read_hypotheses(path):
        assert (scored.model.predictive, scored.model.samples, scored.model.seed) == ("mean", 3, 9)
        # Decoded is the members' mean: its joint estimate is the hypothesis's own log-probability.
        joint = -scored.log_prob / len(scored.tokens)
        assert scored.uncertainty["joint_total_uncertainty_pe"] == pytest.approx(joint, rel=1e-4)


def test_bad_options_end_before_training(corpus: Corpus, tmp_path: Path) -> None:
    result = train(
        corpus, tmp_path, "--criterion", "logit_laplace", "--likelihood-weight", 0,
        "--max-update", 1,
    )  # fmt: skip
    assert result.returncode != 0
    assert "leaves the scales untrained" in result.stderr
