"""What is written: ids, texts, names, and a file that is whole or has another name."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.data import Dictionary

from fairseq_plugins.generation import (
    HypothesisRecorder,
    UncertaintyScorer,
    UncertaintySequenceGenerator,
)
from fairseq_plugins.generation.conversion import text_decoder
from seqdistill.errors import InputError
from seqdistill.hypotheses import Hypothesis, read_hypotheses
from seqdistill.student import StudentHead
from seqdistill.uncertainty.measures import measures_of
from tests.plugins.tiny_models import tiny_batch, tiny_dictionary, tiny_model

# fairseq's attention gives torch masks of two types.
pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")

DICTIONARY = tiny_dictionary()
TASK = SimpleNamespace(source_dictionary=DICTIONARY, target_dictionary=DICTIONARY)
HEADS = {
    "ensemble": [None, None],
    "softmax": [None],
    "dirichlet": [StudentHead("dirichlet", 1.0)],
}


def decoded(kind: str = "ensemble", lengths: tuple[int, ...] = (3, 5)) -> tuple[Any, Any]:
    models = [tiny_model(seed, DICTIONARY, head) for seed, head in enumerate(HEADS[kind])]
    sample = tiny_batch(DICTIONARY, list(lengths), with_target=True)
    generator = UncertaintySequenceGenerator(models, DICTIONARY, beam_size=2, max_len_b=8)
    return sample, generator.generate(models, sample)


def read(path: Path) -> list[Hypothesis]:
    return list(read_hypotheses(path))


@pytest.mark.parametrize("kind", HEADS)
def test_a_record_holds_what_was_decoded(tmp_path: Path, kind: str) -> None:
    sample, hypos = decoded(kind)
    sample["id"] = torch.tensor([7, 4])
    path = tmp_path / "folder" / "out.jsonl"
    recorder = HypothesisRecorder(path, TASK)
    recorder.expect(2)
    recorder.record(sample, hypos, n_best=2)
    records = read(path)
    assert [(r.id, r.rank) for r in records] == [(7, 0), (7, 1), (4, 0), (4, 1)]
    for record, hypo in zip(records, [h for candidates in hypos for h in candidates], strict=True):
        assert record.tokens == hypo["tokens"].tolist()
        assert record.pieces[-1] == "</s>"
        assert record.text == "".join(record.pieces[:-1]).replace("▁", " ").strip()
        assert record.token_log_probs == pytest.approx(hypo["token_log_probs"].tolist(), rel=1e-6)
        assert record.log_prob == pytest.approx(sum(record.token_log_probs))
        assert record.score == pytest.approx(float(hypo["score"]))
        assert set(record.uncertainty) == set(measures_of(kind))
        assert {len(v) for v in record.token_uncertainty.values()} == {len(record.tokens)}
        assert (record.model.kind, record.forced) == (kind, False)
    assert records[0].source == text_decoder(DICTIONARY)(sample["net_input"]["src_tokens"][0])
    assert records[2].reference == text_decoder(DICTIONARY)(sample["target"][1])


def test_only_the_best_unless_more_are_asked_for(tmp_path: Path) -> None:
    recorder = HypothesisRecorder(tmp_path / "out.jsonl", TASK)
    recorder.expect(2)
    recorder.record(*decoded())
    assert [r.rank for r in read(tmp_path / "out.jsonl")] == [0, 0]


def test_forced_targets(tmp_path: Path) -> None:
    sample = tiny_batch(DICTIONARY, [3, 5], with_target=True)
    recorder = HypothesisRecorder(tmp_path / "out.jsonl", TASK)
    recorder.expect(2)
    models = [tiny_model(0, DICTIONARY)]
    recorder.record(sample, UncertaintyScorer(DICTIONARY).generate(models, sample))
    for record in read(tmp_path / "out.jsonl"):
        assert record.forced
        assert record.score is None
        assert record.text == record.reference
        assert record.token_confidence is not None
        assert record.token_correct is not None
        assert len(record.token_confidence) == len(record.token_correct) == len(record.tokens)


def test_the_file_gets_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("an older run\n")
    recorder = HypothesisRecorder(path, TASK)
    recorder.expect(4)
    recorder.record(*decoded())
    assert path.read_text() == "an older run\n"
    assert len(read(tmp_path / "out.jsonl.part")) == 2
    recorder.record(*decoded())
    assert len(read(path)) == 4
    assert not (tmp_path / "out.jsonl.part").exists()
    with pytest.raises(InputError, match="closed after 4"):
        recorder.record(*decoded())


def test_ids_of_interactive_use_follow_the_order_of_the_batches(tmp_path: Path) -> None:
    recorder = HypothesisRecorder(tmp_path / "out.jsonl", TASK)
    sample, hypos = decoded()
    del sample["id"]
    for _ in range(2):  # two buffers of four lines, in batches sorted by length
        recorder.expect_order([[2, 0], [1, 3]])
        recorder.record(sample, hypos)
        recorder.record(sample, hypos)
    recorder.complete()
    assert [r.id for r in read(tmp_path / "out.jsonl")] == [2, 0, 1, 3, 6, 4, 5, 7]


def test_a_choice_of_measures(tmp_path: Path) -> None:
    recorder = HypothesisRecorder(
        tmp_path / "out.jsonl", TASK, "joint_total_uncertainty_ep,epkl,total_uncertainty"
    )
    recorder.expect(2)
    recorder.record(*decoded())
    record = read(tmp_path / "out.jsonl")[0]
    assert set(record.token_uncertainty) == {"epkl", "total_uncertainty"}
    assert set(record.uncertainty) == set(record.token_uncertainty) | {"joint_total_uncertainty_ep"}


def test_bad_choices_of_measures(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'mkl'.*total_uncertainty"):
        HypothesisRecorder(tmp_path / "out.jsonl", TASK, "epkl,mkl")
    recorder = HypothesisRecorder(tmp_path / "out.jsonl", TASK, ["epkl"])
    with pytest.raises(InputError, match="kind softmax has no epkl"):
        recorder.record(*decoded("softmax"))


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    sample, hypos = decoded()
    hypos[1][0]["uncertainty"]["epkl"] = float("inf")
    with pytest.raises(InputError, match="sentence 1: epkl is inf"):
        HypothesisRecorder(tmp_path / "out.jsonl", TASK).record(sample, hypos)


def test_texts_of_words_of_subwords_and_through_bpe() -> None:
    tokens = torch.tensor([4, 5, 6, 2])

    def dictionary_of(*pieces: str) -> Dictionary:
        dictionary = Dictionary()
        for piece in pieces:
            dictionary.add_symbol(piece)
        return dictionary

    assert text_decoder(dictionary_of("two", "plain", "words"))(tokens) == "two plain words"
    assert text_decoder(dictionary_of("▁jo", "in", "▁ed"))(tokens) == "join ed"
    assert text_decoder(dictionary_of("jo@@", "in", "ed"))(tokens) == "join ed"
    upper = SimpleNamespace(decode=str.upper)
    dots = SimpleNamespace(decode=lambda text: text + ".")
    assert text_decoder(dictionary_of("▁a", "b", "c"), upper, dots)(tokens) == "▁A B C."


EXIT_SCRIPT = """
import sys
from tests.plugins import test_generation_output as t
recorder = t.HypothesisRecorder(sys.argv[1], t.TASK)
recorder.record(*t.decoded())
{ending}
"""


@pytest.mark.parametrize(
    ("ending", "is_complete"),
    [("", True), ("1 / 0", False), ("recorder.abandon(); sys.exit(1)", False)],
)
def test_without_a_known_number_the_end_of_the_program_decides(
    tmp_path: Path, ending: str, is_complete: bool
) -> None:
    path = tmp_path / "out.jsonl"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", EXIT_SCRIPT.format(ending=ending), str(path)],
        cwd=Path(__file__).parents[2],
        # DeepSpeed, which fairseq imports where it is installed, says on stdout what it has found.
        env={**os.environ, "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
    )
    assert path.exists() is is_complete, done.stderr
    assert (tmp_path / "out.jsonl.part").exists() is not is_complete
    assert done.stdout == ""
    if ending == "1 / 0":
        assert "holds 2 sentences: the run did not finish" in done.stderr
