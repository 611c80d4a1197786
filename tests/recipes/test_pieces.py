"""Pieces: kinds of models, samples of large texts, dictionaries of all pieces, permuted sets."""

from pathlib import Path

import pytest

from recipes.common.pieces import (
    ModelSettings,
    _sample,
    encode,
    main,
    permute_pieces,
    train_model,
    write_dictionary,
)
from seqdistill.errors import InputError

sentencepiece = pytest.importorskip("sentencepiece")

LINES = [
    f"the {a} {b} sat on the {b} {a}" for a in ("red", "green", "grey") for b in ("mat", "cat")
]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "text"
    folder.mkdir()
    for language in ("en", "de"):
        for name in ("train", "test"):
            lines = LINES if name == "train" else LINES[:2]
            (folder / f"{name}.{language}").write_text("".join(f"{line}\n" for line in lines))
    return folder


def test_a_sample_is_spread_evenly(tmp_path: Path) -> None:
    text = tmp_path / "train.en"
    text.write_text("".join(f"{n}\n" for n in range(10)))
    assert _sample(text, tmp_path, None) == text
    assert _sample(text, tmp_path, 10) == text
    for wanted, lines in ((5, "0 2 4 6 8"), (3, "0 4 7"), (1, "0"), (9, "0 2 3 4 5 6 7 8 9")):
        assert _sample(text, tmp_path, wanted).read_text().split() == lines.split()


def test_samples_are_removed_and_decide_what_is_learnt(texts: Path, tmp_path: Path) -> None:
    (texts / "train.en").write_text("aaaa\nbbbb\n")
    model = tmp_path / "m" / "spm.model"
    train_model([texts / "train.en"], model, ModelSettings(6, type="bpe", sentences=1))
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    assert processor.piece_to_id("a") != processor.unk_id()
    assert processor.piece_to_id("b") == processor.unk_id()
    assert sorted(path.name for path in model.parent.iterdir()) == ["spm.model", "spm.vocab"]


def test_blocks_of_lines_are_cut_like_one(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "spm.model"
    train_model([texts / "train.en"], model, ModelSettings(20))
    encode(model, texts / "train.en", tmp_path / "whole")
    monkeypatch.setattr("recipes.common.pieces._LINES_AT_ONCE", 4)
    encode(model, texts / "train.en", tmp_path / "parts", threads=2)
    assert (tmp_path / "whole").read_text() == (tmp_path / "parts").read_text()
    assert len((tmp_path / "whole").read_text().splitlines()) == len(LINES)


@pytest.mark.parametrize("size", [28, 29, 30, 31])
def test_a_dictionary_has_every_piece_and_a_size_that_eight_divides(
    texts: Path, tmp_path: Path, size: int
) -> None:
    fairseq = pytest.importorskip("fairseq.data")
    model = tmp_path / "spm.model"
    train_model([texts / "train.en"], model, ModelSettings(size, type="bpe"))
    write_dictionary(model, tmp_path / "dict.txt")
    dictionary = fairseq.Dictionary.load(str(tmp_path / "dict.txt"))
    assert len(dictionary) % 8 == 0
    assert (
        size - 3 + 4 <= len(dictionary) < size - 3 + 4 + 8
    )  # three control symbols, fairseq's four
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    normal = [processor.id_to_piece(number) for number in range(3, size)]
    assert dictionary.symbols[4 : 4 + len(normal)] == normal
    encode(model, texts / "train.en", tmp_path / "pieces")
    for line in (tmp_path / "pieces").read_text().splitlines():
        assert dictionary.unk() not in dictionary.encode_line(line, add_if_not_exist=False).tolist()


def test_permuted_lines_have_the_same_pieces(tmp_path: Path) -> None:
    lines = ["▁a b ▁c d ▁e f g h", "▁x", "▁y z"]
    (tmp_path / "in").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    permute_pieces(tmp_path / "in", tmp_path / "out", seed=1)
    permuted = (tmp_path / "out").read_text(encoding="utf-8").splitlines()
    assert [sorted(line.split()) for line in permuted] == [sorted(line.split()) for line in lines]
    assert permuted[0] != lines[0]
    permute_pieces(tmp_path / "in", tmp_path / "again", seed=1)
    assert (tmp_path / "again").read_text(encoding="utf-8").splitlines() == permuted
    permute_pieces(tmp_path / "in", tmp_path / "other", seed=2)
    assert (tmp_path / "other").read_text(encoding="utf-8").splitlines()[0] != permuted[0]


def test_the_command_line(texts: Path, tmp_path: Path) -> None:
    output = tmp_path / "pieces"
    given = ["--text", str(texts), "--output", str(output), "--languages", "en", "de"]
    given += ["--size", "30", "--type", "bpe", "--permute", "permuted=test", "--whole-dictionary"]
    main(given)
    assert {path.name for path in output.iterdir()} == {
        "dict.txt", "permuted.en", "spm.model", "spm.vocab",
        "test.de", "test.en", "train.de", "train.en",
    }  # fmt: skip
    assert len((output / "permuted.en").read_text().splitlines()) == 2


def test_more_pieces_than_the_text_has(texts: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"could not train 5000 pieces .*data\.pieces\.size"):
        train_model([texts / "train.en"], tmp_path / "spm.model", ModelSettings(5000, type="bpe"))
