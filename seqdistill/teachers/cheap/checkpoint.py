"""A trained model as weights and settings, read from a fairseq checkpoint without building it."""

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.safe_loading import explain, load_mapped

#: Encoder and decoder: what the names of their weights and settings begin with.
SIDES = ("encoder", "decoder")

# Layers of fairseq's transformer and, in the encoder of speech, of its s2t_transformer.
_LAYER = re.compile(r"(encoder|decoder)\.(layers|transformer_layers)\.(\d+)\.")


@dataclass(frozen=True)
class Teacher:
    """A transformer of fairseq that members are made of.

    Attributes:
        path: of its checkpoint, for messages.
        state: the checkpoint.
        weights: name → tensor.
        settings: of the model, by fairseq's names.
    """

    path: str
    state: dict[str, Any]
    weights: dict[str, Tensor]
    settings: dict[str, Any]

    def layers(self, side: str) -> list[str]:
        """Return the prefixes of a side's layers, in their order.

        Args:
            side: ``encoder`` or ``decoder``.
        """
        found = {int(m[3]): m[0] for name in self.weights if (m := _LAYER.match(name))
                 and m[1] == side}  # fmt: skip
        return [found[number] for number in sorted(found)]

    def checkpoint(self, weights: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Any:
        """Return an ordinary checkpoint of other weights, without the optimiser's state.

        Args:
            weights: all of the new model's.
            settings: those of the model that are other than the teacher's.
        """
        left_out = ("model", "last_optimizer_state", "cfg", "args")
        state = {key: value for key, value in self.state.items() if key not in left_out}
        state |= {key: copy.deepcopy(self.state.get(key)) for key in ("args", "cfg")}
        state["last_optimizer_state"] = None
        # Members have no gates: what the task says of them goes with them.
        task = self.state.get("task_state") or {}
        state["task_state"] = {key: value for key, value in task.items() if key != "layer_gates"}
        # Not views of a mapped file, and tied weights stay one tensor in the file.
        copies: dict[Any, Tensor] = {}
        state["model"] = {
            name: copies.setdefault((weight.data_ptr(), weight.shape), weight.clone())
            for name, weight in weights.items()
        }
        holder = _model_settings(state)
        for name, value in settings.items():
            if isinstance(holder, dict):
                holder[name] = value
            else:
                setattr(holder, name, value)
        return state


def read_teacher(path: str | Path) -> Teacher:
    """Read a checkpoint of fairseq's ``transformer`` or ``s2t_transformer``, under safe loading.

    Raises:
        InputError: the file is missing or bad, or its model is another.

    Example:
        >>> read_teacher("nowhere.pt")
        Traceback (most recent call last):
        ...
        seqdistill.errors.InputError: nowhere.pt: no such checkpoint; give a fairseq .pt file
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such checkpoint; give a fairseq .pt file")
    try:
        state = load_mapped(path)
    except Exception as error:
        raise explain(error, path) from error
    if not isinstance(state, dict) or not state.get("model"):
        raise InputError(
            f"{path}: expected a fairseq checkpoint with weights ('model'), found none; one of "
            "--deepspeed is made an ordinary one by `seqdistill consolidate`"
        )
    given = _model_settings(state)
    if given is None:
        raise InputError(f"{path}: has no configuration of its model ('cfg' or 'args')")
    settings = dict(given) if isinstance(given, dict) else dict(vars(given))
    teacher = Teacher(str(path), state, dict(state["model"]), settings)
    for side in SIDES:
        if not teacher.layers(side) or f"{side}_layers" not in settings:
            raise InputError(
                f"{path}: expected fairseq's transformer or s2t_transformer, found no layers of "
                f"its {side}; members are made of these models"
            )
    return teacher


def _model_settings(state: dict[str, Any]) -> Any:
    """Return what holds the model's settings: a namespace or a dictionary; None if nothing does."""
    if state.get("args") is not None:  # as fairseq: it counts where both are there
        return state["args"]
    config = state.get("cfg")
    return config.get("model") if isinstance(config, dict) else None
