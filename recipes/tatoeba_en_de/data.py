"""Text of the Tatoeba recipe: one training domain, seven sets that lie outside it."""

from dataclasses import dataclass
from pathlib import Path

from recipes.common.text import main, permute_words, read_lines, write_lines, write_parallel
from seqdistill.errors import InputError


@dataclass(frozen=True)
class DataOptions:
    """Options under ``data.options`` of the recipe.

    Attributes:
        root: the data folder, which holds ``mt/tatoeba_ende`` and the others.
        ood_lines: how many lines of each out-of-domain set to use, from its beginning.
        seed: seed of the permuted set.
    """

    root: str
    ood_lines: int = 1000
    seed: int = 1


TRAINING = "tatoeba_ende/{split}.{language}"
"""The training domain, in splits train, valid and test."""

PARALLEL = {
    "news": ("ntrex_ende/ntrex.en", "ntrex_ende/ntrex.de"),
    "interface": ("godot_ende/godot.en", "godot_ende/godot.de"),
    "wikipedia": ("mlqe_pe_ende/test20.src", "mlqe_pe_ende/test20.pe"),
}
"""Other domains with German references."""

SOURCE_ONLY = {
    "medical": "tico19_enfr/tico19.en",
    "german_source": "tatoeba_ende/test.de",
    "french_source": "ntrex_ende/ntrex.fr",
}
"""Another domain and other languages; there is no reference, or none that makes sense."""

UNLABELLED = {"monolingual": "mlqe_pe_ende/train.src"}
"""English alone, to learn from; none of its sentences is in the out-of-domain sets."""


def source_files(options: DataOptions) -> list[Path]:
    """Return every file that the text is made from."""
    names = [
        TRAINING.format(split=split, language=language)
        for split in ("train", "valid", "test")
        for language in ("en", "de")
    ]
    names += [name for pair in PARALLEL.values() for name in pair]
    names += [*SOURCE_ONLY.values(), *UNLABELLED.values()]
    return [Path(options.root) / "mt" / name for name in dict.fromkeys(names)]


def write_text(options: DataOptions, folder: Path, source_lang: str, target_lang: str) -> None:
    """Write train, valid, test and the out-of-domain sets to ``folder``.

    Raises:
        InputError: a file of the data folder is missing, or ``ood_lines`` is below 1.
    """
    if options.ood_lines < 1:
        raise InputError(f"data.options.ood_lines must be at least 1, got {options.ood_lines}")

    def lines(name: str, limit: int | None = options.ood_lines) -> list[str]:
        return read_lines(Path(options.root) / "mt" / name, limit)

    for split in ("train", "valid", "test"):
        source, target = (
            lines(TRAINING.format(split=split, language=language), None)
            for language in ("en", "de")
        )
        write_parallel(folder, split, (source_lang, source), (target_lang, target))
    for name, (source_name, target_name) in PARALLEL.items():
        sides = (source_lang, lines(source_name)), (target_lang, lines(target_name))
        write_parallel(folder, name, *sides)
    for name, source_name in SOURCE_ONLY.items():
        write_lines(folder / f"{name}.{source_lang}", lines(source_name))
    for name, source_name in UNLABELLED.items():
        write_lines(folder / f"{name}.{source_lang}", lines(source_name, None))
    permuted = permute_words(lines("tatoeba_ende/test.en"), options.seed)
    write_lines(folder / f"permuted.{source_lang}", permuted)


if __name__ == "__main__":
    main(DataOptions, write_text)
