"""What is compared: the research code, cross-entropy, the bare matrix products, and this project.

Each side computes what it is named for from one :class:`~benchmarks.inputs.Inputs`, and leaves its
gradients where autograd puts them. Two scopes:

- ``S1``, logits in: members' and student's logits are given; statistics, loss, gradient in logits.
- ``S2``, features in: the same from features and projections, with dh and dW.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from benchmarks.inputs import Inputs, member_logits
from benchmarks.ours import fused_loss, online_target, stored_target
from benchmarks.released_criterion import gather_member_logits, released_criterion
from seqdistill.kernels.sources import Target
from seqdistill.targets.sparse import SparseTarget

SCOPES = ("S1", "S2")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

#: What the names in results mean.
MEANINGS = {
    "released": "(a) the public research code's criterion, float32 products, float64 student",
    "cross_entropy": "(b) plain cross-entropy through the same projection",
    "products": "(c) the matrix products alone",
    "eager": "ours, plain PyTorch",
    "cpp": "ours, compiled C++",
    "triton": "ours, Triton",
    "stored": "ours from a stored target, 128 pieces a token: no member is run",
    "held": "ours with the members, which are frozen, held in bfloat16",
}

# Rows at a time in (c): a chunk's logits are in the buffer that the next chunk overwrites.
_PRODUCT_ROWS = 256
_STORED_PIECES = 128


def side_names(scope: str, backends: list[str]) -> list[str]:
    """Return the sides of a scope: ``backend[_stored | _held]_products``, and the others.

    Args:
        scope: ``S1`` has no products, so ours is there in float32 only.
        backends: those of ours that are usable.
    """
    if scope == "S1":
        ours = [f"{b}{stored}_float32" for b in backends for stored in ("", "_stored")]
        return ["released", "cross_entropy_float32", *ours]
    sides = ["released"]
    for kind in ("cross_entropy", "products"):
        sides += [f"{kind}_{dtype}" for dtype in DTYPES]
    for backend in backends:
        sides += [f"{backend}_{dtype}" for dtype in DTYPES]
        sides += [f"{backend}_held_bfloat16"]
        sides += [f"{backend}_stored_{dtype}" for dtype in DTYPES]
    return sides


@dataclass
class Cell:
    """The inputs of one cell, and whatever several sides share.

    Attributes:
        scope: ``S1`` or ``S2``.
        inputs: the features; for S1 what the logits are made of.
        member_logits: (B, T, M, V), S1 only.
        student_logits: (N, V) leaf, S1 only.
    """

    scope: str
    inputs: Inputs
    member_logits: Tensor | None = None
    student_logits: Tensor | None = None
    _stored: SparseTarget | None = field(default=None, repr=False)
    _held: Target | None = field(default=None, repr=False)

    @classmethod
    def of(cls, scope: str, inputs: Inputs) -> "Cell":
        """Return a cell; for S1 the logits are computed here, outside of what is measured."""
        if scope == "S2":
            return cls(scope, inputs)
        V, M, _, _ = inputs.sizes
        gathered = gather_member_logits(member_logits(inputs), M, (*inputs.batch, V))
        with torch.no_grad():
            logits = inputs.student.logits()
        return cls(scope, inputs, gathered, logits.requires_grad_())

    @property
    def stored(self) -> SparseTarget:
        """The members' target as a store would hold it; made on first use."""
        if self._stored is None:
            self._stored = stored_target(self.inputs, _STORED_PIECES)
        return self._stored

    @property
    def held(self) -> Target:
        """The members in bfloat16; made on first use."""
        if self._held is None:
            self._held = online_target(self.inputs, None, torch.bfloat16)
        return self._held

    def leaves(self) -> dict[str, Tensor]:
        """Return what the gradients are wanted for, by the name of the gradient."""
        if self.student_logits is not None:
            return {"dz": self.student_logits}
        return {"dh": self.inputs.student.features, "dW": self.inputs.student.weight}

    def clear(self) -> None:
        """Drop the gradients of the last side."""
        for leaf in self.leaves().values():
            leaf.grad = None


def side(cell: Cell, name: str) -> Callable[[], None]:
    """Return a side as a function of nothing; it leaves its gradients on the cell's leaves.

    Args:
        cell: what it computes from.
        name: one of :func:`side_names`.
    """
    if name == "released":
        return lambda: _released(cell)
    kind, _, dtype_name = name.rpartition("_")
    dtype = DTYPES[dtype_name]
    if kind == "cross_entropy":
        return lambda: _cross_entropy(cell, dtype)
    if kind == "products":
        return _products(cell, dtype)
    backend, _, variant = kind.partition("_")
    # Made here, not while the clock runs.
    given: Target | None = None
    if variant == "stored":
        given = cell.stored
    elif variant == "held":
        given = cell.held
    return lambda: _ours(cell, backend, dtype_name, given)


def _ours(cell: Cell, backend: str, products: str, given: Target | None) -> None:
    cell.clear()
    inputs = cell.inputs
    target = online_target(inputs, cell.member_logits) if given is None else given
    head = inputs.student
    features = head.features if cell.student_logits is None else cell.student_logits
    weight = head.weight if cell.student_logits is None else None
    loss = fused_loss(
        features,
        weight,
        target,
        references=inputs.references,
        products=products,
        backend=backend,
    )
    loss.loss_sum.backward()


def _released(cell: Cell) -> None:
    cell.clear()
    inputs = cell.inputs
    V, M, _, _ = inputs.sizes
    shape = (*inputs.batch, V)
    if cell.student_logits is None:
        gathered = gather_member_logits(member_logits(inputs), M, shape)
        logits = inputs.student.logits()
    else:
        assert cell.member_logits is not None
        gathered, logits = cell.member_logits, cell.student_logits
    loss, _ = released_criterion(logits.view(shape), gathered, inputs.references.view(inputs.batch))
    loss.backward()


def _cross_entropy(cell: Cell, dtype: torch.dtype) -> None:
    cell.clear()
    head = cell.inputs.student
    if cell.student_logits is not None:
        logits = cell.student_logits
    else:
        # As under autocast: products in the lower precision, the loss in float32.
        logits = linear(head.features.to(dtype), head.weight.to(dtype)).float()
    cross_entropy(logits, cell.inputs.references, reduction="sum").backward()


def _products(cell: Cell, dtype: torch.dtype) -> Callable[[], None]:
    """Return the M + 3 products into buffers that exist before the clock runs."""
    inputs = cell.inputs
    V, _, N, D = inputs.sizes
    heads = [*inputs.members, inputs.student]
    features = [head.features.detach().to(dtype) for head in heads]
    # A weight that several heads share stays one.
    cast: dict[int, Tensor] = {}
    for head in heads:
        cast.setdefault(id(head.weight), head.weight.detach().to(dtype))
    weights = [cast[id(head.weight)] for head in heads]
    rows = min(_PRODUCT_ROWS, N)
    buffer = features[0].new_empty(rows, V)
    dh, dw = features[0].new_empty(N, D), features[0].new_empty(V, D)

    def run() -> None:
        for begin in range(0, N, rows):
            end = min(begin + rows, N)
            logits = buffer[: end - begin]
            for own, weight in zip(features, weights, strict=True):
                torch.mm(own[begin:end], weight.t(), out=logits)
            torch.mm(logits, weights[-1], out=dh[begin:end])
            own = features[-1][begin:end]
            if begin == 0:
                torch.mm(logits.t(), own, out=dw)
            else:
                dw.addmm_(logits.t(), own)

    return run


def estimated_bytes(scope: str, name: str, V: int, M: int, N: int, D: int = 512) -> int:
    """Return roughly what a side needs at its peak, its inputs included, to skip what cannot fit.

    Args:
        scope: ``S1`` or ``S2``.
        name: of the side.
        V: vocabulary entries.
        M: members.
        N: tokens.
        D: width of the features.
    """
    weights = 4 * V * D * 3
    given = 4 * N * V * (M + 1) if scope == "S1" else 0
    if name == "released":
        # Measured: three float32 tensors of all members' size live on while eleven float64 ones of
        # the student's are made; six while the measures are.
        return weights + max(4 * N * V * M * 3 + 8 * N * V * 11, 4 * N * V * M * 6)
    if name.startswith("cross_entropy"):
        return weights + given + 4 * N * V * 4
    return weights + given + 4 * min(N, _PRODUCT_ROWS) * V * 6 + 4 * N * V * (scope == "S1")
