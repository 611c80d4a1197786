"""The artificial language: repeatable, parallel, and ambiguous in the ways that it claims."""

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from recipes.common.text import permute_words, read_lines
from recipes.demo.data import DataOptions, replace_words, write_text
from recipes.demo.language import (
    CLASSES,
    LONGEST,
    SHORTEST,
    Clause,
    Lexicon,
    NounPhrase,
    draw_sentence,
    make_lexicon,
    source_text,
    target_text,
)
from seqdistill.errors import InputError

OPTIONS = DataOptions(train=60, valid=10, test=20)


@pytest.fixture(scope="module")
def lexicon() -> Lexicon:
    return make_lexicon(seed=1)


def say(lexicon: Lexicon, noun_number: int, verb_number: int, seed: int = 0) -> str:
    """The target of "a NOUN VERBs", without adverbs."""
    subject = NounPhrase(lexicon.nouns[noun_number], definite=False)
    intransitive = [verb for verb in lexicon.verbs if not verb.transitive]
    clause = Clause(lexicon, subject, intransitive[verb_number], past=False)
    return target_text([clause], Random(seed))


def test_words_are_distinct_and_follow_from_the_seed(lexicon: Lexicon) -> None:
    assert lexicon == make_lexicon(seed=1)
    assert lexicon != make_lexicon(seed=2)
    assert 150 <= len(lexicon.source_words()) <= 250


def test_sentences_have_the_lengths_they_claim(lexicon: Lexicon) -> None:
    generator = Random(3)
    for _ in range(300):
        words = source_text(draw_sentence(lexicon, generator)).split()
        assert SHORTEST <= len(words) <= LONGEST
        assert set(words) <= lexicon.source_words()


def test_the_verb_comes_last_in_the_target(lexicon: Lexicon) -> None:
    noun = next(n for n, word in enumerate(lexicon.nouns) if len(word.targets) == 1)
    said = say(lexicon, noun, verb_number=9).split()
    assert said[1] == lexicon.nouns[noun].targets[0]
    assert said[-1].startswith(lexicon.verbs[-1].targets[0])


def test_context_decides_and_luck_does_not(lexicon: Lexicon) -> None:
    number = next(n for n, word in enumerate(lexicon.nouns) if word.by_context)
    translations = {}
    for verb, family in ((8, 0), (9, 1)):
        nouns = {say(lexicon, number, verb, seed).split()[1] for seed in range(20)}
        assert len(nouns) == 1, "the same verb must always give the same translation"
        translations[family] = nouns.pop()
    assert translations == dict(enumerate(lexicon.nouns[number].targets))


def test_synonyms_are_luck(lexicon: Lexicon) -> None:
    number = next(
        n for n, word in enumerate(lexicon.nouns) if len(word.targets) > 1 and not word.by_context
    )
    nouns = {say(lexicon, number, verb_number=9, seed=seed).split()[1] for seed in range(60)}
    assert nouns == set(lexicon.nouns[number].targets)


def test_one_source_has_several_translations_in_general(lexicon: Lexicon) -> None:
    generator = Random(4)
    several = 0
    for _ in range(100):
        clauses = draw_sentence(lexicon, generator)
        several += len({target_text(clauses, Random(seed)) for seed in range(8)}) > 1
    assert 40 < several < 100, "most sentences are ambiguous, some are not"


def test_determiner_adjective_and_verb_agree(lexicon: Lexicon) -> None:
    def say_in(noun_class: int) -> list[str]:
        noun = replace(lexicon.nouns[-1], noun_class=noun_class)
        subject = NounPhrase(noun, definite=True, adjective=lexicon.adjectives[-1])
        clause = Clause(lexicon, subject, lexicon.verbs[-1], past=False)
        return target_text([clause], Random(0)).split()

    forms = [say_in(noun_class) for noun_class in range(CLASSES)]
    for position in (0, 2, 3):  # determiner, adjective, verb
        assert len({words[position] for words in forms}) == CLASSES
    assert len({words[1] for words in forms}) == 1  # the noun itself stays


def test_text_is_repeatable_and_parallel(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_text(OPTIONS, tmp_path / folder, "src", "tgt")
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "two").iterdir())
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    for split, size in (("train", 60), ("valid", 10), ("test", 20)):
        for side in ("src", "tgt"):
            assert len(read_lines(tmp_path / "one" / f"{split}.{side}")) == size


def test_no_test_sentence_was_trained_on(tmp_path: Path) -> None:
    write_text(OPTIONS, tmp_path, "src", "tgt")
    splits = [set(read_lines(tmp_path / f"{name}.src")) for name in ("train", "valid", "test")]
    assert sum(len(split) for split in splits) == 90
    assert len(set.union(*splits)) == 90


def test_the_sets_outside_the_domain_are_outside(tmp_path: Path, lexicon: Lexicon) -> None:
    write_text(OPTIONS, tmp_path, "src", "tgt")
    test = [line.split() for line in read_lines(tmp_path / "test.src")]
    known = lexicon.source_words()

    unseen = [line.split() for line in read_lines(tmp_path / "unseen_words.src")]
    assert [len(words) for words in unseen] == [len(words) for words in test]
    share = sum(word not in known for words in unseen for word in words) / sum(map(len, unseen))
    assert 0.2 < share < 0.5

    permuted = [line.split() for line in read_lines(tmp_path / "permuted.src")]
    assert [sorted(words) for words in permuted] == [sorted(words) for words in test]
    assert permuted != test

    other = [line.split() for line in read_lines(tmp_path / "other_grammar.src")]
    assert all(set(words) <= known for words in other)
    assert sum(map(len, other)) > 1.5 * sum(map(len, test))


def test_sharing_no_words_or_all() -> None:
    assert replace_words(["la ne"], {"la", "ne"}, 0.0, seed=1) == ["la ne"]
    assert not {"la", "ne"} & set(replace_words(["la ne"], {"la", "ne"}, 1.0, seed=1)[0].split())


def test_permuting_is_repeatable() -> None:
    lines = ["a b c d e f", "g h i j k l"]
    assert permute_words(lines, 1) == permute_words(lines, 1)
    assert permute_words(lines, 1) != permute_words(lines, 2)


@pytest.mark.parametrize("options", [{"train": 0}, {"unseen_share": 1.5}])
def test_sizes_that_make_no_sense(tmp_path: Path, options: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"data\.options"):
        write_text(replace(OPTIONS, **options), tmp_path, "src", "tgt")
