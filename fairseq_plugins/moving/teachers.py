"""Teachers that move, for a criterion an ensemble like any other."""

import os
from collections.abc import Callable
from dataclasses import fields
from typing import Any, Protocol

from torch import Tensor, nn

from fairseq_plugins.checkpoints import load_checkpoint
from fairseq_plugins.features import gives_features, token_features
from fairseq_plugins.moving.options import MovingOptions
from fairseq_plugins.teachers import TeacherEnsemble, find_members
from seqdistill.errors import InputError
from seqdistill.losses.cross_entropy import projected_cross_entropy
from seqdistill.teachers.cheap.posterior import PosteriorChain, PosteriorPlan
from seqdistill.teachers.moving_average import MovingAverage

#: Where a checkpoint's task state has it.
STATE = "moving_teacher"


class Motion(Protocol):
    """What moves the teachers of a training."""

    def learn(self, net_input: dict[str, Any], target: Tensor, token_mask: Tensor) -> None:
        """See a batch that the student learns from.

        Args:
            net_input: fairseq's, as the teachers read it.
            target: (B, T) pieces.
            token_mask: (B, T) whether they count.
        """
        ...

    def step(self) -> None:
        """Follow an update of the student."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what a checkpoint kept."""
        ...


class MovingTeachers(TeacherEnsemble):
    """Frozen models of which a motion says what they are.

    Args:
        path: of the model that they began as, for messages.
        models: the list, which the motion may make longer.
        motion: of these models.
    """

    def __init__(self, path: str, models: list[nn.Module], motion: Motion) -> None:
        super().__init__([], lambda path: nn.Module())
        self._path = path
        self.models = models
        self.motion = motion

    @property
    def paths(self) -> list[str]:  # type: ignore[override]
        """Names of the models, for messages."""
        return [f"{self._path}, sample {number}" for number in range(1, len(self.models) + 1)]

    @paths.setter
    def paths(self, paths: list[str]) -> None:
        """Names are made, not given."""


class AverageMotion:
    """The moving average of a student.

    Args:
        student: the model in training.
        decay: see :class:`MovingAverage`.
    """

    def __init__(self, student: nn.Module, decay: float) -> None:
        self._student = student
        self.average = MovingAverage(student, decay)

    def learn(self, net_input: dict[str, Any], target: Tensor, token_mask: Tensor) -> None:
        """The average learns from the student alone."""

    def step(self) -> None:
        """Follow the student."""
        device = next(self._student.parameters()).device
        self.average.model.to(device)
        self.average.follow(self._student)

    def state_dict(self) -> dict[str, Any]:
        """See :class:`Motion`."""
        return self.average.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`Motion`."""
        self.average.load_state_dict(state)


class PosteriorMotion:
    """A Langevin chain on the batches of its student.

    Args:
        chain: of a model that was trained on these data.
    """

    def __init__(self, chain: PosteriorChain) -> None:
        self.chain = chain

    def learn(self, net_input: dict[str, Any], target: Tensor, token_mask: Tensor) -> None:
        """Add the likelihood of a batch's references."""
        model: Any = self.chain.model
        if next(model.parameters()).device != target.device:
            model.to(target.device)
        references = target[token_mask]
        if gives_features(model):
            given = token_features(model, net_input, token_mask)
            loss = projected_cross_entropy(given.features, given.weight, references, given.bias)
        else:
            logits = model(**net_input)[0][token_mask]
            loss = nn.functional.cross_entropy(logits.float(), references, reduction="sum")
        self.chain.learn(loss, len(references))

    def step(self) -> None:
        """Take a Langevin step."""
        self.chain.step()

    def state_dict(self) -> dict[str, Any]:
        """See :class:`Motion`."""
        return self.chain.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`Motion`."""
        self.chain.load_state_dict(state)


def moving_teachers(
    cfg: Any, load: Callable[[str], nn.Module], student: nn.Module, least: int
) -> MovingTeachers | None:
    """Return the teachers of ``--moving-teacher``; None where they stand still.

    Args:
        cfg: options of the task.
        load: makes a model of a path.
        student: the model in training.
        least: members that the criterion needs.

    Raises:
        InputError: options do not fit the criterion, or a model is bad.
    """
    kind = str(cfg.moving_teacher)
    if kind == "none":
        return None
    if least > 1:
        raise InputError(
            f"--moving-teacher {kind} begins as one model, which does not disagree with itself, "
            "and this criterion learns how members disagree; take mean_kl, kdgan or expectations"
        )
    if kind == "average":
        motion = AverageMotion(student, cfg.average_decay)
        return MovingTeachers("the student's average", [motion.average.model], motion)
    paths = find_members(cfg.ensemble_paths, least=1)
    if len(paths) > 1:
        raise InputError(
            f"--moving-teacher posterior starts from one model, and --ensemble-paths names "
            f"{len(paths)}; give one of them"
        )
    plan = PosteriorPlan(
        cfg.posterior_rate,
        cfg.posterior_window,
        cfg.posterior_thinning,
        cfg.posterior_cycle,
        cfg.posterior_exploration,
    )
    if not cfg.posterior_data_size > 0:
        raise InputError(
            "--moving-teacher posterior needs --posterior-data-size: the target tokens of the "
            "training set, as fairseq-preprocess prints and logs them"
        )
    chain = PosteriorChain(
        load(paths[0]),
        plan,
        cfg.posterior_data_size,
        temperature=cfg.posterior_temperature,
        weight_decay=cfg.posterior_weight_decay,
        seed=cfg.posterior_seed,
    )
    return MovingTeachers(paths[0], chain.samples, PosteriorMotion(chain))


def go_on(teachers: MovingTeachers, cfg: Any) -> None:
    """Give teachers the state that the training's own checkpoint has of them, if there is one.

    fairseq loads that checkpoint after this, and tells a task nothing of it.

    Raises:
        InputError: the checkpoint is of a training without them.
    """
    path = str(cfg.restore_file)
    if not os.path.isabs(path):
        path = os.path.join(cfg.save_dir, path)
    if cfg.reset_optimizer or not os.path.isfile(path):
        return
    state = (load_checkpoint(path).get("task_state") or {}).get(STATE)
    if state is None:
        raise InputError(
            f"{path}: a training without --moving-teacher, which this one cannot go on from; "
            "give another --save-dir and start with --student-init, or --reset-optimizer"
        )
    if state["kind"] != str(cfg.moving_teacher):
        raise InputError(
            f"{path}: a training with --moving-teacher {state['kind']}; go on with that"
        )
    teachers.motion.load_state_dict(state["motion"])


def check_options(cfg: Any, *, distils: bool) -> None:
    """Raise an :class:`InputError` if options of teachers do not go together.

    Args:
        cfg: options of the task.
        distils: whether the criterion learns from teachers.
    """
    kind = str(cfg.moving_teacher)
    if kind != "none" and not distils:
        raise InputError(
            f"--moving-teacher {kind} needs a criterion that distils, such as mean_kl; leave it "
            "away, or take one"
        )
    own = {"average": ("average_",), "posterior": ("posterior_",)}.get(kind, ())
    for option in fields(MovingOptions):
        if option.name == "moving_teacher" or option.name.startswith(tuple(own)):
            continue
        if getattr(cfg, option.name) != option.default:
            name = option.name.partition("_")[0]
            raise InputError(
                f"--{option.name.replace('_', '-')} is of --moving-teacher {name}, got "
                f"--moving-teacher {kind}; leave one of them away"
            )
    if kind == "none":
        return
    if getattr(cfg, "target_store", None):
        raise InputError(
            f"--moving-teacher {kind} moves in every update, and a target store stands still; "
            "leave --target-store away"
        )
    if str(cfg.teacher_placement) != "replicate":
        raise InputError(
            f"--moving-teacher {kind} lives in every process; leave --teacher-placement away"
        )
    if kind == "average" and cfg.ensemble_paths:
        raise InputError(
            "--moving-teacher average is the student's own, and takes the place of "
            "--ensemble-paths; leave that away"
        )
