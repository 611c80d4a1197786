"""An artificial language pair: small enough to learn in a minute, ambiguous enough to be unsure of.

The source puts the verb in the middle, the target at the end. A translation needs

* **agreement**: determiners, adjectives and verbs of the target take the noun's class and number;
* **context**: some nouns have two translations, and the *verb* of the clause decides which;
* **luck**: some words have synonyms, and an adverb may come first or last, with or without a
  particle. Nothing in the source says which. This is the *data uncertainty* that no teacher can
  remove, and that a good student keeps.

Everything follows from a seed: the same seed gives the same words and the same sentences.

Example:
    >>> from random import Random
    >>> lexicon = make_lexicon(seed=1)
    >>> clause = draw_clause(lexicon, Random(7))
    >>> print(source_text([clause]))
    la ruol rirtigak lanmenan ne zomukpum ne ru bruchogak
    >>> print(target_text([clause], Random(1)))
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

CLASSES = 3
"""Noun classes of the target ("genders")."""

SHORTEST, LONGEST = 4, 14
"""Words of a source sentence."""

_PLURAL = "en"
_OBJECT = "m"
_ADJECTIVE_ENDINGS = ("o", "a", "i")
_VERB_ENDINGS = ("te", "ta", "ti")
_PARTICLE = "jo"


@dataclass(frozen=True)
class Word:
    """A source word and its translations.

    Attributes:
        source: the word itself.
        targets: its translations; several are synonyms unless ``by_context``.
        by_context: the clause's verb family, not luck, picks the translation.
        noun_class: the target's class, for nouns and names.
        family: 0 or 1, for verbs: what context-dependent nouns look at.
        transitive: whether a verb takes an object.
    """

    source: str
    targets: tuple[str, ...]
    by_context: bool = False
    noun_class: int = 0
    family: int = 0
    transitive: bool = False

    def translate(self, family: int, generator: Random) -> str:
        """Pick a translation: by the verb's family, or by chance among synonyms."""
        if self.by_context:
            return self.targets[family]
        return generator.choice(self.targets)


@dataclass(frozen=True)
class Lexicon:
    """All words of the language, by kind."""

    nouns: tuple[Word, ...]
    names: tuple[Word, ...]
    verbs: tuple[Word, ...]
    adjectives: tuple[Word, ...]
    adverbs: tuple[Word, ...]
    prepositions: tuple[Word, ...]
    definite: str
    indefinite: str
    past: str
    conjunction: Word
    target_determiners: tuple[tuple[str, ...], tuple[str, ...]]

    def source_words(self) -> set[str]:
        """Every word form that a source sentence can hold."""
        kinds = (self.names, self.verbs, self.adjectives, self.adverbs, self.prepositions)
        words = {word.source for kind in kinds for word in kind}
        words |= {noun.source + ending for noun in self.nouns for ending in ("", _PLURAL)}
        return words | {self.definite, self.indefinite, self.past, self.conjunction.source}


@dataclass(frozen=True)
class NounPhrase:
    """A noun with its company; ``definite`` is None for names."""

    noun: Word
    definite: bool | None
    adjective: Word | None = None
    plural: bool = False


@dataclass(frozen=True)
class Clause:
    """What one clause says, before either language puts it into words."""

    lexicon: Lexicon
    subject: NounPhrase
    verb: Word
    past: bool
    object: NounPhrase | None = None
    preposition: Word | None = None
    place: NounPhrase | None = None
    adverb: Word | None = None


def syllables(generator: Random, count: int, onsets: str, vowels: str, codas: str) -> str:
    """Make up a word of ``count`` syllables; a space among the codas means none."""
    word = ""
    for _ in range(count):
        word += generator.choice(onsets) + generator.choice(vowels) + generator.choice(codas)
    return word.replace(" ", "")


def source_word(generator: Random) -> str:
    """Make up a word that sounds like the source language."""
    return syllables(generator, generator.choice((2, 2, 3)), "bdgklmnprstvz", "aeiou", "   knrl")


def _target_word(generator: Random) -> str:
    return syllables(generator, generator.choice((2, 2, 3)), "fhjklmpqstwx", "aeiou", "    sn")


def make_lexicon(seed: int) -> Lexicon:
    """Make up the language: about 220 source word forms."""
    generator = Random(seed)
    used: set[str] = set()

    def fresh(make: Callable[[Random], str]) -> str:
        while (word := make(generator)) in used:
            pass
        used.add(word)
        return word

    def words(count: int, synonyms: int = 0, contexts: int = 0, **kind: bool) -> tuple[Word, ...]:
        made = []
        for number in range(count):
            several = number < synonyms + contexts
            targets = tuple(fresh(_target_word) for _ in range(2 if several else 1))
            if number < synonyms and number % 4 == 0:
                targets += (fresh(_target_word),)
            made.append(
                Word(
                    fresh(source_word),
                    targets,
                    by_context=synonyms <= number < synonyms + contexts,
                    noun_class=generator.randrange(CLASSES),
                    family=number % 2,
                    **kind,
                )
            )
        return tuple(made)

    def names(count: int) -> tuple[Word, ...]:
        made = (fresh(source_word).capitalize() for _ in range(count))
        return tuple(Word(name, (name,), noun_class=number % 2) for number, name in enumerate(made))

    return Lexicon(
        nouns=words(64, synonyms=16, contexts=12),
        names=names(16),
        verbs=words(18, synonyms=6, transitive=True) + words(10, synonyms=3),
        adjectives=words(24, synonyms=6),
        adverbs=words(12, synonyms=2),
        prepositions=words(6),
        definite="la",
        indefinite="ne",
        past="ru",
        conjunction=Word("su", ("ke",)),
        target_determiners=(("de", "da", "di", "des"), ("xe", "xa", "xi", "xes")),
    )


def draw_noun_phrase(lexicon: Lexicon, generator: Random) -> NounPhrase:
    """Draw who or what a clause speaks of."""
    if generator.random() < 0.15:
        return NounPhrase(generator.choice(lexicon.names), definite=None)
    adjective = generator.choice(lexicon.adjectives) if generator.random() < 0.4 else None
    return NounPhrase(
        generator.choice(lexicon.nouns),
        definite=generator.random() < 0.5,
        adjective=adjective,
        plural=generator.random() < 0.3,
    )


def draw_clause(lexicon: Lexicon, generator: Random) -> Clause:
    """Draw a clause's meaning."""
    subject = draw_noun_phrase(lexicon, generator)
    verb = generator.choice(lexicon.verbs)
    past = generator.random() < 0.3
    obj = draw_noun_phrase(lexicon, generator) if verb.transitive else None
    preposition = place = adverb = None
    if generator.random() < 0.3:
        preposition = generator.choice(lexicon.prepositions)
        place = draw_noun_phrase(lexicon, generator)
    if generator.random() < 0.4:
        adverb = generator.choice(lexicon.adverbs)
    return Clause(lexicon, subject, verb, past, obj, preposition, place, adverb)


def draw_sentence(lexicon: Lexicon, generator: Random) -> list[Clause]:
    """Draw one or two clauses that make a source sentence of 4 to 14 words."""
    while True:
        count = 2 if generator.random() < 0.3 else 1
        clauses = [draw_clause(lexicon, generator) for _ in range(count)]
        if SHORTEST <= len(source_text(clauses).split()) <= LONGEST:
            return clauses


def source_text(clauses: Sequence[Clause]) -> str:
    """Say it in the source language: subject (past) verb object, place, adverb."""
    return f" {clauses[0].lexicon.conjunction.source} ".join(map(_source_clause, clauses))


def _source_clause(clause: Clause) -> str:
    lexicon = clause.lexicon
    words = _source_phrase(lexicon, clause.subject)
    words += [lexicon.past] if clause.past else []
    words += [clause.verb.source]
    words += _source_phrase(lexicon, clause.object)
    if clause.preposition is not None:
        words += [clause.preposition.source, *_source_phrase(lexicon, clause.place)]
    words += [clause.adverb.source] if clause.adverb else []
    return " ".join(words)


def _source_phrase(lexicon: Lexicon, phrase: NounPhrase | None) -> list[str]:
    if phrase is None:
        return []
    if phrase.definite is None:
        return [phrase.noun.source]
    adjective = [phrase.adjective.source] if phrase.adjective else []
    noun = phrase.noun.source + (_PLURAL if phrase.plural else "")
    return [lexicon.definite if phrase.definite else lexicon.indefinite, *adjective, noun]


def target_text(clauses: Sequence[Clause], generator: Random) -> str:
    """Say it in the target language; ``generator`` decides what the source leaves open."""
    said = [_target_clause(clause, generator) for clause in clauses]
    return f" {clauses[0].lexicon.conjunction.targets[0]} ".join(said)


def _target_clause(clause: Clause, generator: Random) -> str:
    family = clause.verb.family

    def phrase(part: NounPhrase | None, ending: str = "") -> list[str]:
        return _target_phrase(clause.lexicon, part, family, generator, ending)

    words = phrase(clause.subject)
    if clause.preposition is not None:
        words += [*phrase(clause.place), clause.preposition.translate(family, generator)]
    words += phrase(clause.object, _OBJECT)
    ending = _VERB_ENDINGS[clause.subject.noun.noun_class] + ("n" if clause.subject.plural else "")
    words += [clause.verb.translate(family, generator) + ending]
    words += ["hu"] if clause.past else []
    if clause.adverb is not None:
        adverb = [clause.adverb.translate(family, generator)]
        adverb += [_PARTICLE] if generator.random() < 0.5 else []
        words = adverb + words if generator.random() < 0.6 else words + adverb
    return " ".join(words)


def _target_phrase(
    lexicon: Lexicon, phrase: NounPhrase | None, family: int, generator: Random, ending: str
) -> list[str]:
    """Determiner, noun, adjective: all in the noun's class and number."""
    if phrase is None:
        return []
    noun = phrase.noun.translate(family, generator)
    if phrase.definite is None:
        return [noun + ending]
    form = CLASSES if phrase.plural else phrase.noun.noun_class
    words = [lexicon.target_determiners[phrase.definite][form] + ending]
    words += [noun + ("s" if phrase.plural else "")]
    if phrase.adjective is not None:
        stem = phrase.adjective.translate(family, generator)
        words += [stem + _ADJECTIVE_ENDINGS[phrase.noun.noun_class]]
    return words
