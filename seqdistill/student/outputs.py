"""What a student computes beside its logits: a module that travels with the decoder's weights."""

from typing import Any

from torch import Tensor, nn

from seqdistill.errors import InputError


class StudentOutputs(nn.Module):
    """More outputs of a student, made of its decoder's features; plain torch, any framework.

    An adapter makes it ``student_outputs`` of the decoder, so that its weights lie in checkpoints
    under that name. Subclasses start in a state in which a student that has a teacher's weights
    predicts what that teacher predicts.

    Args:
        described: what it is, for messages: ``hydra with 4 heads of rank 64``.
    """

    def __init__(self, described: str) -> None:
        super().__init__()
        self.described = described

    def forward(self, features: Tensor) -> Tensor:
        """Return the outputs of (..., D) features."""
        raise NotImplementedError

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # torch would list keys; what is wrong is that the file is of another kind of student.
        for name, own in self.state_dict().items():
            given = state_dict.get(prefix + name)
            if given is None:
                raise InputError(
                    f"expected the weights of a student of kind {self.described}, but the "
                    f"checkpoint has no {prefix}{name}: it was trained with another criterion, or "
                    "its weights were taken out. Start such a student with --student-init instead"
                )
            # Parameters in parts (ZeRO 3) are empty until they are gathered.
            if own.numel() and given.shape != own.shape:
                raise InputError(
                    f"expected the weights of a student of kind {self.described}, whose "
                    f"{prefix}{name} has shape {tuple(own.shape)}; the checkpoint's has "
                    f"{tuple(given.shape)}. Give the options that it was trained with"
                )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
