"""The members' mixture, read one member at a time: equal weights, or what they said so far.

    PE   p̄    = mean_m p_m
    EP   p_EP = Σ_m P_m(y_<l) p_m / Σ_m P_m(y_<l)

The second is the next-token distribution of mean_m P_m(y): each member counts by the probability
that it gave to the prefix. One tensor of memory, whatever M is.
"""

import math

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.kernels.mixture import LOG_OF_IMPOSSIBLE, LogWeights


class LogMixture:
    """ln Σ_m w_m p_m of members added one at a time, in logarithms: no underflow in the tail.

    Example:
        >>> import torch
        >>> mixture = LogMixture()
        >>> mixture.add(torch.tensor([0.9, 0.1]).log(), torch.tensor(3.0).log())
        >>> mixture.add(torch.tensor([0.5, 0.5]).log(), torch.tensor(1.0).log())
        >>> mixture.log_probs().exp()
        tensor([0.8000, 0.2000])
    """

    def __init__(self) -> None:
        self.count = 0
        self._log_sum: Tensor | None = None
        self._weights: LogWeights | None = None

    def add(self, log_probs: Tensor, log_weights: Tensor | None = None) -> None:
        """Add a member: (..., V) log-probabilities, and (...) ln w_m up to a common constant.

        Weights are given for all members or for none, which weighs them equally.
        """
        self.count += 1
        earlier = self._log_sum
        if log_weights is not None:
            self._weights = self._weights or LogWeights()
            fade, share = (
                by.to(log_probs.dtype).unsqueeze(-1) for by in self._weights.add(log_weights)
            )
            log_probs = log_probs + share
            earlier = None if earlier is None else earlier + fade
        self._log_sum = log_probs if earlier is None else torch.logaddexp(earlier, log_probs)

    def log_probs(self) -> Tensor:
        """Return (..., V) the logarithm of the mixture, a new tensor.

        Raises:
            InputError: no member was added.
        """
        if self._log_sum is None:
            raise InputError("expected the log-probabilities of at least one member, got none")
        if self._weights is None:
            return self._log_sum - math.log(self.count)
        return self._log_sum - self._weights.total.log().to(self._log_sum.dtype).unsqueeze(-1)


def ep_token_log_probs(member_token_log_probs: Tensor) -> Tensor:
    """Return ln p_EP(y_l) = ln P(y_≤l) − ln P(y_<l) of each token of a hypothesis under EP.

    Their sum over positions is ln mean_m P_m(y).

    Args:
        member_token_log_probs: (M, ..., T) ln p_m(y_l | y_<l), nats.

    Returns:
        (..., T), computed in float64, in the dtype given.

    Example:
        >>> import torch
        >>> members = torch.tensor([[0.9, 0.5], [0.1, 0.5]]).log()
        >>> ep_token_log_probs(members).exp()
        tensor([0.5000, 0.5000])
    """
    sums = member_token_log_probs.double().cumsum(dim=-1).clamp_min(LOG_OF_IMPOSSIBLE)
    log_probs = torch.logsumexp(sums, dim=0)
    before = torch.full_like(log_probs[..., :1], float(len(sums))).log()
    return torch.diff(log_probs, dim=-1, prepend=before).to(member_token_log_probs.dtype)


def ep_token_measures(
    log_mixture: Tensor, mean_log_probs: Tensor, data_uncertainty: Tensor
) -> dict[str, Tensor]:
    """Token measures of an ensemble combined as an expectation of products.

    Args:
        log_mixture: (..., V) ln p_EP.
        mean_log_probs: (..., V) ℓ̄ = mean_m ln p_m.
        data_uncertainty: (...) DU = mean_m H(p_m).

    Returns:
        Those of :func:`ep_measures`.

    Example:
        >>> import torch
        >>> members = torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log()
        >>> alike = ep_token_measures(members[0], members[0], torch.tensor(0.5))
        >>> float(alike["reverse_mutual_information_ep"])
        0.0
    """
    lowest = torch.finfo(log_mixture.dtype).min
    probs = log_mixture.exp()
    # Where p_EP = 0 the factor makes the clamped logarithm irrelevant.
    log_mixture = log_mixture.clamp_min(lowest)
    total = -(probs * log_mixture).sum(dim=-1)
    gap = (log_mixture - mean_log_probs.clamp_min(lowest)).mul_(probs)
    return ep_measures(total, gap.sum(dim=-1).clamp_min(0.0), data_uncertainty)


def ep_measures(total: Tensor, rmi: Tensor, data_uncertainty: Tensor) -> dict[str, Tensor]:
    """Token measures of an ensemble under EP, of what they are made of.

    TU = H(p_EP), MI = TU − DU, RMI = Σ p_EP (ln p_EP − ℓ̄), EPKL = MI + RMI: those of PE with p_EP
    in the place of p̄ (Malinin & Gales 2021, section 3, and the code released with it). DU and ℓ̄
    stay equal-weight means over members, so RMI = mean_m KL(p_EP‖p_m) is still at least 0, but MI
    and EPKL can fall below 0: where the prefix favours a member that is sure, H(p_EP) is less than
    the average member's entropy. They are not clamped.

    Args:
        total: (...) H(p_EP).
        rmi: (...) mean_m KL(p_EP‖p_m).
        data_uncertainty: (...) DU = mean_m H(p_m).

    Returns:
        Four measures by name, each (...), nats.
    """
    mutual_information = total - data_uncertainty
    return {
        "total_uncertainty_ep": total,
        "mutual_information_ep": mutual_information,
        "epkl_ep": mutual_information + rmi,
        "reverse_mutual_information_ep": rmi,
    }
