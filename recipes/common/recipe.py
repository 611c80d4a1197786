"""What a recipe can say: the keys of ``recipe.yaml`` as dataclasses."""

import importlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from recipes.common.checks import check
from recipes.common.config import build, merge, parse_setting, read_yaml, unknown
from seqdistill.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[2]
"""The checkout; every command of a recipe runs from there."""

RANDOM = "random"
"""In place of a teacher's name: a student starts from random weights."""

DATA_ROOT = "{data_root}"
"""Stands for the data folder in a recipe's paths."""

Arguments = dict[str, Any]
"""Options of a fairseq command line, without the dashes: ``{"max-update": 500}``."""


@dataclass(frozen=True)
class Pieces:
    """The joint sentencepiece model that is trained, unless given teachers bring theirs.

    Attributes:
        size: number of pieces.
        character_coverage: share of characters that get a piece.
        type: ``unigram`` or ``bpe``.
        sentences: train on so many lines of each side, evenly spread; None: on all.
        whole_dictionary: fairseq's dictionary has every piece, not only those that the training
            text uses, so that the vocabulary is as large as ``size`` says.
    """

    size: int = 4000
    character_coverage: float = 1.0
    type: str = "unigram"
    sentences: int | None = None
    whole_dictionary: bool = False


@dataclass(frozen=True)
class Data:
    """Stage 1.

    Attributes:
        ood: the out-of-domain sets: name → what it is, in the order of the report.
        kind: ``text`` (translation) or ``speech`` (recognition).
        unlabelled: of text: sets without references that students may learn from, by way of
            ``transfer``: name → what it is.
        tests: of text: further test sets of the domain: decoded, and scored for quality; they take
            no part in detection.
        permuted: of text: sets of ``ood`` that are made of another set's pieces in random order:
            name → that set.
        source_lang, target_lang: of text: names of the two sides, as fairseq wants them.
        pieces: of text: how it is cut.
        prepare: of speech: options of ``seqdistill prepare-speech``.
        options: options of the recipe's own ``data.py``.
    """

    ood: dict[str, str]
    kind: str = "text"
    source_lang: str | None = None
    target_lang: str | None = None
    pieces: Pieces | None = None
    tests: dict[str, str] = field(default_factory=dict)
    unlabelled: dict[str, str] = field(default_factory=dict)
    permuted: dict[str, str] = field(default_factory=dict)
    prepare: Arguments = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GivenTeachers:
    """Teachers that exist already, with what their pieces are made by.

    Attributes:
        checkpoints: one file a teacher.
        model: their sentencepiece model.
        dictionary: their fairseq dictionary, of both languages.
    """

    checkpoints: list[str]
    model: str
    dictionary: str


@dataclass(frozen=True)
class Teachers:
    """Stage 2.

    Attributes:
        mode: ``train`` or ``given``.
        given: the given ones.
        count: how many to train; their seeds are ``seed``, ``seed`` + 1, ….
        average: a teacher is the mean of its last so many checkpoints, one an epoch that is saved;
            None: it is its best checkpoint.
        arguments: options of fairseq-train, over those of all trainings.
    """

    mode: str = "train"
    given: GivenTeachers | None = None
    count: int = 3
    average: int | None = None
    arguments: Arguments = field(default_factory=dict)


@dataclass(frozen=True)
class Targets:
    """Stage 3.

    Attributes:
        mode: ``store``: the ensemble runs once over the training set, and students read what it
            said; ``online``: it runs beside every student's training (speech: always, since its
            features are augmented anew in every epoch); ``none``: students get neither, and learn
            from references alone or from what their own options name.
        arguments: options of ``seqdistill cache-targets``.
    """

    mode: str = "store"
    arguments: Arguments = field(default_factory=dict)


@dataclass(frozen=True)
class LanguageModel:
    """Stage 3, where a set to learn from is drawn from it: a model of the training set's sources.

    Attributes:
        arguments: options of fairseq-train; nothing is shared with other trainings.
    """

    arguments: Arguments = field(default_factory=dict)


@dataclass(frozen=True)
class Transfer:
    """Another set to learn from than the training set: text with the ensemble's own outputs.

    Attributes:
        subset: ``train``, or an unlabelled set, whose sources are translated.
        generate: the sources are drawn from the language model instead: options of ``seqdistill
            generate-sources``; None: they are those of ``subset``.
        arguments: options of ``seqdistill cache-targets``, over those of ``targets``.
    """

    subset: str = "train"
    generate: Arguments | None = None
    arguments: Arguments = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """One part of a student's training, which starts from where the one before ended.

    Attributes:
        arguments: options of fairseq-train, over the student's own: loss, its weights, length,
            ``freeze`` or ``train-only`` for the parts that are trained.
        targets: ``store``, ``online`` or ``none``; None: as the student's.
        transfer: the set that is learnt from, of ``transfer``; None: the student's.
    """

    arguments: Arguments = field(default_factory=dict)
    targets: str | None = None
    transfer: str | None = None


@dataclass(frozen=True)
class Student:
    """One distillation.

    Attributes:
        init: the teacher whose weights it starts from, or ``random``; None: as ``students.init``.
        arguments: its own options of fairseq-train, over those of all students.
        targets: ``store``, ``online`` or ``none``; None: as ``targets.mode``.
        transfer: the set that it learns from, of ``transfer``; None: the training set.
        stages: its training in parts, one after the other; none: in one.
    """

    init: str | None = None
    arguments: Arguments = field(default_factory=dict)
    targets: str | None = None
    transfer: str | None = None
    stages: list[Stage] = field(default_factory=list)


@dataclass(frozen=True)
class Students:
    """Stage 4.

    Attributes:
        init: the teacher whose weights the students start from (``teacher1``); None: random.
        average: as of teachers.
        arguments: options of fairseq-train of all students, over those of all trainings.
        each: the students by name.
    """

    init: str | None = None
    average: int | None = None
    arguments: Arguments = field(default_factory=dict)
    each: dict[str, Student] = field(default_factory=dict)


@dataclass(frozen=True)
class System:
    """One row of the comparison.

    Attributes:
        models: ``teachers`` (all of them together), ``teacher1`` …, or a student's name.
        label: what the tables call it.
        predictive: ``base`` or ``mean`` for a Dirichlet student; None takes the default.
        arguments: its own options of fairseq-generate, over those of ``decode``.
    """

    models: str
    label: str
    predictive: str | None = None
    arguments: Arguments = field(default_factory=dict)


@dataclass(frozen=True)
class Decode:
    """Stages 5 and 6.

    Attributes:
        search: options of fairseq-generate for the search.
        force: options of fairseq-generate for scoring the references.
    """

    search: Arguments = field(default_factory=dict)
    force: Arguments = field(default_factory=dict)


@dataclass(frozen=True)
class Assess:
    """Stage 7.

    Attributes:
        measures: the measures that the summary table shows (all are in ``results.json``).
        sentence_metric: quality of one sentence for the rejection curves: ``chrf`` or ``bleu``.
        resamples: bootstrap resamples of every interval.
        seed: of the bootstrap.
    """

    measures: list[str]
    sentence_metric: str = "chrf"
    resamples: int = 1000
    seed: int = 0


@dataclass(frozen=True)
class Gradients:
    """Stage 7, where it is wanted: the losses' gradients by the rank of a class.

    Attributes:
        at: the models at whose parameters they are taken: a teacher's or student's name → what the
            report calls it; logits of 0 come beside them.
        sentences: of the validation set, drawn at random.
    """

    at: dict[str, str]
    sentences: int = 300


@dataclass(frozen=True)
class Launch:
    """How trainings are started.

    Attributes:
        deepspeed: a configuration of DeepSpeed (JSON): trainings run on its engine, and their
            checkpoints are put together to ordinary ones after that; None: fairseq's own trainer.
        processes: of one training, with ``torchrun`` on this machine; None: the training starts as
            many as it wants.
        launcher: words before the program instead of ``torchrun``'s, for several machines.
        environment: variables of the trainings.
    """

    deepspeed: str | None = None
    processes: int | None = None
    launcher: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Published:
    """A number that someone else has published, shown beside ours.

    Attributes:
        what: whose it is, and of what.
        value: the number.
        source: where it is written.
        system: ours that it is compared with.
        set: of ours.
        score: ``bleu`` or ``chrf``.
    """

    what: str
    value: float
    source: str
    system: str
    set: str = "test"
    score: str = "bleu"


@dataclass(frozen=True)
class Recipe:
    """A whole experiment.

    Attributes:
        title: one line for tables and the report.
        targets: whether targets are stored, and how.
        transfer: further sets that students can learn from, by name; text only.
        language_model: what sets are drawn from that are to be generated; None: there is none.
        gradients: where the losses' gradients are looked at; None: nowhere.
        launch: how trainings are started.
        published: others' numbers that the results have beside ours.
        training: options of fairseq-train that teachers and students share.
        seed: seed of every training, unless it says otherwise.
        jobs: how many steps may run at once.
        threads: CPU threads of each step.
        reference: the system that students are compared with (fidelity).
        name: the recipe's folder; not a key of the file.
        scale: the scale that was chosen, ``full`` if none; not a key of the file.
        data_root: the data folder, where the recipe speaks of one; not a key of the file.
        left_out: out-of-domain sets of the file whose data is not there, by name, with the reason;
            ``data.ood`` is without them; not a key of the file.
    """

    title: str
    data: Data
    training: Arguments
    teachers: Teachers
    students: Students
    systems: dict[str, System]
    reference: str
    decode: Decode
    assess: Assess
    targets: Targets = field(default_factory=Targets)
    transfer: dict[str, Transfer] = field(default_factory=dict)
    language_model: LanguageModel | None = None
    gradients: Gradients | None = None
    launch: Launch = field(default_factory=Launch)
    published: list[Published] = field(default_factory=list)
    seed: int = 1
    jobs: int = 1
    threads: int = 1
    name: str = field(default="", metadata={"in_file": False})
    scale: str = field(default="full", metadata={"in_file": False})
    data_root: str | None = field(default=None, metadata={"in_file": False})
    left_out: dict[str, str] = field(default_factory=dict, metadata={"in_file": False})

    @property
    def languages(self) -> tuple[str, str]:
        """Source and target language of text.

        Raises:
            InputError: the recipe does not name them.
        """
        source, target = self.data.source_lang, self.data.target_lang
        if source is None or target is None:
            raise InputError("data.source_lang and data.target_lang have to name the two sides")
        return source, target

    @property
    def given(self) -> GivenTeachers | None:
        """The given teachers; None when teachers are to be trained."""
        return self.teachers.given if self.teachers.mode == "given" else None

    @property
    def teacher_names(self) -> list[str]:
        """``teacher1``, ``teacher2``, …, given or to be trained."""
        count = self.teachers.count if self.given is None else len(self.given.checkpoints)
        return [f"teacher{number}" for number in range(1, count + 1)]

    def stages_of(self, name: str) -> list[Stage]:
        """Return the parts of a student's training, whole: a student without has one."""
        student = self.students.each[name]
        return [
            Stage(
                student.arguments | stage.arguments,
                stage.targets or student.targets or self.targets.mode,
                stage.transfer or student.transfer,
            )
            for stage in student.stages or [Stage()]
        ]

    def subset_of(self, transfer: str) -> str:
        """Return the name of the sentences that a set to learn from is made of."""
        made = self.transfer[transfer]
        return made.subset if made.generate is None else transfer

    def models_of(self, system: str) -> list[str]:
        """Return the names of the models that a system decodes with."""
        models = self.systems[system].models
        return self.teacher_names if models == "teachers" else [models]


def load(folder: str | Path, settings: Sequence[str] = (), data_root: str | None = None) -> Recipe:
    """Read a recipe, choose its scale and lay the settings of a command line over it.

    Args:
        folder: the recipe's folder, ``recipes/demo``.
        settings: ``key=value`` each, as given to ``--set``; ``scale=tiny`` chooses a scale.
        data_root: where the real data lies, for recipes that use it; by default the environment's
            ``SEQDISTILL_DATA_ROOT``, else ``../shared/data`` beside the checkout.

    Raises:
        InputError: a key is unknown, a value has the wrong type, or names do not match.
    """
    folder = Path(folder).resolve()
    if folder.parent != REPOSITORY / "recipes":
        raise InputError(
            f"{folder} is not a folder in {REPOSITORY / 'recipes'}; recipes live there, since "
            "their data.py is imported from there"
        )
    values = read_yaml(folder / "recipe.yaml")
    scales = values.pop("scales", None) or {}
    changes = [parse_setting(setting) for setting in settings]
    scale = next((change.pop("scale") for change in reversed(changes) if "scale" in change), "full")
    if scale != "full":
        if scale not in scales:
            raise unknown("scale", str(scale), ["full", *scales])
        values = merge(values, scales[scale])
    for change in changes:
        values = merge(values, change)
    root = str(find_data_root(data_root)) if DATA_ROOT in json.dumps(values) else None
    recipe = replace(
        build(Recipe, _replace_data_root(values, root)),
        name=folder.name,
        scale=str(scale),
        data_root=root,
    )
    check(recipe)
    return _leave_out(recipe)


def read_resolved(path: Path) -> Recipe:
    """Read a recipe as the runner wrote it to its work folder, scale and settings included.

    Raises:
        InputError: the file is missing or not a recipe.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected the work folder of a recipe that ran")
    return build_resolved(json.loads(path.read_text(encoding="utf-8")))


def build_resolved(values: Mapping[str, Any]) -> Recipe:
    """Return a recipe from what ``dataclasses.asdict`` made of it."""
    names: dict[str, Any] = {key: values.get(key) for key in ("name", "scale", "data_root")}
    others = {k: v for k, v in values.items() if k not in (*names, "left_out")}
    return replace(build(Recipe, others), **names, left_out=values.get("left_out", {}))


def require_data_root(recipe: Recipe) -> None:
    """Check that the data folder is there, where the recipe needs one.

    Raises:
        InputError: it is not; the message says how to name it.
    """
    if recipe.data_root is not None and not Path(recipe.data_root).is_dir():
        raise InputError(
            f"the recipe {recipe.name} needs real data, and there is no folder "
            f"{recipe.data_root}; say where it is with --data-root FOLDER or the environment "
            f"variable SEQDISTILL_DATA_ROOT (recipes/{recipe.name}/README.md lists its files)"
        )


def data_module(recipe: Recipe) -> ModuleType:
    """Return a recipe's ``data.py``."""
    return importlib.import_module(f"recipes.{recipe.name}.data")


def shared_modules(recipe: Recipe) -> list[Path]:
    """Return the modules of ``recipes/common`` that a recipe's ``data.py`` makes its text with."""
    names = getattr(data_module(recipe), "SHARED_MODULES", ("text",))
    return [Path("recipes/common") / f"{name}.py" for name in names]


def data_files(recipe: Recipe) -> list[Path]:
    """Return the files that a recipe's text is made from, as its ``data.py`` names them."""
    module = data_module(recipe)
    if not hasattr(module, "source_files"):
        return []
    options = build(module.DataOptions, recipe.data.options, "data.options")
    return list(module.source_files(options))


def _leave_out(recipe: Recipe) -> Recipe:
    """Take out the sets that the recipe's ``data.py`` says are not there, and keep the reasons."""
    module = data_module(recipe)
    options = build(module.DataOptions, recipe.data.options, "data.options")
    if not hasattr(module, "absent_sets"):
        return recipe
    absent: dict[str, str] = module.absent_sets(options)
    left_out = {name: absent[name] for name in recipe.data.ood if name in absent}
    there = {name: what for name, what in recipe.data.ood.items() if name not in left_out}
    return replace(recipe, data=replace(recipe.data, ood=there), left_out=left_out)


def find_data_root(given: str | None) -> Path:
    """Return the data folder: as given, else from the environment, else beside the checkout."""
    chosen = given or os.environ.get("SEQDISTILL_DATA_ROOT")
    return Path(chosen).expanduser().resolve() if chosen else REPOSITORY.parent / "shared" / "data"


def _replace_data_root(value: Any, root: str | None) -> Any:
    if root is None:
        return value
    if isinstance(value, str):
        return value.replace(DATA_ROOT, root)
    if isinstance(value, Mapping):
        return {key: _replace_data_root(item, root) for key, item in value.items()}
    if isinstance(value, list):
        return [_replace_data_root(item, root) for item in value]
    return value
