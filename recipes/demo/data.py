"""Text of the demo: the artificial language, and three ways to leave it."""

from dataclasses import dataclass
from pathlib import Path
from random import Random

from recipes.common.text import main, permute_words, write_lines, write_parallel
from recipes.demo.language import (
    Lexicon,
    draw_sentence,
    make_lexicon,
    source_text,
    source_word,
    target_text,
)
from seqdistill.errors import InputError


@dataclass(frozen=True)
class DataOptions:
    """Options under ``data.options`` of the recipe.

    Attributes:
        train, valid, test: sentences in each part; the out-of-domain sets have ``test`` too.
        seed: seed of the language and of its sentences.
        unseen_share: share of the words that ``unseen_words`` replaces by words never seen.
    """

    train: int = 4000
    valid: int = 300
    test: int = 300
    seed: int = 1
    unseen_share: float = 0.35


def write_text(options: DataOptions, folder: Path, source_lang: str, target_lang: str) -> None:
    """Write train, valid, test and the three out-of-domain sets to ``folder``.

    Raises:
        InputError: a size below 1, or a share outside [0, 1].
    """
    for name in ("train", "valid", "test"):
        if getattr(options, name) < 1:
            raise InputError(
                f"data.options.{name} must be at least 1, got {getattr(options, name)}"
            )
    if not 0 <= options.unseen_share <= 1:
        raise InputError(
            f"data.options.unseen_share is a share from 0 to 1, got {options.unseen_share}"
        )
    lexicon = make_lexicon(options.seed)
    generator = Random(f"sentences {options.seed}")
    seen: set[str] = set()
    sources: list[str] = []
    for name in ("train", "valid", "test"):
        pairs = [draw_pair(lexicon, generator, seen) for _ in range(getattr(options, name))]
        sources, targets = [source for source, _ in pairs], [target for _, target in pairs]
        write_parallel(folder, name, (source_lang, sources), (target_lang, targets))

    # `sources` is now the test part: two of the three sets change it, so that nothing but the
    # change itself sets them apart from it.
    write_lines(
        folder / f"unseen_words.{source_lang}",
        replace_words(sources, lexicon.source_words(), options.unseen_share, options.seed),
    )
    write_lines(folder / f"permuted.{source_lang}", permute_words(sources, options.seed))
    write_lines(
        folder / f"other_grammar.{source_lang}",
        (other_grammar(lexicon, generator) for _ in range(options.test)),
    )


def draw_pair(lexicon: Lexicon, generator: Random, seen: set[str]) -> tuple[str, str]:
    """Draw a sentence whose source is not in ``seen`` yet (and add it), with its translation."""
    while (source := source_text(clauses := draw_sentence(lexicon, generator))) in seen:
        pass
    seen.add(source)
    return source, target_text(clauses, generator)


def replace_words(lines: list[str], known: set[str], share: float, seed: int) -> list[str]:
    """Replace a share of the words by made-up words of the same sounds, none of them known."""
    generator = Random(f"unseen words {seed}")

    def unseen() -> str:
        while (word := source_word(generator)) in known:
            pass
        return word

    return [
        " ".join(unseen() if generator.random() < share else word for word in line.split())
        for line in lines
    ]


def other_grammar(lexicon: Lexicon, generator: Random) -> str:
    """Draw a longer sentence of known words in another grammar: every clause runs backwards.

    Verb before subject, determiner after noun, and two or three sentences in a row.
    """
    count = generator.choice((2, 3))
    sentences = (source_text(draw_sentence(lexicon, generator)) for _ in range(count))
    return " ".join(" ".join(reversed(sentence.split())) for sentence in sentences)


if __name__ == "__main__":
    main(DataOptions, write_text)
