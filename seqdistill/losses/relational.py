"""Relational distillation with graphs: how alike the sentences of a batch are to each model.

Vectors of two models of different widths cannot be compared, but the similarities among the same
sentences can. Each model's states x_i of the n sentences of a batch make a graph: an edge has the
cosine of its ends as its weight, where that is above 0, and nothing is alike to itself; the weights
W are normalised by the degrees D_ii = Σ_j W_ij,

    A = D^(−1/2) W D^(−1/2),    L = Σ_ij (A_ij − Ā_ij)²

with A the student's graph and Ā the mean of the members' graphs. L is the squared Frobenius norm of
their difference: 0 where the student relates the sentences as its teachers do.

Source: C. Lassance and others, "Deep Geometric Knowledge Distillation with Graphs", ICASSP 2020.
Their states have no negative entries (they come out of a ReLU), so their cosines have none either;
here an edge below 0 is left out.
"""

import torch
from torch import Tensor

from seqdistill.errors import InputError


def pooled_states(states: Tensor, counted: Tensor) -> Tensor:
    """Return (B, D) means over the positions that count, float32 at least.

    Args:
        states: (B, T, D).
        counted: (B, T), True where a position counts; a row without any has mean 0.
    """
    wide = states.to(torch.promote_types(states.dtype, torch.float32))
    kept = wide.masked_fill(~counted[..., None], 0.0)
    total: Tensor = kept.sum(dim=1)
    return total / counted.sum(dim=1).clamp(min=1)[:, None]


def similarity_graph(states: Tensor, neighbours: int = 0) -> Tensor:
    """Return the normalised adjacency of a batch's similarity graph.

    Args:
        states: (B, D), one vector a sentence.
        neighbours: keep an edge if one of its ends is among the k most alike to the other; 0 keeps
            all.

    Returns:
        (B, B) symmetric, diagonal 0; the row of a sentence that is like no other is 0.

    Raises:
        InputError: states are not (B, D), or neighbours are negative.

    Example:
        >>> similarity_graph(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, -1.0]])).round(decimals=2)
        tensor([[0., 1., 0.],
                [1., 0., 0.],
                [0., 0., 0.]])
    """
    if states.dim() != 2:
        raise InputError(f"expected states of shape (B, D), got {tuple(states.shape)}")
    if neighbours < 0:
        raise InputError(f"neighbours must be 0 (all) or more, got {neighbours}")
    B = states.size(0)
    norm = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
    unit = states / torch.where(norm > 0, norm, torch.ones_like(norm))
    cosine = unit @ unit.T
    others = ~torch.eye(B, dtype=torch.bool, device=states.device)
    weights = torch.where(others & (cosine > 0), cosine, torch.zeros_like(cosine))
    if 0 < neighbours < B - 1:
        nearest = weights.detach().topk(neighbours, dim=-1).indices
        chosen = torch.zeros_like(others).scatter_(1, nearest, True)
        weights = torch.where(chosen | chosen.T, weights, torch.zeros_like(weights))
    degree = weights.sum(dim=-1)
    has_edges = degree > 0
    root = torch.where(has_edges, degree, torch.ones_like(degree)).rsqrt() * has_edges
    return root[:, None] * weights * root[None, :]


def relational_loss(states: Tensor, target: Tensor, neighbours: int = 0) -> Tensor:
    """Return the squared Frobenius distance of the graph of states from a target graph.

    Args:
        states: (B, D) of the student.
        target: (B, B), the mean of the members' graphs.
        neighbours: of the student's graph, as of the members'.

    Returns:
        One number, at least 0; 0 where both graphs are the same. It is of the whole batch: the
        graphs are normalised, so it does not grow with the number of sentences.

    Raises:
        InputError: as :func:`similarity_graph`, or the target is of another batch.
    """
    graph = similarity_graph(states, neighbours)
    if graph.shape != target.shape:
        raise InputError(
            f"expected a target graph of {graph.size(0)} sentences, got {tuple(target.shape)}"
        )
    return (graph - target.to(graph.dtype)).square().sum()
