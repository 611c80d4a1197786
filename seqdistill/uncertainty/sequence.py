"""From positions to sequences: chain-rule means and joint estimates (Malinin & Gales 2021).

A hypothesis y of length L (end-of-sentence counted) has, from each of M members, the token
log-probabilities ln p_m(y_l | y_<l). Members make one model of sequences in two ways:

    PE, product of expectations:   ln P(y) = Σ_l ln mean_m p_m(y_l | y_<l)
    EP, expectation of products:   ln P(y) = ln mean_m Π_l p_m(y_l | y_<l)

and under either, TU = −(1/L) ln P(y) and RMI = −(1/L) mean_m ln P_m(y) − TU. A Dirichlet student
emulates an ensemble under PE. These tensors hold one number a token, not a vocabulary, so all of
it is computed in float64.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.numerics import DirichletTerms, ExpGamma
from seqdistill.uncertainty.mixtures import LogMixture
from seqdistill.uncertainty.outputs import KeptRows, MemberRows


def mean_over_positions(values: Tensor, token_mask: Tensor | None = None) -> Tensor:
    """Average a token measure along each sequence: the chain-rule estimate of its sequence value.

    Args:
        values: (..., T) one number a position.
        token_mask: (..., T) bool, True where a position counts (end-of-sentence does, padding does
            not, whatever it holds); broadcast against ``values``. None counts all.

    Returns:
        (...) the means, float64.

    Raises:
        InputError: a sequence has no counted position.

    Example:
        >>> import torch
        >>> mean_over_positions(torch.tensor([1.0, 3.0, 99.0]), torch.tensor([True, True, False]))
        tensor(2., dtype=torch.float64)
    """
    total, length = _sum_and_length(values, token_mask)
    return total / length


def mixture_log_probs(member_log_probs: Iterable[Tensor]) -> Tensor:
    """Log-probabilities of the members' mixture, ln mean_m p_m, reading members one at a time.

    Unlike the logarithm of a mean of probabilities it does not underflow in the tail, which a beam
    search under a forced prefix can reach.

    Args:
        member_log_probs: M tensors of one shape (...), held one at a time, or one tensor (M, ...).

    Returns:
        (...) ln p̄; a new tensor.

    Raises:
        InputError: there is no member.

    Example:
        >>> import torch
        >>> mixture_log_probs(torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log()).exp()
        tensor([0.7000, 0.3000])
    """
    mixture = LogMixture()
    for log_probs in member_log_probs:
        mixture.add(log_probs)
    return mixture.log_probs()


def joint_ensemble_measures(
    member_token_log_probs: Tensor, token_mask: Tensor | None = None
) -> dict[str, Tensor]:
    """Joint total uncertainty and reverse mutual information of hypotheses, under PE and EP.

    TU = −(1/L) ln P(y), RMI = −(1/L) mean_m ln P_m(y) − TU (Malinin & Gales 2021, section 3).
    Neither needs more than the members' log-probabilities of the tokens in y.

    Args:
        member_token_log_probs: (M, ..., T) ln p_m(y_l | y_<l), nats.
        token_mask: (..., T) bool, True where a position counts; None counts all.

    Returns:
        Four measures by name, each (...), float64, nats a token, higher = more uncertain; RMI ≥ 0,
        and 0 where members agree.

    Raises:
        InputError: fewer than two members, or a sequence without a counted position.

    Example:
        >>> import torch
        >>> agreeing = torch.tensor([[0.5, 0.5], [0.5, 0.5]]).log()
        >>> float(joint_ensemble_measures(agreeing)["joint_reverse_mutual_information_pe"])
        0.0
    """
    M = member_token_log_probs.shape[0]
    if M < 2:
        raise InputError(f"an ensemble needs at least 2 members, got {M}")
    member_token_log_probs = member_token_log_probs.double()
    mixture = mixture_log_probs(member_token_log_probs)
    if token_mask is not None:
        mixture = mixture.masked_fill(~token_mask, 0.0)
        member_token_log_probs = member_token_log_probs.masked_fill(~token_mask, 0.0)
    # Differences at each position, then the sum: members that nearly agree would cancel otherwise.
    rmi_pe = mean_over_positions(mixture - member_token_log_probs.mean(dim=0), token_mask)
    member_sums, length = _sum_and_length(member_token_log_probs, token_mask)
    log_prob_ep = mixture_log_probs(member_sums)
    return {
        "joint_total_uncertainty_pe": -mean_over_positions(mixture, token_mask),
        "joint_total_uncertainty_ep": -log_prob_ep / length,
        "joint_reverse_mutual_information_pe": rmi_pe.clamp_min(0.0),
        "joint_reverse_mutual_information_ep": (
            (log_prob_ep - member_sums.mean(dim=0)) / length
        ).clamp_min(0.0),
    }


def member_score_variance(
    member_token_log_probs: Tensor, token_mask: Tensor | None = None
) -> Tensor:
    """Variance over members of their scores (1/L) ln P_m(y) (Fomicheva et al. 2020, D-Var).

    Args:
        member_token_log_probs: (M, ..., T) ln p_m(y_l | y_<l), nats.
        token_mask: (..., T) bool, True where a position counts; None counts all.

    Returns:
        (...) float64, nats², divided by M; higher = more uncertain.

    Example:
        >>> import torch
        >>> member_score_variance(torch.tensor([[-1.0, -1.0], [-3.0, -3.0]]))
        tensor(1., dtype=torch.float64)
    """
    scores = mean_over_positions(member_token_log_probs, token_mask)
    return scores.var(dim=0, correction=0)


@dataclass(frozen=True)
class DirichletTokenTerms:
    """What a Dirichlet student says about the tokens of a hypothesis, nats.

    Attributes:
        log_probs_mean: (...) ln(α_y/α₀), under the Dirichlet's mean.
        log_probs_base: (...) ln softmax(z)_y, under its base.
        reverse_mutual_information: (...) ln(α_y/α₀) − E[ln π_y] = ψ(α₀) − ψ(α_y) + ln(α_y/α₀) ≥ 0,
            the token's share of the joint RMI.
    """

    log_probs_mean: Tensor
    log_probs_base: Tensor
    reverse_mutual_information: Tensor

    def stack(self) -> Tensor:
        """Return the three terms as one tensor (3, ...)."""
        return torch.stack(
            [self.log_probs_mean, self.log_probs_base, self.reverse_mutual_information]
        )


def dirichlet_token_terms(
    logits: Tensor, tokens: Tensor, offset: float, rows: Tensor | None = None
) -> DirichletTokenTerms:
    """Look up tokens in a Dirichlet student's logits, α = e^z + offset.

    Args:
        logits: (R, V) student logits z, any floating dtype; computed in float32 at least.
        tokens: (N,) the tokens looked up.
        offset: 1 or 0.
        rows: (N,) the row of ``logits`` that each token belongs to; None: N = R, one each.

    Returns:
        :class:`DirichletTokenTerms` of shape (N,).
    """
    if rows is None:
        rows = torch.arange(logits.shape[0], device=logits.device)
    return dirichlet_terms_at(KeptRows(logits), tokens, rows, offset)


def dirichlet_terms_at(
    output: MemberRows, tokens: Tensor, rows: Tensor, offset: float
) -> DirichletTokenTerms:
    """Look up tokens in rows that are kept; where they were not read yet, that takes a pass."""
    if output.log_total is None:
        output.log_total = DirichletTerms(output.whole(), offset).log_sum.squeeze(-1)
    return terms_of_chosen(output.at(tokens, rows), output.log_total[rows], output.V, offset)


def terms_of_chosen(chosen: Tensor, log_sum: Tensor, V: int, offset: float) -> DirichletTokenTerms:
    """Return the same, where the chosen tokens' logits and ln Σ e^z of their rows are known.

    Args:
        chosen: (N,) logits of the tokens.
        log_sum: (N,) ln Σ e^z over the vocabulary; float64 keeps what float32 has.
        V: vocabulary size.
        offset: 1 or 0.
    """
    largest = log_sum.to(chosen.dtype)
    whole = DirichletTerms.of_rows(V, offset, largest, log_sum.double() - largest.double())
    row, of_token = ExpGamma(whole.row_z), ExpGamma(chosen)
    gap = _log_minus_digamma(of_token, offset) - _log_minus_digamma(row, offset)
    return DirichletTokenTerms(
        log_probs_mean=_log_concentration(of_token, offset) - _log_concentration(row, offset),
        log_probs_base=of_token.z - whole.log_sum,
        reverse_mutual_information=gap,
    )


def joint_dirichlet_measures(
    terms: DirichletTokenTerms, token_mask: Tensor | None = None
) -> dict[str, Tensor]:
    """Joint measures of hypotheses under a Dirichlet student, which emulates PE.

    TU = −(1/L) Σ ln p(y_l) under the mean α/α₀ and, named apart, under the base softmax(z);
    RMI = (1/L) Σ [ψ(α₀) − ψ(α_{y_l}) + ln(α_{y_l}/α₀)].

    Args:
        terms: of the hypotheses' tokens, each (..., T).
        token_mask: (..., T) bool, True where a position counts; None counts all.

    Returns:
        Three measures by name, each (...), float64, nats a token, higher = more uncertain.

    Raises:
        InputError: a sequence has no counted position.
    """
    return {
        "joint_total_uncertainty_pe": -mean_over_positions(terms.log_probs_mean, token_mask),
        "joint_reverse_mutual_information_pe": mean_over_positions(
            terms.reverse_mutual_information, token_mask
        ),
        "joint_total_uncertainty_base": -mean_over_positions(terms.log_probs_base, token_mask),
    }


def average_over_n_best(
    values: Tensor, log_probs: Tensor | None = None, *, temperature: float = 1.0
) -> Tensor:
    """Average a sequence measure over the hypotheses of one source (importance weighting).

    Σ_s w_s · value_s with w = softmax(ln P(y_s)/τ), or equal weights (Malinin & Gales 2021).

    Args:
        values: (..., S) a measure of S hypotheses.
        log_probs: (..., S) ln P(y_s), *not* normalised by length, nats; None weights equally.
        temperature: τ above 0; large values approach equal weights.

    Returns:
        (...) the averages, float64.

    Raises:
        InputError: no hypothesis, or a temperature that is not above 0.

    Example:
        >>> import torch
        >>> average_over_n_best(torch.tensor([1.0, 3.0]), torch.tensor([0.75, 0.25]).log())
        tensor(1.5000, dtype=torch.float64)
    """
    if values.shape[-1] == 0:
        raise InputError("expected at least one hypothesis of a source, got none")
    if not temperature > 0:
        raise InputError(f"expected a temperature above 0, got {temperature}")
    if log_probs is None:
        return values.double().mean(dim=-1)
    weights = torch.softmax(log_probs.double() / temperature, dim=-1)
    return (weights * values.double()).sum(dim=-1)


def sequence_lengths(values: Tensor, token_mask: Tensor | None = None) -> Tensor:
    """Return how many positions of (..., T) count, float64, to broadcast against (...).

    Raises:
        InputError: a sequence has no counted position.
    """
    if token_mask is None:
        length = torch.tensor(values.shape[-1], dtype=torch.float64, device=values.device)
    else:
        length = token_mask.sum(dim=-1, dtype=torch.float64)
    if bool((length == 0).any()):
        raise InputError(
            "expected at least one counted position in every sequence, got a sequence without; "
            "count the end-of-sentence token"
        )
    return length


def _sum_and_length(values: Tensor, token_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return (...) sums over counted positions and (...) how many those are, both float64."""
    length = sequence_lengths(values, token_mask)
    values = values.double()
    if token_mask is not None:
        # Masked before the sum: padding may hold NaN, and NaN times 0 would stay NaN.
        values = values.masked_fill(~token_mask, 0.0)
    return values.sum(dim=-1), length


# α = 1 + e^z (o = 1) or e^z (o = 0), of a token or, at the row's own logit, the precision α₀.


def _log_concentration(family: ExpGamma, offset: float) -> Tensor:
    """Return ln α."""
    return family.softplus if offset == 1 else family.z


def _log_minus_digamma(family: ExpGamma, offset: float) -> Tensor:
    """Return ln α − ψ(α) > 0, without subtracting large numbers."""
    if offset == 1:
        return family.t * family.r
    return torch.exp(-family.z) - family.digamma_excess  # ψ(x) = ψ(1 + x) − 1/x
