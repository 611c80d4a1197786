"""Synthetic ensembles whose outputs look like those of trained translation models.

One matrix of the vocabulary serves all: its first column is a Zipf-like log-frequency, its second
is constant, the rest is random. A token's features point at one piece, so that piece is likely by
a margin that varies over tokens, and what remains has the shape of the corpus. Members read the
same features with noise of their own.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# Chosen at V = 40,000: mean entropy about 1.0 nat, top-1 0.86, RMI 0.035. describe_teachers says
# what they are for the inputs at hand.
_ZIPF_EXPONENT = 1.35
_ZIPF_SHIFT = 10.0
_MARGIN = 3.2
_MARGIN_SPREAD = 1.7
_MEMBER_NOISE = 0.62
_STUDENT_NOISE = 1.0
_USUAL_RMI = 0.035

# Rows projected at once while inputs are made.
_ROWS = 64


@dataclass
class Head:
    """Features and the projection that makes logits of them.

    Attributes:
        features: (N, D).
        weight: (V, D).
    """

    features: Tensor
    weight: Tensor

    def logits(self) -> Tensor:
        """(N, V)."""
        return torch.nn.functional.linear(self.features, self.weight)


@dataclass
class Inputs:
    """What one cell of a benchmark is computed from.

    Attributes:
        members: M heads.
        student: its features and weight are leaves that want a gradient.
        references: (N) reference pieces.
        shared_projection: whether all members have one weight for want of memory.
    """

    members: list[Head]
    student: Head
    references: Tensor
    shared_projection: bool

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """(V, M, N, D)."""
        V, D = self.student.weight.shape
        return V, len(self.members), self.references.shape[0], D

    @property
    def batch(self) -> tuple[int, int]:
        """(B, T) with B · T = N: sentences of at most 32 positions."""
        N = self.references.shape[0]
        T = math.gcd(N, 32)
        return N // T, T


def make_inputs(
    V: int,
    M: int,
    N: int,
    D: int = 512,
    *,
    seed: int = 1,
    device: str = "cpu",
    shared_projection: bool = False,
) -> Inputs:
    """Return M members and a student over a vocabulary of V, for N tokens.

    Every member has a projection of its own in memory (the columns of one matrix, rolled and
    negated, with features treated alike, so the logits are of one family) unless
    ``shared_projection``.

    Args:
        V: vocabulary entries.
        M: members.
        N: tokens.
        D: width of the features, at least 8.
        seed: of everything.
        device: where the tensors end up; random numbers are the CPU's.
        shared_projection: give all members one weight; they are still projected M times.
    """
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    frequency = -_ZIPF_EXPONENT * torch.log(torch.arange(V) + _ZIPF_SHIFT)
    frequency -= torch.logsumexp(frequency, 0)
    weight = random(V, D).div_(math.sqrt(D - 2))
    weight[:, 0] = frequency
    weight[:, 1] = 1.0
    pieces = torch.multinomial(frequency.exp(), N, replacement=True, generator=generator)
    margin = _MARGIN + _MARGIN_SPREAD * random(N)
    features = torch.zeros(N, D)
    features[:, 0] = 1.0
    features[:, 2:] = (margin - frequency[pieces]).clamp_min(0).unsqueeze(1) * weight[pieces, 2:]

    def noisy(scale: float) -> Tensor:
        copy = features.clone()
        copy[:, 2:] += scale * random(N, D - 2)
        return copy

    weight = weight.to(device)
    members = []
    for m in range(M):
        own = noisy(_MEMBER_NOISE).to(device)
        if shared_projection or m == 0:
            members.append(Head(own, weight))
        else:
            shift = (37 * m) % D
            members.append(Head(-own.roll(shift, 1), weight.roll(shift, 1).neg_()))

    own = noisy(_STUDENT_NOISE).to(device)
    # A trained student has Σ e^z near the proxy's precision.
    level = math.log((V - 1) / (2 * _USUAL_RMI) + V)
    for rows in torch.split(torch.arange(N), _ROWS):
        own[rows, 1] = level - torch.logsumexp(own[rows] @ weight.T, dim=-1)
    student = Head(own.roll(D // 2, 1).requires_grad_(), weight.roll(D // 2, 1).requires_grad_())
    return Inputs(members, student, pieces.to(device), shared_projection)


def member_logits(inputs: Inputs) -> Iterator[Tensor]:
    """Give the members' logits (N, V) one after another."""
    for member in inputs.members:
        # Not around the yield: the mode would be the caller's as well.
        with torch.no_grad():
            logits = member.logits()
        yield logits


@torch.no_grad()
def describe_teachers(inputs: Inputs, tokens: int = 256) -> dict[str, float]:
    """Return means over the first tokens: entropy and RMI in nats, top-1, tail beyond 128 pieces.

    Args:
        inputs: whose members are described.
        tokens: how many are looked at.
    """
    V, M, N, _ = inputs.sizes
    sums = dict.fromkeys(("total_uncertainty", "top1", "rmi", "tail_beyond_128"), 0.0)
    tokens = min(tokens, N)
    for begin in range(0, tokens, _ROWS):
        end = min(begin + _ROWS, tokens)
        mean = log_mean = inputs.references.new_zeros(end - begin, V, dtype=torch.float32)
        for member in inputs.members:
            log_probs = torch.log_softmax(member.features[begin:end] @ member.weight.T, -1)
            mean = mean + log_probs.exp() / M
            log_mean = log_mean + log_probs / M
        log = mean.log()
        sums["total_uncertainty"] += float(-(torch.xlogy(mean, mean)).sum())
        sums["top1"] += float(mean.amax(-1).sum())
        sums["rmi"] += float((mean * (log - log_mean)).sum())
        top = mean.topk(min(128, V), -1).values.sum(-1)
        sums["tail_beyond_128"] += float((1 - top).clamp_min(0).sum())
    return {name: value / tokens for name, value in sums.items()}
