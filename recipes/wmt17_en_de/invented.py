"""A small corpus in the task's own formats, made up: for runs without any download.

Sentences are the demo's artificial language. Between them stand long names, which both sides share
and which are different in every sentence: they give a vocabulary of 40,000 pieces something to be
made of. The corpora have pairs of every kind that cleaning drops.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from random import Random

from recipes.common.text import write_lines
from recipes.demo.language import Lexicon, draw_sentence, make_lexicon, source_text, source_word
from recipes.demo.language import target_text as translation
from recipes.wmt17_en_de.archives import ARCHIVES, CORPORA

NAMES = 12
"""Names in a training sentence."""

TRANSCRIPTS = "LibriSpeech/test-clean"

_DIRT = 2
"""Pairs of each kind of dirt in each corpus."""

Pair = tuple[str, str]


def write_raw(folder: Path, train: int, held_out: int, seed: int) -> None:
    """Write all that a download has, and transcripts, in little.

    Args:
        folder: gets a folder an archive, and ``LibriSpeech/test-clean``.
        train: clean training pairs, of all corpora together.
        held_out: sentences of every other set.
        seed: of the language and of what is drawn.
    """
    lexicon, generator = make_lexicon(seed), Random(f"invented {seed}")
    sets = {
        name: [draw_pair(lexicon, generator, names=1) for _ in range(held_out)]
        for name in ("newstest2013", "newstest2014", "newstest2017", "dev", "test")
    }
    share = -(-train // len(CORPORA))
    for corpus in CORPORA:
        pairs = [draw_pair(lexicon, generator, NAMES) for _ in range(share)]
        _write_corpus(folder / corpus, [*pairs, *_dirt(pairs, sets["newstest2014"])])
    newstest, khresmoi = folder / "newstest", folder / "khresmoi"
    for side, language in enumerate(("en", "de")):
        lines = {name: [pair[side] for pair in pairs] for name, pairs in sets.items()}
        write_lines(newstest / f"newstest2013.{language}", lines["newstest2013"])
        for year in (2014, 2017):
            _write_sgm(newstest / f"newstest{year}.{language}.sgm", lines[f"newstest{year}"])
        for part in ("dev", "test"):
            _write_sgm(khresmoi / f"{part}.{language}.sgm", lines[part][: held_out // 2 or 1])
    other = make_lexicon(seed + 1)
    french = [draw_pair(other, generator, names=1)[1] for _ in range(held_out)]
    _write_sgm(newstest / "newstest2014.fr.sgm", french)
    spoken = [source_text(draw_sentence(lexicon, generator)) for _ in range(held_out)]
    write_lines(
        folder / TRANSCRIPTS / "1" / "2" / "1-2.trans.txt",
        (f"1-2-{number:04} {text.upper()}" for number, text in enumerate(spoken)),
    )
    missing = ARCHIVES.keys() - {path.name for path in folder.iterdir()}
    if missing:
        raise RuntimeError(f"an archive has nothing that takes its place: {sorted(missing)}")


def draw_pair(lexicon: Lexicon, generator: Random, names: int) -> Pair:
    """Draw a sentence with names, and its translation with the same names."""
    clauses = draw_sentence(lexicon, generator)
    invented = " ".join(_name(generator) for _ in range(names))
    return (
        f"{source_text(clauses)} {invented} .",
        f"{translation(clauses, generator)} {invented} .",
    )


def _name(generator: Random) -> str:
    return "".join(source_word(generator) for _ in range(6)).capitalize()


def _dirt(pairs: Sequence[Pair], held_out: Sequence[Pair]) -> list[tuple[bytes | str, str]]:
    """Pairs that cleaning has to drop, of every kind."""
    source, target = pairs[0]
    dirty: list[tuple[bytes | str, str]] = []
    for number in range(_DIRT):
        dirty += [
            (f"Stra\xdfe {number}".encode("latin-1"), target),  # undecodable
            ("", f"{target} {number}"),
            (f"{source} {number}", f"SchÃ¶n {target} {number}"),
            (f"{source} {'x' * 101} {number}", f"{target} {number}"),
            (f"{source} {number}", f"{number}"),  # ratio
            (f"{source} {number}", f"{source} {number}"),  # copied
            held_out[number % len(held_out)],
            pairs[0],  # duplicate
        ]
    return dirty


def _write_corpus(folder: Path, pairs: Sequence[tuple[bytes | str, str]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for side, language in enumerate(("en", "de")):
        lines = [pair[side] for pair in pairs]
        raw = (line if isinstance(line, bytes) else line.encode() for line in lines)
        (folder / f"train.{language}").write_bytes(b"".join(line + b"\n" for line in raw))


def _write_sgm(path: Path, lines: Sequence[str]) -> None:
    segments = [f'<seg id="{n}">{escape(line)}</seg>' for n, line in enumerate(lines, start=1)]
    write_lines(path, ['<refset setid="invented">', "<doc>", *segments, "</doc>", "</refset>"])
