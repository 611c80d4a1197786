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
from seqdistill.kernels.chunks import default_chunk_tokens
from seqdistill.kernels.select import select_backend
from seqdistill.kernels.settings import DistillationLoss
from seqdistill.kernels.sources import Target, target_source
from seqdistill.kernels.walk import (
    TokenRows,
    Walk,
    walk_features,
    walk_logits,
)

PRODUCTS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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
    walk = Walk(
        loss=loss,
        source=source,
        backend=select_backend(backend, features.device, dtype),
        references=_counted(references, index),
        token_weights=_counted(token_weights, index),
        dtype=dtype,
        chunk_tokens=chunk_tokens or default_chunk_tokens(V, features.device),
    )
    _check_references(walk.references, V)
    loss_sum: Tensor = _Fused.apply(rows, weight, bias, walk)
    token_count = torch.tensor(rows.shape[0], device=features.device)
    return FusedLoss(loss_sum, token_count, walk.token_rows(), walk.backend.name)


class _Fused(torch.autograd.Function):
    """The walk; gradients are computed beside the value, once."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor | None, bias: Tensor | None, walk: Walk
    ) -> Tensor:
        wants = tuple(ctx.needs_input_grad[:3])
        device = features.device
        # The products' precision is decided; autocast would change it again.
        with torch.autocast(device.type, enabled=False):
            if weight is None:
                total, gradients = walk_logits(features, walk, wants[0])
            else:
                total, gradients = walk_features(features, weight, bias, walk, wants)
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
