"""Boundary samples: sources moved to where a student's decision is about to change.

A student learns most about a teacher's decision boundary from samples next to it. Heo and others
move a sample x against the gradient of L_k(x) = z_b(x) − z_k(x), the base class b being what is
decided at x and k another class, until L_k is a little below 0; k is drawn from the probabilities
of the classes but b.

A source sentence is moved in the space of its embeddings, and every member has embeddings of its
own. So a sample is a mixture of words: position i reads (1 − λ) E(x_i) + λ E(c_i), with E each
model's own table, λ one number a sentence, and c_i the word towards which the student's L_k falls
fastest, the least g_i·E(c) with g_i the gradient of L_k by the embedding (as Ebrahimi and others,
2018, choose flips of words). λ is found by Newton steps on L_k(λ) = −ε.

Sources: B. Heo, M. Lee, S. Yun, J. Y. Choi, "Knowledge Distillation with Adversarial Samples
Supporting Decision Boundary", AAAI 2019 (eqs. 3 to 5); J. Ebrahimi and others, "HotFlip: White-Box
Adversarial Examples for Text Classification", ACL 2018.
"""

import torch
from torch import Tensor

from seqdistill.errors import InputError

OVERSHOOT = 0.1
"""ε, how far beyond the boundary a sample is meant to be (difference of logits)."""

_ROWS = 1024  # of the products with the whole embedding table that are held at once


def choose_tokens(token_mask: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one counted token of each sentence.

    Args:
        token_mask: (B, T), True where a token counts.
        generator: of random numbers, on the CPU.

    Returns:
        (B) indices into the N counted tokens, in their order.

    Raises:
        InputError: a sentence has no token that counts.
    """
    mask = token_mask.cpu()
    if not bool(mask.any(dim=1).all()):
        raise InputError("a sentence of the batch has no token that counts, so nothing is decided")
    keys = torch.rand(mask.shape, generator=generator).masked_fill(~mask, -1.0)
    index = torch.full(mask.shape, -1)
    index[mask] = torch.arange(int(mask.sum()))
    chosen = index.gather(1, keys.argmax(dim=1, keepdim=True)).squeeze(1)
    return chosen.to(token_mask.device)


def choose_classes(logits: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return what is decided, and another class drawn by its probability.

    Args:
        logits: (B, V), V at least 2.
        generator: of random numbers, on the CPU.

    Returns:
        Base classes b and others k, each (B).
    """
    base = logits.argmax(dim=-1)
    rest = logits.detach().float().scatter(-1, base[:, None], -torch.inf)
    probabilities = rest.softmax(dim=-1).cpu()
    other = torch.multinomial(probabilities, 1, generator=generator).squeeze(-1)
    return base, other.to(logits.device)


def decision_margin(logits: Tensor, base: Tensor, other: Tensor) -> Tensor:
    """Return L_k = z_b − z_k, (B): 0 on the boundary, below 0 beyond it."""
    pair = logits.gather(-1, torch.stack([base, other], dim=-1))
    return pair[:, 0] - pair[:, 1]


@torch.no_grad()
def steepest_words(
    gradient: Tensor, tokens: Tensor, embeddings: Tensor, allowed: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the words towards which a loss falls fastest, and its slope on the way.

    Args:
        gradient: (P, D) of the loss by the embedding at each of P positions.
        tokens: (P) words there.
        embeddings: (V, D).
        allowed: (V), True where a word may be chosen.

    Returns:
        Words c, (P), and g·(E(c) − E(x)), (P): the derivative by the share of c, at 0.

    Raises:
        InputError: no word is allowed.
    """
    if not bool(allowed.any()):
        raise InputError("no word of the vocabulary may be mixed in")
    table = embeddings.to(gradient.dtype)
    words, slopes = [], []
    for begin in range(0, len(tokens), _ROWS):
        rows, here = (given[begin : begin + _ROWS] for given in (gradient, tokens))
        scores = (rows @ table.T).masked_fill(~allowed, torch.inf)
        least, word = scores.min(dim=-1)
        words.append(word)
        slopes.append(least - (rows * table[here]).sum(dim=-1))
    return torch.cat(words), torch.cat(slopes)


def newton_share(share: Tensor, margin: Tensor, slope: Tensor, reach: float) -> Tensor:
    """Return the share of the other words that a Newton step towards L = −ε finds.

    Args:
        share: λ of each sentence, (B).
        margin: L there.
        slope: dL/dλ there; where L does not fall, λ stays as it is.
        reach: the largest share, in (0, 1].

    Example:
        >>> newton_share(torch.zeros(2), torch.tensor([0.3, 5.0]), torch.tensor([-2.0, -2.0]), 0.5)
        tensor([0.2000, 0.5000])
    """
    falls = slope < 0
    step = (margin + OVERSHOOT) / torch.where(falls, -slope, torch.ones_like(slope))
    return torch.where(falls, share + step, share).clamp(0.0, reach)
