"""Where a recipe's things are: its work folder, and the checkpoints of its models."""

from dataclasses import dataclass
from pathlib import Path

from recipes.common.recipe import Recipe


@dataclass(frozen=True)
class WorkFolder:
    """Where things are in a work folder."""

    root: Path

    @property
    def text(self) -> Path:
        """Text, one sentence a line: ``<set>.<language>``."""
        return self.root / "data" / "text"

    @property
    def pieces(self) -> Path:
        """The same in sentence pieces, with ``spm.model``."""
        return self.root / "data" / "pieces"

    @property
    def binarised(self) -> Path:
        """What fairseq reads; every set is a ``--gen-subset``."""
        return self.root / "data" / "binarised"

    @property
    def audio(self) -> Path:
        """Speech: a folder a set in LibriSpeech's layout, and a list of its files."""
        return self.root / "data" / "audio"

    @property
    def prepared(self) -> Path:
        """What fairseq reads of speech: manifests, features, pieces; every set is a subset."""
        return self.root / "data" / "prepared"

    @property
    def recipe(self) -> Path:
        """The recipe as it was run: scale, settings and all."""
        return self.root / "recipe.json"

    @property
    def results(self) -> Path:
        """All numbers."""
        return self.root / "results.json"

    @property
    def table(self) -> Path:
        """The numbers as Markdown."""
        return self.root / "results.md"

    @property
    def gradients(self) -> Path:
        """The losses' gradients by the rank of a class."""
        return self.root / "gradients.json"

    @property
    def manifest(self) -> Path:
        """What the report shows, for ``seqdistill report``."""
        return self.root / "report.json"

    @property
    def report(self) -> Path:
        """The HTML page."""
        return self.root / "report.html"

    def trained(self, kind: str, name: str) -> Path:
        """The checkpoint of a ``teachers`` or ``students`` training."""
        return self.root / kind / name / "checkpoint_best.pt"

    def averaged(self, kind: str, name: str) -> Path:
        """The mean of the last checkpoints of a training."""
        return self.root / kind / name / "averaged.pt"

    def consolidated(self, kind: str, name: str) -> Path:
        """The best checkpoint of a training on DeepSpeed's engine as one ordinary file."""
        return self.root / kind / name / "consolidated.pt"

    def targets(self, subset: str) -> Path:
        """The target store of ``train`` or ``valid``."""
        return self.root / "targets" / subset

    def transfer(self, name: str) -> Path:
        """The target store of a further set to learn from, and its data."""
        return self.root / "transfer" / name

    @property
    def language_model(self) -> Path:
        """The language model of the training set's sources, and its data."""
        return self.root / "language_model"

    def generated(self, name: str) -> Path:
        """The sources of a set to learn from that are drawn, as a data folder, and their counts."""
        return self.root / "generated" / name

    def decoded(self, system: str, name: str) -> Path:
        """Hypotheses of a system on a set."""
        return self.root / "decode" / system / f"{name}.jsonl"

    def forced(self, system: str, name: str = "test") -> Path:
        """The references of the test or validation set as scored by a system."""
        return self.root / "forced" / system / f"{name}.jsonl"


def teacher_paths(recipe: Recipe, work: WorkFolder) -> tuple[Path, ...]:
    """Checkpoints of all teachers."""
    return tuple(model_path(recipe, work, name) for name in recipe.teacher_names)


def model_path(recipe: Recipe, work: WorkFolder, name: str) -> Path:
    """The checkpoint of a teacher or student, by name."""
    is_student = name in recipe.students.each
    if recipe.given is not None and not is_student:
        return Path(recipe.given.checkpoints[recipe.teacher_names.index(name)])
    kind = "students" if is_student else "teachers"
    average = recipe.students.average if is_student else recipe.teachers.average
    if average is not None:
        return work.averaged(kind, name)
    if recipe.launch.deepspeed is not None:
        return work.consolidated(kind, name)
    return work.trained(kind, name)


def reference_paths(recipe: Recipe, work: WorkFolder) -> list[Path]:
    """Checkpoints of the system that the others are compared with."""
    return [model_path(recipe, work, model) for model in recipe.models_of(recipe.reference)]
