"""Where in the vocabulary a loss's gradient is: by the rank that the ensemble gives each class.

A vocabulary has a handful of classes that a token is about and tens of thousands that it is not. A
loss whose gradient in the logits is spread over those thousands teaches a student little about the
handful: that is what is wrong with EnD² at large V, and what the Proxy-Dirichlet's reverse KL mends
(Ryabinin, Malinin & Gales 2021).

Classes are ranked token by token by the ensemble's mean p̄, 1 the most probable (ties by number);
ranks are put into bins that are even in the logarithm. Only sums by sentence and bin are kept.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqdistill.assessment.bootstrap import (
    Estimate,
    IntArray,
    check_bootstrap,
    estimate,
    tallies,
)
from seqdistill.assessment.checks import FloatArray
from seqdistill.assessment.signatures import bootstrap_fields, sign
from seqdistill.errors import InputError
from seqdistill.kernels import DistillationLoss, fused_distillation_loss
from seqdistill.teachers import EnsembleStatistics

#: Bins a factor of ten in rank.
PER_DECADE = 4


@dataclass(frozen=True)
class RankBins:
    """Ranks 1 … V in bins that are even in the logarithm.

    Attributes:
        first: lowest rank of each bin, shape (K,); a bin begins at 1, 10, 100 ….
        last: highest rank of each bin, shape (K,); the last one is V.
    """

    first: IntArray
    last: IntArray

    @classmethod
    def of(cls, V: int, per_decade: int = PER_DECADE) -> "RankBins":
        """Return the bins of V classes: they begin at the ranks ⌈10^(j/k)⌉, each taken once.

        Args:
            V: number of classes.
            per_decade: k, bins a factor of ten.

        Raises:
            InputError: fewer than two classes, or less than one bin.

        Example:
            >>> bins = RankBins.of(30, per_decade=2)
            >>> list(zip(bins.first.tolist(), bins.last.tolist()))
            [(1, 3), (4, 9), (10, 30)]
        """
        if V < 2:
            raise InputError(f"expected at least 2 classes, got {V}")
        if per_decade < 1:
            raise InputError(f"expected at least 1 bin a factor of ten, got {per_decade}")
        exponents = np.arange(per_decade * len(str(V)) + 1) / per_decade
        first = np.unique(np.ceil(10.0**exponents).astype(np.int64))
        first = first[first <= V]
        return cls(first, np.append(first[1:] - 1, V))

    @property
    def sizes(self) -> IntArray:
        """Ranks in each bin, shape (K,)."""
        return self.last - self.first + 1


@dataclass(frozen=True)
class GradientProfile:
    """Gradients by rank, of every loss at the parameters of every student.

    Attributes:
        bins: of the ranks.
        means: student → loss → for each bin the mean of |∂L/∂z_v| (nats) over tokens and its ranks.
        shares: student → loss → for each bin the share, in [0, 1], of Σ|∂L/∂z_v| over tokens and
            classes that lies at the bin's first rank and beyond; None where there is no gradient.
        settings: of each loss.
        signatures: of each loss.
        sentences: number of sentences.
        tokens: number of tokens.
        origin: texts and models, as a reader should know them.
    """

    bins: RankBins
    means: dict[str, dict[str, list[Estimate]]]
    shares: dict[str, dict[str, list[Estimate] | None]]
    settings: dict[str, dict[str, Any]]
    signatures: dict[str, str]
    sentences: int
    tokens: int
    origin: dict[str, Any]


class GradientProfiler:
    """Adds up gradients, a batch of whole sentences at a time.

    Args:
        V: vocabulary entries.
        losses: by the names that results have.
        per_decade: bins a factor of ten in rank.

    Raises:
        InputError: see :meth:`RankBins.of`; no loss, or one with a mixed-in cross-entropy.

    Example:
        >>> from seqdistill.teachers import ensemble_statistics
        >>> members = torch.tensor([[[0.7, 0.2, 0.1]], [[0.6, 0.3, 0.1]]]).log()
        >>> profiler = GradientProfiler(3, {"EnD": DistillationLoss("mean_kl")})
        >>> zeros = {"uniform": torch.zeros(1, 3)}
        >>> profiler.add(zeros, ensemble_statistics(members), torch.tensor([0]))
        >>> [round(e.value, 3) for e in profiler.profile(resamples=0).means["uniform"]["EnD"]]
        [0.317, 0.158]
    """

    def __init__(
        self, V: int, losses: Mapping[str, DistillationLoss], per_decade: int = PER_DECADE
    ) -> None:
        self.bins = RankBins.of(V, per_decade)
        if not losses:
            raise InputError("expected at least one loss, got none")
        for name, loss in losses.items():
            if loss.needs_references:
                raise InputError(f"{name}: a mixed-in cross-entropy has no rank of its own")
        self.losses = dict(losses)
        self._V = V
        bin_of_rank = np.repeat(np.arange(len(self.bins.first)), self.bins.sizes)
        self._bin_of_rank = torch.from_numpy(bin_of_rank)
        self._tokens: dict[int, int] = {}
        self._sums: dict[tuple[str, str], dict[int, FloatArray]] = {}

    def add(
        self, logits: Mapping[str, Tensor], statistics: EnsembleStatistics, sentences: Tensor
    ) -> None:
        """Add the N tokens of some sentences; a sentence comes whole, once.

        Args:
            logits: of every student, (N, V), the same students each time.
            statistics: of the ensemble at the same tokens, (N, V) and (N).
            sentences: number of each token's sentence, (N,).

        Raises:
            InputError: shapes do not fit, a sentence came before, or a gradient is not finite.
        """
        expected = (len(sentences), self._V)
        given = {"the ensemble": statistics.mean_probs, **logits}
        for name, values in given.items():
            if values.shape != expected:
                raise InputError(
                    f"{name} has shape {tuple(values.shape)}, expected {expected}: all must be of "
                    "the same tokens and share one vocabulary"
                )
        numbers, place = torch.unique(sentences, return_inverse=True)
        again = self._tokens.keys() & set(numbers.tolist())
        if again:
            raise InputError(f"sentence {min(again)} was added before; add each whole, once")
        counts = torch.bincount(place, minlength=len(numbers)).tolist()
        self._tokens |= dict(zip(numbers.tolist(), counts, strict=True))
        order = statistics.mean_probs.argsort(dim=-1, descending=True, stable=True)
        for student, z in logits.items():
            for name, loss in self.losses.items():
                gradient = _gradient(z, statistics, loss)
                rows = self._by_bin(gradient.abs_().gather(1, order), place, len(numbers))
                if not np.isfinite(rows).all():
                    raise InputError(f"the gradient of {name} at {student} is not finite")
                sums = self._sums.setdefault((student, name), {})
                sums |= dict(zip(numbers.tolist(), rows, strict=True))

    def _by_bin(self, ranked: Tensor, place: Tensor, sentences: int) -> FloatArray:
        """Return sums (sentences, K) of |gradients| (N, V) in the order of their ranks."""
        bins = self._bin_of_rank.to(ranked.device)
        shape = (ranked.shape[0], len(self.bins.first))
        tokens = torch.zeros(shape, dtype=torch.float64, device=ranked.device)
        tokens.index_add_(1, bins, ranked.double())
        sums = torch.zeros(sentences, shape[1], dtype=torch.float64, device=ranked.device)
        found: FloatArray = sums.index_add_(0, place, tokens).cpu().numpy()
        return found

    def profile(
        self, *, resamples: int = 1000, seed: int = 0, origin: Mapping[str, Any] | None = None
    ) -> GradientProfile:
        """Return means and shares of what was added, with intervals over sentences.

        Args:
            resamples: bootstrap resamples, 0 for no intervals.
            seed: of the bootstrap.
            origin: texts and models, kept with the result.

        Raises:
            InputError: nothing was added, or resamples or seed are negative.
        """
        check_bootstrap(resamples, seed)
        if not self._tokens:
            raise InputError("expected the gradients of at least one sentence, got none")
        numbers = sorted(self._tokens)  # whatever the batches were
        tokens = np.array([self._tokens[i] for i in numbers], dtype=np.float64)
        means: dict[str, dict[str, list[Estimate]]] = {}
        shares: dict[str, dict[str, list[Estimate] | None]] = {}
        for (student, name), rows in self._sums.items():
            sums = np.stack([rows[i] for i in numbers])  # (S, K)
            mean, share = _numbers(sums, tokens, self.bins.sizes, resamples, seed)
            means.setdefault(student, {})[name] = mean
            shares.setdefault(student, {})[name] = share
        n, total = len(numbers), int(tokens.sum())
        drawn = bootstrap_fields(resamples, seed)
        return GradientProfile(
            self.bins,
            means,
            shares,
            {name: _settings(loss) for name, loss in self.losses.items()},
            {
                name: sign(
                    {"metric": "gradient-by-rank", "rank": "p̄", **_settings(loss)}
                    | {"V": self._V, "n": n, "tokens": total, **drawn}
                )
                for name, loss in self.losses.items()
            },
            n,
            total,
            dict(origin or {}),
        )


def _gradient(z: Tensor, statistics: EnsembleStatistics, loss: DistillationLoss) -> Tensor:
    """Return (N, V) ∂L/∂z of each token's own loss."""
    logits = z.detach().requires_grad_()
    with torch.enable_grad():
        total = fused_distillation_loss(logits, None, statistics, loss=loss).loss_sum
    (gradient,) = torch.autograd.grad(total, logits)
    return gradient


def _numbers(
    sums: FloatArray, tokens: FloatArray, sizes: IntArray, resamples: int, seed: int
) -> tuple[list[Estimate], list[Estimate] | None]:
    """Means and shares of one loss at one student, from sums by sentence and bin (S, K)."""

    def of(tally: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Both of some tallies (R, S): (R, K) each, a share NaN where nothing is shared."""
        drawn = tally @ sums
        beyond = np.cumsum(drawn[:, ::-1], axis=1)[:, ::-1]
        whole = beyond[:, :1]
        share = np.divide(beyond, whole, out=np.full_like(beyond, np.nan), where=whole > 0.0)
        return drawn / (tally @ tokens)[:, None] / sizes, share

    n = len(tokens)
    mean, share = of(np.ones((1, n)))
    # The numbers themselves stand first, so that there is a row without any resample.
    chunks = [(mean, share), *(of(t.astype(np.float64)) for t in tallies(n, resamples, seed))]
    means, shares = (np.concatenate(column) for column in zip(*chunks, strict=True))
    columns = range(len(sizes))
    found = [estimate(float(means[0, k]), means[1:, k]) for k in columns]
    if np.isnan(shares[0]).any():
        return found, None
    return found, [estimate(float(shares[0, k]), shares[1:, k]) for k in columns]


def _settings(loss: DistillationLoss) -> dict[str, Any]:
    """What a loss is, without the settings that it does not read."""
    settings = asdict(loss)
    kept = {"loss": settings["kind"]}
    if loss.is_proxy:
        kept |= {name: settings[name] for name in ("concentration", "normalisation")}
    return kept if loss.kind == "mean_kl" else {**kept, "offset": f"{loss.offset:g}"}
