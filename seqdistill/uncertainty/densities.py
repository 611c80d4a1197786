"""Gaussians of a model's features: how far a sentence is from what the model was trained on.

A sentence has two vectors: h, the mean over its positions of the encoder's outputs, and the same of
the decoder's features (what its output layer reads) along a hypothesis. Over in-domain sentences
each has a mean μ and a full covariance Σ, and the squared Mahalanobis distance (Lee et al. 2018)

    MD(h) = (h − μ)ᵀ Σ⁻¹ (h − μ)

says how unusual a sentence is; the relative distance (Ren et al. 2021) subtracts the distance to a
background Gaussian, of text of any kind, which takes away what is unusual in general. Ren et al.
(2023) pooled features in this way for conditional language models. All of it is float64: a distance
divides by the smallest variances there are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from seqdistill.errors import InputError

#: What is pooled: the encoder's outputs, or the decoder's features along a hypothesis.
SIDES = ("encoder", "decoder")


def pool_features(features: Tensor, token_mask: Tensor) -> Tensor:
    """Average features over the counted positions of each sentence.

    Args:
        features: (B, T, D), any floating dtype; whatever padding holds is not read.
        token_mask: (B, T) bool, True where a position counts.

    Returns:
        (B, D), float64.

    Raises:
        InputError: a sentence has no counted position.
    """
    count = token_mask.sum(dim=1, keepdim=True)
    if bool((count == 0).any()):
        raise InputError(
            "expected at least one counted position in every sentence, got none in one"
        )
    return features.double().masked_fill(~token_mask.unsqueeze(-1), 0.0).sum(dim=1) / count


class FeatureMoments:
    """Mean and scatter of vectors, batch by batch.

    A batch is centred by its own mean before its products are summed, and joined with what came
    before by the update of Chan, Golub & LeVeque (1983), so nothing of the size of the mean squared
    is ever added up and subtracted again.

    Example:
        >>> moments = FeatureMoments()
        >>> moments.add(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
        >>> moments.add(torch.tensor([[5.0, 6.0]]))
        >>> moments.mean.tolist(), moments.covariance[1, 1].item()
        ([3.0, 2.0], 8.0)
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean: Tensor | None = None  # (D,)
        self._scatter: Tensor | None = None  # (D, D) Σ (h − mean)(h − mean)ᵀ

    def add(self, vectors: Tensor) -> None:
        """Add vectors (N, D).

        Raises:
            InputError: NaN or infinity, or another width than before.
        """
        vectors = vectors.double()
        if not bool(torch.isfinite(vectors).all()):
            raise InputError(
                "NaN or infinite features; check the checkpoint and its dtype (float16 overflows "
                "where bfloat16 and float32 do not)"
            )
        N = vectors.shape[0]
        if N == 0:
            return
        mean = vectors.mean(dim=0)
        centred = vectors - mean
        scatter = centred.T @ centred
        if self._mean is None or self._scatter is None:
            self._mean, self._scatter, self.count = mean, scatter, N
            return
        if mean.shape != self._mean.shape:
            raise InputError(f"expected features of width {len(self._mean)}, got width {len(mean)}")
        total = self.count + N
        step = mean - self._mean
        self._scatter += scatter + torch.outer(step, step) * (self.count * N / total)
        self._mean += step * (N / total)
        self.count = total

    @property
    def mean(self) -> Tensor:
        """(D,) the mean, float64."""
        return self._require(self._mean)

    @property
    def covariance(self) -> Tensor:
        """(D, D) the covariance with divisor N, float64."""
        return self._require(self._scatter) / self.count

    def density(self, shrinkage: float | None = None) -> "GaussianDensity":
        """Return the Gaussian; see :class:`GaussianDensity` for ``shrinkage``, None is OAS's.

        Raises:
            InputError: fewer than two vectors, vectors that are all the same, or a shrinkage that
                leaves the covariance singular.
        """
        if self.count < 2:
            raise InputError(
                f"a covariance needs at least 2 sentences, got {self.count}; give more data"
            )
        covariance = self.covariance
        if shrinkage is None:
            shrinkage = oas_shrinkage(covariance, self.count)
        return GaussianDensity(
            self.mean.cpu().clone(), covariance.cpu(), self.count, float(shrinkage)
        )

    @staticmethod
    def _require(value: Tensor | None) -> Tensor:
        if value is None:
            raise InputError("expected at least one sentence, got none")
        return value


def oas_shrinkage(covariance: Tensor, count: int) -> float:
    """Return the oracle approximating shrinkage of a sample covariance.

    ρ = min(1, [(1 − 2/D) tr(S²) + tr²(S)] / [(n + 1 − 2/D)(tr(S²) − tr²(S)/D)]), in (0, 1]: what
    minimises the expected squared error of (1 − ρ) S + ρ tr(S)/D · I for Gaussian samples.

    Args:
        covariance: S, (D, D), with divisor n.
        count: n.

    Source: Chen, Wiesel, Eldar & Hero 2010, Shrinkage Algorithms for MMSE Covariance Estimation
    (IEEE Transactions on Signal Processing), equation 23.
    """
    D = covariance.shape[0]
    trace = float(covariance.trace())
    of_square = float(covariance.square().sum())  # tr(S²) of a symmetric S
    spread = of_square - trace**2 / D
    denominator = (count + 1.0 - 2.0 / D) * spread
    numerator = (1.0 - 2.0 / D) * of_square + trace**2
    # A multiple of the identity is its own target; its spread is 0, or rounding on either side.
    return 1.0 if denominator <= numerator else numerator / denominator


@dataclass(frozen=True, eq=False)
class GaussianDensity:
    """A Gaussian with the covariance Σ = (1 − ρ) S + ρ tr(S)/D · I.

    Attributes:
        mean: μ, (D,), float64.
        covariance: S of the samples, (D, D), divisor n, float64.
        count: n, sentences that it was fitted on.
        shrinkage: ρ in [0, 1]. Above 0 makes Σ invertible where S is not: features behind a layer
            norm lie in a plane, so theirs never is.

    Raises:
        InputError: shapes that do not fit, numbers that are not finite, all sentences alike, a
            shrinkage outside [0, 1], or a Σ that is singular in float64.
    """

    mean: Tensor
    covariance: Tensor
    count: int
    shrinkage: float
    _factor: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        (D,) = self.mean.shape
        if self.covariance.shape != (D, D):
            raise InputError(
                f"expected a covariance of shape {(D, D)}, got {tuple(self.covariance.shape)}"
            )
        if not 0.0 <= self.shrinkage <= 1.0:
            raise InputError(f"expected a shrinkage from 0 to 1, got {self.shrinkage:g}")
        finite = torch.isfinite(self.mean).all() & torch.isfinite(self.covariance).all()
        if not bool(finite):
            raise InputError("the density holds NaN or infinity; fit it again")
        average = self.covariance.trace() / D
        if float(average) <= 0.0:
            raise InputError("all sentences have the same features; fit on more and other text")
        shrunk = (1.0 - self.shrinkage) * self.covariance
        shrunk.diagonal().add_(self.shrinkage * average)
        values = torch.linalg.eigvalsh(shrunk)
        # Below D · eps of the largest, an eigenvalue is rounding.
        if float(values[0]) <= D * torch.finfo(torch.float64).eps * float(values[-1]):
            raise InputError(
                f"the covariance of {self.count} sentences and {D} features is singular with a "
                f"shrinkage of {self.shrinkage:g}; leave the shrinkage to its default, or fit on "
                "more sentences"
            )
        object.__setattr__(self, "_factor", torch.linalg.cholesky(shrunk))

    @cached_property
    def _factors(self) -> dict[torch.device, tuple[Tensor, Tensor]]:
        return {}

    def squared_distance(self, vectors: Tensor) -> Tensor:
        """Return (N,) the squared Mahalanobis distances of vectors (N, D), float64, at least 0.

        Raises:
            InputError: vectors of another width.
        """
        if vectors.shape[-1] != self.mean.shape[0]:
            raise InputError(
                f"expected features of width {self.mean.shape[0]}, got {vectors.shape[-1]}; the "
                "density is of another model"
            )
        device = vectors.device
        if device not in self._factors:
            self._factors[device] = (self.mean.to(device), self._factor.to(device))
        mean, factor = self._factors[device]
        whitened = torch.linalg.solve_triangular(factor, (vectors.double() - mean).T, upper=False)
        squared: Tensor = whitened.square().sum(dim=0)
        return squared


@dataclass(frozen=True, eq=False)
class ModelDensity:
    """The densities of one model.

    Attributes:
        name: of the checkpoint, for messages.
        weights: of the model, a sample by which it is known again; see
            :func:`seqdistill.uncertainty.fitted_files.weight_sample`.
        in_domain: side, of :data:`SIDES`, → Gaussian.
        background: the same of text of any kind; without the decoder where that text had no
            translations, empty without a background.
    """

    name: str
    weights: Sequence[Tensor]
    in_domain: Mapping[str, GaussianDensity]
    background: Mapping[str, GaussianDensity] = field(default_factory=dict)


def distance_measures(
    densities: Sequence[ModelDensity], pooled: Mapping[str, Sequence[Tensor]]
) -> dict[str, Tensor]:
    """Return the distances of N sentences: the mean over members of each member's own.

    Args:
        densities: of M members.
        pooled: side, of :data:`SIDES`, → M pooled features (N, D).

    Returns:
        ``mahalanobis_*`` and, where every member has a background, ``relative_mahalanobis_*``, each
        (N,), float64, no unit, higher = more uncertain.
    """
    found: dict[str, Tensor] = {}
    relative: dict[str, Tensor] = {}
    for side in SIDES:
        pairs = list(zip(densities, pooled[side], strict=True))
        near = [density.in_domain[side].squared_distance(vectors) for density, vectors in pairs]
        found[f"mahalanobis_{side}"] = torch.stack(near).mean(dim=0)
        if all(side in density.background for density in densities):
            far = [density.background[side].squared_distance(vectors) for density, vectors in pairs]
            difference = torch.stack(near) - torch.stack(far)
            relative[f"relative_mahalanobis_{side}"] = difference.mean(dim=0)
    return found | relative
