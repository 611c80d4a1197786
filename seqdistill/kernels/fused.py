"""The fused loss: projections, ensemble statistics, loss and gradients in one walk over tokens.

Nothing of size (tokens, V) outlives a chunk and nothing of size (M, …, V) ever exists. Per chunk of
n tokens: every member's features are projected into one buffer and added up; the student's logits
are computed and overwritten by the loss's gradient; that is projected back to the features' and
added to the projection's gradient. So the gradients are there when the loss is, and ``backward``
only scales them.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.kernels.backend import RowBackend, RowTargets, StudentRows
from seqdistill.kernels.memory import new_tensor
from seqdistill.kernels.select import select_backend
from seqdistill.kernels.settings import DistillationLoss
from seqdistill.kernels.sources import (
    ChunkTarget,
    Target,
    TargetSource,
    project,
    target_source,
)
from seqdistill.kernels.workspace import Workspace
from seqdistill.losses.proxy_dirichlet import forward_precision, inverse_normalisation

# A chunk's logits: 40 MiB on a CPU, 256 MiB on a GPU; at least that many tokens, or the products
# would spend their time on reading the projection.
_CPU_ELEMENTS, _CPU_TOKENS = 10 << 20, 128
_GPU_ELEMENTS, _GPU_TOKENS = 1 << 26, 128

PRODUCTS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class TokenRows:
    """What is known of each counted token, (N) each, without derivative.

    Attributes:
        loss: in nats.
        log_sum: ln Σ e^z of the student.
        reference_logit: z at the reference piece; None without references.
        largest_logit: max z.
        total_uncertainty: the ensemble's TU; None where the target does not say, as the next.
        mutual_information: MI.
        epkl: EPKL.
        reverse_mutual_information: RMI.
    """

    loss: Tensor
    log_sum: Tensor
    reference_logit: Tensor | None
    largest_logit: Tensor
    total_uncertainty: Tensor | None
    mutual_information: Tensor | None
    epkl: Tensor | None
    reverse_mutual_information: Tensor | None


@dataclass(frozen=True)
class FusedLoss:
    """The result of :func:`fused_distillation_loss`.

    Attributes:
        loss_sum: scalar in nats, differentiable once in features, weight and bias.
        token_count: number of counted tokens, an integer scalar tensor.
        rows: per counted token, in the order of the mask.
        backend: the name of the backend that computed it.
    """

    loss_sum: Tensor
    token_count: Tensor
    rows: TokenRows
    backend: str


def fused_distillation_loss(
    features: Tensor,
    weight: Tensor | None,
    target: Target,
    token_mask: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    loss: DistillationLoss | None = None,
    references: Tensor | None = None,
    token_weights: Tensor | None = None,
    products: str | None = None,
    backend: str = "auto",
    chunk_tokens: int | None = None,
) -> FusedLoss:
    """Distil an ensemble into a student whose logits are features · weightᵀ + bias.

    The same values and gradients as the slow form, which holds every (..., V) tensor at once:

        logits = features @ weight.T + bias
        statistics = ensemble_statistics(member_log_probs)
        target = proxy_dirichlet_target(statistics, loss.concentration)
        loss_sum, token_count = proxy_dirichlet_loss(logits, target, token_mask)

    Args:
        features: (..., D) the student's decoder output before its projection; the logits
            themselves (..., V) if ``weight`` is None.
        weight: (V, D) projection, tied to the embeddings or not.
        target: the members (:class:`~seqdistill.kernels.MemberProjections`,
            :class:`~seqdistill.kernels.MemberLogits` or a tensor (M, ..., V)), their
            statistics, a proxy, or a sparse target from a store; leading shape (...).
        token_mask: (...) bool, True where a token counts; None counts all.
        bias: (V) of the projection.
        loss: which loss; the Proxy-Dirichlet's reverse KL by default.
        references: (...) reference pieces; needed for a mixed-in cross-entropy, otherwise only
            for ``rows.reference_logit``.
        token_weights: (...) factor of each token's loss and gradient.
        products: precision of the matrix products, ``float32``, ``bfloat16`` or ``float16``; by
            default that of autocast where it is on, else that of the inputs. The loss itself is
            computed in float32 at least.
        backend: ``eager``, ``cpp``, ``triton`` or ``auto``.
        chunk_tokens: tokens at a time; chosen by vocabulary and device by default.

    Returns:
        A :class:`FusedLoss`.

    Raises:
        InputError: shapes do not fit, references are missing or out of range, a member gave NaN,
            or a setting is unknown.

    Example:
        >>> import torch
        >>> features = torch.zeros(3, 8, requires_grad=True)
        >>> weight = torch.ones(5, 8, requires_grad=True)
        >>> members = torch.log_softmax(torch.arange(30.0).view(2, 3, 5).cos(), -1)
        >>> result = fused_distillation_loss(features, weight, members)
        >>> result.loss_sum.backward()
        >>> features.grad.shape, weight.grad.shape, int(result.token_count)
        (torch.Size([3, 8]), torch.Size([5, 8]), 3)
    """
    loss = loss if loss is not None else DistillationLoss()
    leading = features.shape[:-1]
    _check_projection(features, weight, bias)
    for what, values in (
        ("token mask", token_mask),
        ("tensor of references", references),
        ("tensor of token weights", token_weights),
    ):
        if values is not None and values.shape != leading:
            raise InputError(
                f"expected a {what} of shape {tuple(leading)}, got {tuple(values.shape)}"
            )
    if loss.needs_references and references is None:
        raise InputError("a mixed-in cross-entropy needs references; give them, or mix_weight 0")
    if chunk_tokens is not None and chunk_tokens < 1:
        raise InputError(f"expected at least 1 token in a chunk, got {chunk_tokens}")

    rows = features.reshape(-1, features.shape[-1])
    index = None
    if token_mask is not None:
        # Padded rows are dropped before the maths: whatever they hold, they cannot matter.
        index = token_mask.reshape(-1).bool().nonzero().squeeze(-1)
        rows = rows[index]
    dtype = _products_dtype(features, weight, products)
    source = target_source(target, index, dtype)
    V = features.shape[-1] if weight is None else weight.shape[0]
    if V < 2:
        raise InputError(f"expected a vocabulary of at least 2 pieces, got {V}")
    if source.V != V:
        raise InputError(
            f"the student has {V} vocabulary entries, the target {source.V}; student and teachers "
            "must share one vocabulary"
        )
    if source.tokens != rows.shape[0]:
        raise InputError(
            f"the student has {rows.shape[0]} counted tokens, the target {source.tokens}; they "
            "must be of the same batch"
        )
    walk = _Walk(
        loss=loss,
        source=source,
        backend=select_backend(backend, features.device, dtype),
        references=_counted(references, index),
        token_weights=_counted(token_weights, index),
        dtype=dtype,
        chunk_tokens=chunk_tokens or _chunk_tokens(V, features.device),
    )
    _check_references(walk.references, V)
    loss_sum: Tensor = _Fused.apply(rows, weight, bias, walk)
    token_count = torch.tensor(rows.shape[0], device=features.device)
    return FusedLoss(loss_sum, token_count, walk.token_rows(), walk.backend.name)


class _Walk:
    """One pass over the chunks: what it needs, and what it leaves."""

    def __init__(
        self,
        loss: DistillationLoss,
        source: TargetSource,
        backend: RowBackend,
        references: Tensor | None,
        token_weights: Tensor | None,
        dtype: torch.dtype,
        chunk_tokens: int,
    ) -> None:
        self.loss = loss
        self.source = source
        self.backend = backend
        self.references = references
        self.token_weights = token_weights
        self.dtype = dtype
        self.chunk_tokens = chunk_tokens
        self._students: list[StudentRows] = []
        self._targets: list[ChunkTarget] = []

    def chunks(self, N: int) -> list[tuple[int, int]]:
        n = self.chunk_tokens
        return [(begin, min(begin + n, N)) for begin in range(0, N, n)]

    def student_rows_(
        self,
        logits: Tensor,
        target: ChunkTarget,
        begin: int,
        end: int,
        wants_gradient: bool,
        gradient: Tensor | None = None,
    ) -> Tensor:
        """Put a chunk's gradient there, or in the logits' place; return the chunk's loss (n)."""
        loss = self.loss
        inverse_w = inverse_precision = None
        if loss.is_proxy and target.inverse_precision is not None:
            inverse_precision = target.inverse_precision
            if loss.kind == "proxy_dirichlet_forward":
                inverse_precision = forward_precision(inverse_precision)
            inverse_w = inverse_normalisation(inverse_precision, self.source.V, loss.normalisation)
        rows = self.backend.student_rows_(
            logits,
            loss.row_loss,
            RowTargets(
                mean_probs=None if loss.needs_mean_log_probs else target.mean_probs,
                mean_log_probs=target.mean_log_probs if loss.needs_mean_log_probs else None,
                inverse_w=inverse_w,
                inverse_precision=inverse_precision,
                references=None if self.references is None else self.references[begin:end],
                row_weight=None if self.token_weights is None else self.token_weights[begin:end],
            ),
            wants_gradient,
            gradient,
        )
        self._students.append(rows)
        # Without the (n, V) tensors, which live in the workspace.
        self._targets.append(
            ChunkTarget(
                total_uncertainty=target.total_uncertainty,
                mutual_information=target.mutual_information,
                epkl=target.epkl,
                reverse_mutual_information=target.reverse_mutual_information,
            )
        )
        return rows.loss

    def token_rows(self) -> TokenRows:
        """Return what the chunks left, one row a token."""
        students, targets = self._students, self._targets
        has_references = self.references is not None
        return TokenRows(
            _joined([rows.loss for rows in students]),
            _joined([rows.log_sum for rows in students]),
            _joined([rows.reference_logit for rows in students]) if has_references else None,
            _joined([rows.largest_logit for rows in students]),
            _joined_or_none([target.total_uncertainty for target in targets]),
            _joined_or_none([target.mutual_information for target in targets]),
            _joined_or_none([target.epkl for target in targets]),
            _joined_or_none([target.reverse_mutual_information for target in targets]),
        )


class _Fused(torch.autograd.Function):
    """The walk; gradients are computed beside the value, once."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor | None, bias: Tensor | None, walk: _Walk
    ) -> Tensor:
        wants = tuple(ctx.needs_input_grad[:3])
        device = features.device
        # The products' precision is decided; autocast would change it again.
        with torch.autocast(device.type, enabled=False):
            if weight is None:
                total, gradients = _walk_logits(features, walk, wants[0])
            else:
                total, gradients = _walk_features(features, weight, bias, walk, wants)
            walk.source.finish()
        ctx.dtypes = tuple(None if x is None else x.dtype for x in (features, weight, bias))
        ctx.save_for_backward(*gradients)
        return total.to(torch.promote_types(features.dtype, torch.float32))

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        # torch's once_differentiable lets create_graph=True pass, and a penalty on the gradient
        # would then silently have no gradient itself.
        if torch.is_grad_enabled():
            raise RuntimeError(
                "this loss has a first derivative only; create_graph=True asks for a second"
            )
        # On a CPU it costs nothing to see that there is nothing to scale.
        is_one = grad_output.device.type == "cpu" and float(grad_output) == 1.0
        scaled: list[Tensor | None] = []
        for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True):
            if gradient is None:
                scaled.append(None)
                continue
            value = gradient if is_one else gradient * grad_output.to(gradient.dtype)
            scaled.append(value.to(dtype))
        return (*scaled, None)


def _walk_features(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    walk: _Walk,
    wants: tuple[bool, ...],
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    N, V = features.shape[0], weight.shape[0]
    dtype = walk.dtype
    wide = torch.promote_types(dtype, torch.float32)
    work = Workspace.of_thread(min(walk.chunk_tokens, N), V, dtype, features.device)
    h, W = features.to(dtype), work.cast("student_weight", weight, dtype)
    b = None if bias is None else bias.to(dtype)
    d_features = features.new_zeros(features.shape, dtype=wide) if wants[0] else None
    d_weight = new_tensor(weight.shape, wide, weight.device) if wants[1] else None
    if d_weight is not None and N == 0:
        d_weight.zero_()
    d_bias = weight.new_zeros(V, dtype=wide) if bias is not None and wants[2] else None
    total = torch.zeros((), dtype=torch.float64, device=features.device)
    for begin, end in walk.chunks(N):
        target = walk.source.chunk(begin, end, walk.loss, walk.backend, work)
        logits = project(h[begin:end], W, b, work.get("logits", end - begin))
        if dtype == torch.float16:
            logits = work.get("wide_logits", end - begin, wide).copy_(logits)
        loss = walk.student_rows_(logits, target, begin, end, any(wants))
        total += loss.sum(dtype=torch.float64)
        gradient, scale = _for_products(logits, dtype)
        if d_features is not None:
            product = torch.mm(gradient, W)
            d_features[begin:end] = product if scale is None else product.to(wide) / scale
        if d_weight is not None:
            _add_product_(d_weight, gradient, h[begin:end], scale, work, is_first=begin == 0)
        if d_bias is not None:
            d_bias += logits.sum(0, dtype=wide)
    return total, (d_features, d_weight, d_bias)


def _walk_logits(
    logits: Tensor, walk: _Walk, wants_gradient: bool
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    N, V = logits.shape
    # float16 would flush the tail's derivatives to 0 before a loss scale can lift them.
    dtype = torch.float32 if logits.dtype == torch.float16 else logits.dtype
    gradient = new_tensor((N, V), dtype, logits.device) if wants_gradient else None
    total = torch.zeros((), dtype=torch.float64, device=logits.device)
    work = Workspace.of_thread(min(walk.chunk_tokens, N), V, dtype, logits.device)
    for begin, end in walk.chunks(N):
        target = walk.source.chunk(begin, end, walk.loss, walk.backend, work)
        rows = work.get("logits", end - begin) if gradient is None else gradient[begin:end]
        z = logits[begin:end]
        if z.dtype != dtype or z.stride(1) != 1:
            z = rows.copy_(z)
        loss = walk.student_rows_(z, target, begin, end, wants_gradient, rows)
        total += loss.sum(dtype=torch.float64)
    return total, (gradient, None, None)


def _add_product_(
    d_weight: Tensor,
    gradient: Tensor,
    h: Tensor,
    scale: Tensor | None,
    work: Workspace,
    is_first: bool,
) -> None:
    """Add gradientᵀ · h of a chunk to the projection's gradient; the first is written."""
    if gradient.dtype == d_weight.dtype:
        if is_first:
            torch.mm(gradient.t(), h, out=d_weight)
        else:
            d_weight.addmm_(gradient.t(), h)
        return
    product = work.like("d_weight", d_weight.shape, gradient.dtype)
    torch.mm(gradient.t(), h, out=product)
    part = product if scale is None else product.to(d_weight.dtype) / scale
    if is_first:
        d_weight.copy_(part)
    else:
        d_weight += part


def _for_products(gradient: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Return the logits' gradient as the products take it, and the scale that has to come off.

    float16 ends at 6e-8, far above what a tail of 40,000 pieces holds, and a loss scale would
    come too late here: so the chunk is scaled by a power of two that puts its largest entry
    near 2¹⁰.
    """
    if dtype != torch.float16:
        return gradient, None
    largest = gradient.abs().amax().clamp_min(torch.finfo(torch.float32).tiny)
    scale = torch.exp2((10 - largest.log2()).floor().clamp(-100, 100))
    return (gradient * scale).to(dtype), scale


def _products_dtype(features: Tensor, weight: Tensor | None, products: str | None) -> torch.dtype:
    if products is not None:
        if products not in PRODUCTS:
            raise InputError(f"expected products in {', '.join(PRODUCTS)}, got {products!r}")
        return PRODUCTS[products]
    device = features.device.type
    if features.dtype == torch.float64:
        return torch.float64
    if weight is not None and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    if weight is None:
        return torch.float32 if features.dtype == torch.float16 else features.dtype
    return torch.promote_types(features.dtype, weight.dtype)


def _chunk_tokens(V: int, device: torch.device) -> int:
    if device.type == "cpu":
        return max(_CPU_TOKENS, _CPU_ELEMENTS // V)
    return max(_GPU_TOKENS, _GPU_ELEMENTS // V)


def _check_projection(features: Tensor, weight: Tensor | None, bias: Tensor | None) -> None:
    if features.dim() < 1 or not features.is_floating_point():
        raise InputError(
            f"expected floating-point features (..., D), got {features.dtype} of shape "
            f"{tuple(features.shape)}"
        )
    if weight is None:
        if bias is not None:
            raise InputError("a bias needs a weight: without one the features are the logits")
        return
    if weight.dim() != 2 or weight.shape[1] != features.shape[-1]:
        raise InputError(
            f"features are {features.shape[-1]} wide, the projection has shape "
            f"{tuple(weight.shape)}; expected (V, {features.shape[-1]})"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise InputError(f"expected a bias of shape ({weight.shape[0]},), got {tuple(bias.shape)}")


def _check_references(references: Tensor | None, V: int) -> None:
    if references is None or references.numel() == 0 or references.device.type != "cpu":
        return  # on a GPU the check would wait for it; the gather there fails by itself
    lowest, highest = int(references.min()), int(references.max())
    if lowest < 0 or highest >= V:
        wrong = lowest if lowest < 0 else highest
        raise InputError(f"a reference piece is {wrong}; the vocabulary has 0 … {V - 1}")


def _counted(values: Tensor | None, index: Tensor | None) -> Tensor | None:
    if values is None:
        return None
    flat = values.detach().reshape(-1)
    return flat if index is None else flat[index]


def _joined(parts: list[Any]) -> Tensor:
    return torch.cat(parts) if parts else torch.zeros(0)


def _joined_or_none(parts: list[Tensor | None]) -> Tensor | None:
    given = [part for part in parts if part is not None]
    return torch.cat(given) if given and len(given) == len(parts) else None
