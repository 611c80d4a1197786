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


def write_text(options: DataOptions, folder: Path, source_lang: str, target_lang: str) -> None:
    """Write train, valid, test and the out-of-domain sets to ``folder``.

    Raises:
        InputError: the data folder or a file of it is missing.
    """
    root = Path(options.root) / "mt"
    if not root.is_dir():
        raise InputError(
            f"{root}: no such folder. The recipe reads its parallel text from there; say where "
            "the data is with --data-root or SEQDISTILL_DATA_ROOT (recipes/tatoeba_en_de/"
            "README.md lists the files)"
        )
    if options.ood_lines < 1:
        raise InputError(f"data.options.ood_lines must be at least 1, got {options.ood_lines}")

    def lines(name: str, limit: int | None = options.ood_lines) -> list[str]:
        return read_lines(root / name, limit)

    for split in ("train", "valid", "test"):
        source, target = (lines(f"tatoeba_ende/{split}.{lang}", None) for lang in ("en", "de"))
        write_parallel(folder, split, (source_lang, source), (target_lang, target))

    # Other domains, with German references where the source has them.
    for name, prefix in {
        "news": "ntrex_ende/ntrex.{}",
        "interface": "godot_ende/godot.{}",
    }.items():
        source, target = (lines(prefix.format(lang)) for lang in ("en", "de"))
        write_parallel(folder, name, (source_lang, source), (target_lang, target))
    source, target = lines("mlqe_pe_ende/test20.src"), lines("mlqe_pe_ende/test20.pe")
    write_parallel(folder, "wikipedia", (source_lang, source), (target_lang, target))
    write_lines(folder / f"medical.{source_lang}", lines("tico19_enfr/tico19.en"))

    # Not English at all, and English words without English grammar: no reference makes sense.
    write_lines(folder / f"german_source.{source_lang}", lines("tatoeba_ende/test.de"))
    write_lines(folder / f"french_source.{source_lang}", lines("ntrex_ende/ntrex.fr"))
    permuted = permute_words(lines("tatoeba_ende/test.en"), options.seed)
    write_lines(folder / f"permuted.{source_lang}", permuted)


if __name__ == "__main__":
    main(DataOptions, write_text)
