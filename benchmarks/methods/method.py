"""What ``methods.yaml`` can say, as dataclasses."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.common.checks import TARGET_MODES
from recipes.common.config import build, read_yaml, unknown
from recipes.common.recipe import Arguments, Transfer
from seqdistill.errors import InputError

FILE = Path(__file__).resolve().parent / "methods.yaml"
"""The methods of this project."""

_NAME = re.compile(r"[a-z0-9_]+")


@dataclass(frozen=True)
class Command:
    """One command before or after a training.

    Attributes:
        name: what people call it.
        command: one line, split as a shell would, with placeholders.
        outputs: files that it must write, relative to its ``{folder}``.
        inputs: files that it reads beside data and teachers.
        shared: whether all seeds share one run of it.
    """

    name: str
    command: str
    outputs: list[str]
    inputs: list[str] = field(default_factory=list)
    shared: bool = False


@dataclass(frozen=True)
class Part:
    """One part of a method's training, which starts from where the one before ended.

    Attributes:
        share: of the updates; those of all parts are one.
        arguments: options of fairseq-train, over the method's.
        targets: ``store``, ``online`` or ``none``; None: as the method's.
        transfer: the set that is learnt from; None: the method's.
    """

    share: float
    arguments: Arguments = field(default_factory=dict)
    targets: str | None = None
    transfer: str | None = None


@dataclass(frozen=True)
class Method:
    """One row of the comparison.

    Attributes:
        label: what tables call it.
        source: the paper, or why it is there.
        main: whether it is trained with every seed.
        targets: ``store``, ``online`` or ``none``; None: as the file's.
        transfer: the set that is learnt from, of ``transfer``; None: the training set.
        init: what the student starts from; None: what the recipe's students do.
        arguments: options of fairseq-train.
        stages: the training in parts, one after the other; none: in one.
        patience: how many times as long as the others it is trained.
        student: the method whose student is decoded, where none is trained.
        decode: options of fairseq-generate.
        predictive: ``base`` or ``mean``; None takes the default.
        before, after: commands around the training.
    """

    label: str
    source: str
    main: bool = False
    targets: str | None = None
    transfer: str | None = None
    init: str | None = None
    arguments: Arguments = field(default_factory=dict)
    stages: list[Part] = field(default_factory=list)
    patience: float = 1.0
    student: str | None = None
    decode: Arguments = field(default_factory=dict)
    predictive: str | None = None
    before: list[Command] = field(default_factory=list)
    after: list[Command] = field(default_factory=list)


@dataclass(frozen=True)
class Bench:
    """The whole file.

    Attributes:
        recipe: folder of the recipe that everything else is taken from.
        seeds: of main methods; the others have the first.
        updates: of every student; a method's ``patience`` is how many times as many it has.
        baselines: systems of the recipe.
        detection: measures that tell out-of-domain sentences in the table.
        rejection: measures that sentences are rejected by.
        methods: by name, in the order of the table.
        settings: changes of the recipe, as ``--set`` has them.
        transfer: further sets to learn from, over the recipe's.
        against: the method that all others are compared with on the same sentences.
        targets: of methods that do not say: ``store``, ``online`` or ``none``.
    """

    recipe: str
    seeds: list[int]
    updates: int
    baselines: list[str]
    detection: list[str]
    rejection: list[str]
    methods: dict[str, Method]
    settings: list[str] = field(default_factory=list)
    transfer: dict[str, Transfer] = field(default_factory=dict)
    against: str | None = None
    targets: str = "store"


@dataclass(frozen=True)
class Run:
    """A method with one seed, or a baseline, which has none.

    Attributes:
        method: its name, or the baseline's.
        seed: None for a baseline.
    """

    method: str
    seed: int | None

    @property
    def name(self) -> str:
        """``proxy-seed1``, or the baseline's name."""
        return self.method if self.seed is None else f"{self.method}-seed{self.seed}"


def read_bench(path: Path = FILE) -> Bench:
    """Read a file of methods.

    Raises:
        InputError: a key is unknown, a value has the wrong type, or names do not match.
    """
    bench = build(Bench, read_yaml(path))
    if not bench.seeds or bench.updates < 1:
        raise InputError(f"{path}: expected at least one seed and one update")
    if bench.against is not None and bench.against not in bench.methods:
        raise unknown("method", bench.against, list(bench.methods), "against")
    if bench.targets not in TARGET_MODES:
        raise unknown("targets", bench.targets, TARGET_MODES)
    for name, method in bench.methods.items():
        where = f"methods.{name}"
        if not _NAME.fullmatch(name):
            raise InputError(f"{where}: a name has small letters, digits and underscores")
        if name in bench.baselines:
            raise InputError(f"{where}: a baseline has that name")
        if method.targets not in (None, *TARGET_MODES):
            raise unknown("targets", str(method.targets), TARGET_MODES, where)
        if not 0 < method.patience < float("inf"):
            raise InputError(f"{where}.patience: expected more than 0, got {method.patience:g}")
        shares = sum(part.share for part in method.stages)
        if method.stages and not abs(shares - 1) < 1e-6:
            raise InputError(f"{where}.stages: expected shares that add up to 1, got {shares:g}")
        if method.student is not None:
            others = [other for other, one in bench.methods.items() if one.student is None]
            if method.student not in others:
                raise unknown("method", method.student, others, f"{where}.student")
            trained = [
                key
                for key in ("arguments", "before", "init", "patience", "stages", "transfer")
                if getattr(method, key) != getattr(Method("", ""), key)
            ]
            if trained:
                raise InputError(
                    f"{where}.{trained[0]} is for a training, and {name} decodes the student of "
                    f"{method.student}"
                )
    return bench


def choose_runs(
    bench: Bench, methods: Sequence[str] | None = None, seeds: Sequence[int] | None = None
) -> list[Run]:
    """Return the runs that are asked for, first seeds first, after the baselines.

    Args:
        bench: the file.
        methods: names; None: all. What decodes another method's student brings that one.
        seeds: of every method; None: the file's for main methods, its first for the others.

    Raises:
        InputError: there is no such method.
    """
    names = list(bench.methods) if methods is None else list(methods)
    for name in names:
        if name not in bench.methods:
            raise unknown("method", name, list(bench.methods), "--methods")
    brought = {bench.methods[name].student for name in names}
    names = [name for name in bench.methods if name in names or name in brought]
    runs = [Run(name, None) for name in bench.baselines]
    for seed in bench.seeds if seeds is None else seeds:
        for name in names:
            if seeds is not None or seed in expected_seeds(bench, name):
                runs.append(Run(name, seed))
    return runs


def runs_named(bench: Bench, names: Iterable[str]) -> list[Run]:
    """Return the runs that names such as ``proxy-seed1`` are of; other names are left away."""
    found = []
    for name in names:
        method, _, seed = name.rpartition("-seed")
        if name in bench.baselines:
            found.append(Run(name, None))
        elif method in bench.methods and seed.isdecimal():
            found.append(Run(method, int(seed)))
    return found


def expected_seeds(bench: Bench, name: str) -> list[int]:
    """Return the seeds that a method's row is to have."""
    return bench.seeds if bench.methods[name].main else bench.seeds[:1]


def updates_of(bench: Bench, name: str) -> int:
    """Return how long a method's student is trained."""
    return max(1, round(bench.methods[name].patience * bench.updates))


def fill(value: Any, words: Mapping[str, str], where: str) -> Any:
    """Return a value with its placeholders replaced.

    Args:
        value: text, or lists and mappings of it; other things stay.
        words: what stands for what.
        where: the value's place, for messages.

    Raises:
        InputError: a placeholder has no meaning.

    Example:
        >>> fill(["--seed", "{seed}"], {"seed": "3"}, "methods.end")
        ['--seed', '3']
    """
    if isinstance(value, Mapping):
        return {key: fill(item, words, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [fill(item, words, where) for item in value]
    if not isinstance(value, str):
        return value
    # Braces around something that is no name, as in JSON, stay as they are.
    for name in re.findall(r"\{([a-z_0-9]+)\}", value):
        if name not in words:
            raise unknown("placeholder", "{" + name + "}", sorted(words), where)
        value = value.replace("{" + name + "}", words[name])
    return value
