"""Terms beside a distillation loss: graphs of relations, and boundary samples."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fairseq.data import Dictionary

from fairseq_plugins.criterions.batch import Batch
from fairseq_plugins.criterions.terms.boundary import BoundarySamples, _logits
from fairseq_plugins.criterions.terms.relational import Relations
from fairseq_plugins.features import token_features
from fairseq_plugins.teachers import TeacherEnsemble
from seqdistill.errors import InputError
from seqdistill.losses.boundary import choose_classes, choose_tokens, decision_margin
from tests.plugins.corpus import Corpus, logged, training_arguments
from tests.plugins.jobs import run_job
from tests.plugins.tiny_models import tiny_dictionary, tiny_model
from tests.reference import relations


def batch(dictionary: Dictionary) -> tuple[dict[str, Any], torch.Tensor]:
    """Five pairs of different lengths, the sources padded on the left."""
    generator = torch.Generator().manual_seed(0)
    lengths = [6, 5, 4, 3, 2]
    source = torch.full((5, 6), dictionary.pad())
    target = torch.full((5, 5), dictionary.pad())
    for row, length in enumerate(lengths):
        words = torch.randint(4, len(dictionary), (length - 1,), generator=generator)
        source[row, 6 - length :] = torch.cat([words, torch.tensor([2])])
        target[row, : length - 1] = words.flip(0)
    net_input = {
        "src_tokens": source,
        "src_lengths": torch.tensor(lengths),
        "prev_output_tokens": torch.cat([torch.full((5, 1), 2), target[:, :-1]], dim=1),
    }
    return {"net_input": net_input, "id": torch.arange(5)}, target.ne(dictionary.pad())


def as_batch(sample: dict[str, Any], mask: torch.Tensor) -> Batch:
    return Batch(sample, mask, torch.empty(0), 1.0, 0, by_sentence=False)


def ensemble(dictionary: Dictionary) -> TeacherEnsemble:
    models = {"1": tiny_model(1, dictionary), "2": tiny_model(2, dictionary)}
    return TeacherEnsemble(["1", "2"], models.__getitem__)


def test_the_graphs_are_those_of_the_models_states() -> None:
    dictionary = tiny_dictionary()
    sample, mask = batch(dictionary)
    student, teachers = tiny_model(3, dictionary), ensemble(dictionary)
    student.eval()
    term = Relations(1.0, "encoder,decoder", 2)
    term.meet(student, teachers)
    with term.watching(as_batch(sample, mask)):
        token_features(student, sample["net_input"], mask)
        teachers.members(sample["net_input"], mask)
    loss = term.distance()
    expected = 0.0
    counted = {"encoder": sample["net_input"]["src_tokens"].ne(1), "decoder": mask}
    with torch.no_grad():
        for part in ("encoder", "decoder"):
            graphs = []
            for model in (student, *teachers.models):
                outside = model.encoder(
                    sample["net_input"]["src_tokens"], sample["net_input"]["src_lengths"]
                )
                states = outside["encoder_out"][0].transpose(0, 1)
                if part == "decoder":
                    states, _ = model.decoder(
                        sample["net_input"]["prev_output_tokens"], outside, features_only=True
                    )
                pooled = [
                    row[keep].mean(dim=0).tolist()
                    for row, keep in zip(states, counted[part], strict=True)
                ]
                graphs.append(relations.graph(pooled, 2))
            mean = (torch.tensor(graphs[1]) + torch.tensor(graphs[2])) / 2
            expected += relations.distance(graphs[0], mean.tolist())
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    loss.backward()
    assert student.encoder.layers[0].fc1.weight.grad.abs().max() > 0
    # Nothing is noted outside.
    token_features(student, sample["net_input"], mask)
    assert term._student == {}


@pytest.mark.parametrize("steps", [1, 3])
def test_a_boundary_sample_is_nearer_to_the_boundary_and_all_models_read_it(steps: int) -> None:
    dictionary = tiny_dictionary()
    sample, mask = batch(dictionary)
    student, teachers = tiny_model(3, dictionary), ensemble(dictionary)
    student.train()
    term = BoundarySamples(1.0, steps, 1.0, 1)
    term.meet(student, teachers)
    clean = [given.clone() for given in teachers.members(sample["net_input"], mask).features]
    mixture = term.sample(sample, mask, update=4)
    assert student.training
    assert all(parameter.grad is None for parameter in student.parameters())
    tokens, others = mixture.tokens, mixture.others
    assert torch.equal(tokens[tokens < 4], others[tokens < 4])  # end and padding stay
    assert bool((others[tokens >= 4] >= 4).all())
    assert bool(((mixture.share >= 0) & (mixture.share <= 1)).all())
    again = term.sample(sample, mask, update=4)
    assert torch.equal(again.others, others)
    assert torch.equal(again.share, mixture.share)
    # Margins of the decisions that were drawn, before and after.
    student.eval()
    generator = torch.Generator().manual_seed(
        int(np.random.SeedSequence([1, 4, 0]).generate_state(1)[0])
    )
    chosen = choose_tokens(mask, generator)
    with torch.no_grad():
        before = _logits(student, sample["net_input"], mask, chosen)
        base, other = choose_classes(before, generator)
        with term.mixing(mixture):
            after = _logits(student, sample["net_input"], mask, chosen)
    margins = [decision_margin(logits, base, other) for logits in (before, after)]
    assert bool((margins[0] > 0).all())
    moved = mixture.share > 0
    assert bool(moved.any())
    assert margins[1][moved].abs().mean() < margins[0][moved].abs().mean()
    # Every teacher reads the mixture by its own embeddings.
    with term.mixing(mixture):
        mixed = teachers.members(sample["net_input"], mask).features
    for model, found, was in zip(teachers.models, mixed, clean, strict=True):
        assert not torch.allclose(found, was)
        encoder = model.encoder
        inside = encoder(
            tokens, sample["net_input"]["src_lengths"],
            token_embeddings=mixture.embeddings(encoder.embed_tokens),
        )  # fmt: skip
        expected, _ = model.decoder(
            sample["net_input"]["prev_output_tokens"], inside, features_only=True
        )
        torch.testing.assert_close(found, expected[mask])


OPTIONS = ("--student-init", "1", "--disable-validation", "--max-update", "8")


def training(corpus: Corpus, folder: Path, *options: str, world: int = 1) -> list[dict[str, float]]:
    arguments = training_arguments(corpus, folder, *OPTIONS, *options)
    outcomes = run_job(arguments, world, folder)
    assert [outcome.code for outcome in outcomes] == [0] * world, outcomes
    return logged(outcomes[0].output, "train_inner")


def refusal(corpus: Corpus, folder: Path, *options: str) -> str:
    (outcome,) = run_job(training_arguments(corpus, folder, *OPTIONS, *options), 1, folder)
    assert outcome.code != 0
    return outcome.output


def test_real_trainings_log_their_terms(corpus: Corpus, tmp_path: Path) -> None:
    wide = ["--encoder-embed-dim", "32", "--decoder-embed-dim", "32", "--student-init", ""]
    both = training(
        corpus, tmp_path / "wide", "--criterion", "mean_kl", "--relational-weight", "0.5",
        "--boundary-weight", "0.2", "--boundary-steps", "2", *wide,
    )  # fmt: skip
    assert len(both) == 8
    for record in both:
        assert record["relational_loss"] > 0
        assert record["boundary_loss"] > 0
        assert 0 < record["boundary_share"] <= 0.5
    assert both[-1]["relational_loss"] < both[0]["relational_loss"]
    proxy = training(
        corpus, tmp_path / "proxy", "--criterion", "proxy_dirichlet", "--relational-weight", "0.5",
        "--relational-states", "encoder", "--relational-neighbours", "2",
        "--teacher-placement", "offload",
    )  # fmt: skip
    assert proxy[0]["relational_loss"] > 0
    assert "boundary_loss" not in proxy[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--relational-weight", "-1"], "--relational-weight: expected 0 or more"),
        (["--relational-weight", "1", "--relational-states", "all"], "--relational-states"),
        (["--boundary-weight", "1", "--boundary-reach", "0"], "--boundary-reach"),
        (["--boundary-weight", "1", "--no-fused-loss"], "go with the fused loss"),
        (
            [
                "--boundary-weight", "1", "--source-dropout", "0.1", "--teacher-source", "clean",
            ],
            "the teachers read another source",
        ),
    ],
)  # fmt: skip
def test_bad_options(corpus: Corpus, tmp_path: Path, options: list[str], message: str) -> None:
    assert message in refusal(corpus, tmp_path, "--criterion", "mean_kl", *options)


def test_two_processes_follow_the_curve_of_two_batches_a_step(
    corpus: Corpus, tmp_path: Path
) -> None:
    """The choices depend on the batch, not on which process has it."""
    given = ["--criterion", "proxy_dirichlet", "--relational-weight", "0.5", "--max-update", "3"]
    given += ["--boundary-weight", "0.3", "--boundary-steps", "2"]
    one = training(corpus, tmp_path / "one", *given, "--update-freq", "2")
    two = training(corpus, tmp_path / "two", *given, world=2)
    assert len(one) == len(two) == 3
    for name in ("loss", "relational_loss", "boundary_loss", "boundary_share"):
        expected = [record[name] for record in one]
        assert [record[name] for record in two] == pytest.approx(expected, rel=2e-3), name


@pytest.mark.parametrize(
    "term", [Relations(1.0, "encoder", 0), BoundarySamples(1.0, 1, 0.5, 1)], ids=["graphs", "moved"]
)
def test_stored_targets_are_refused(term: Any) -> None:
    with pytest.raises(InputError, match="--target-store does not hold"):
        term.meet(tiny_model(1, tiny_dictionary()), None)
