"""The estimator of students with a distribution over logits: members drawn from it with a seed.

Member s of S has the logits z + b ε_s, with Laplace, Gaussian or (``concrete``) Gumbel noise ε. No
expectation of a softmax over such logits has a closed form, so the measures are those of the S
drawn members, who are read as an ensemble is. The noise of a member is one number a piece of the
vocabulary, whatever the position, the beam or the batch: every way to the same hypothesis gives
the same numbers, and one member is one model all along a sequence. More samples continue the same
ones. What has a closed form is the entropy of the distribution itself (``logit_entropy``).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.hypotheses import ModelInfo
from seqdistill.numerics.concrete import exp_concrete_entropy, open_uniforms
from seqdistill.student import StudentHead
from seqdistill.teachers import EnsembleStatistics, ensemble_statistics
from seqdistill.uncertainty.ensemble import EnsembleEstimator
from seqdistill.uncertainty.measures import resolve_measures
from seqdistill.uncertainty.options import (
    UncertaintyOptions,
    needed_token_measures,
    sequence_values,
)
from seqdistill.uncertainty.outputs import MemberRows, rows_of
from seqdistill.uncertainty.reading import (
    TokenReading,
    entropy,
    only_output,
    require_valid,
    tempered,
)
from seqdistill.uncertainty.sequence import (
    joint_ensemble_measures,
    mean_over_positions,
    mixture_log_probs,
)

_OF_CHOSEN = ("negative_log_probability",)
_OF_BASE = ("total_uncertainty_base", "logit_entropy", "entropy", "negative_log_max_probability")

#: Kinds of students with a distribution over logits.
LOGIT_SPACE_KINDS = ("laplace", "gaussian", "concrete")


class LogitSpaceRows:
    """Location and scale of R rows; what :class:`LogitSpaceEstimator` reads of one student.

    Args:
        location: rows of the logits z.
        log_scales: (R, V) or (R, 1) s = ln b.
    """

    is_free = False

    def __init__(self, location: MemberRows, log_scales: Tensor) -> None:
        self.location = location
        self.log_scales = log_scales
        self.V = location.V
        self.log_total: Tensor | None = None
        self.drawn_totals: Tensor | None = None  # (S, R) of each drawn member, once read

    def whole(self, rows: Tensor | None = None) -> Tensor:
        """See :class:`MemberRows`; the location's."""
        return self.location.whole(rows)

    def at(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """See :class:`MemberRows`; the location's."""
        return self.location.at(tokens, rows)

    def scales_at(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """Return (N,) b of tokens (N,) at rows (N,)."""
        columns = tokens if self.log_scales.shape[-1] > 1 else torch.zeros_like(tokens)
        return self.log_scales[rows, columns].exp()


class _Drawn:
    """One drawn member's logits at the rows that are being read."""

    is_free = True

    def __init__(self, location: Tensor, scales: Tensor, noise: Tensor) -> None:
        self._location, self._scales, self._noise = location, scales, noise
        self.V = location.shape[-1]
        self.log_total: Tensor | None = None

    def whole(self, rows: Tensor | None = None) -> Tensor:
        if rows is None:
            return torch.addcmul(self._location, self._scales, self._noise)
        return torch.addcmul(self._location[rows], self._scales[rows], self._noise)

    def at(self, tokens: Tensor, rows: Tensor) -> Tensor:
        scales = self._scales.expand_as(self._location)[rows, tokens]
        return self._location[rows, tokens] + scales * self._noise[tokens]


class LogitSpaceEstimator:
    """One student with a distribution over logits.

    Args:
        head: the student's, of one of :data:`LOGIT_SPACE_KINDS`.
        options: measures; ``dirichlet_samples`` and ``dirichlet_seed`` say how many members are
            drawn and how, instead of as many as the head says with seed 0.

    Raises:
        InputError: it shall be combined as an expectation of products.
    """

    wants_logits = True
    needs_logits = False
    needs_prefix = False

    def __init__(self, head: StudentHead, options: UncertaintyOptions | None = None) -> None:
        options = options or UncertaintyOptions()
        if options.combination != "pe":
            raise InputError(
                f"a student of kind {head.kind} is decoded with its location or the mean of its "
                "members (--predictive base or mean), not as --ensemble-combination ep; its joint "
                "EP measures are computed without that"
            )
        self.kind, self.predictive = head.kind, head.predictive
        self.samples = options.dirichlet_samples or int(head.settings["samples"])
        self.seed = options.dirichlet_seed
        self.info = ModelInfo(head.kind, 1, head.predictive, samples=self.samples, seed=self.seed)
        self.measures = resolve_measures(options.measures, head.kind)
        needed = needed_token_measures(self.measures)
        self.token_measures = tuple(name for name in needed if name not in _OF_CHOSEN)
        of_members = [name for name in self.token_measures if name not in _OF_BASE]
        self._members = EnsembleEstimator(
            self.samples, UncertaintyOptions(tuple(of_members) or ("total_uncertainty",))
        )

    def read(
        self,
        outputs: Iterable[Tensor | MemberRows],
        temperature: float = 1.0,
        prefixes: Iterable[Tensor] | None = None,
    ) -> TokenReading:
        """See :meth:`Estimator.read`."""
        rows = _student_rows(only_output(outputs))
        location, log_scales = rows.whole(), rows.log_scales.to(torch.float32)
        rows.log_total = torch.logsumexp(location, dim=-1).double()
        require_valid(
            torch.isfinite(rows.log_total) & torch.isfinite(log_scales.sum(dim=-1)),
            "logits or scales",
        )
        noise = logit_noise(self.kind, self.samples, rows.V, self.seed).to(location)
        scales = log_scales.exp().to(location.dtype)
        drawn = [_Drawn(location, scales, of_member) for of_member in noise]
        reading = self._members.read(drawn)
        totals = [one.log_total for one in drawn if one.log_total is not None]
        rows.drawn_totals = torch.stack(totals).double()
        base = torch.log_softmax(location, dim=-1)
        at_one = reading.log_probs if self.predictive == "mean" else base
        found = dict(reading.measures)
        if "total_uncertainty_base" in self.token_measures:
            found["total_uncertainty_base"] = entropy(base)
        if "logit_entropy" in self.token_measures:
            found["logit_entropy"] = logit_entropy(self.kind, log_scales, rows.V)
        if "entropy" in self.token_measures:
            found["entropy"] = entropy(at_one)
        if "negative_log_max_probability" in self.token_measures:
            found["negative_log_max_probability"] = -at_one.amax(dim=-1)
        return TokenReading(
            tempered(at_one, temperature), {name: found[name] for name in self.token_measures}
        )

    def token_terms(
        self,
        output: Tensor | MemberRows,
        tokens: Tensor,
        rows: Tensor,
        positions: Tensor | None = None,
    ) -> Tensor:
        """See :meth:`Estimator.token_terms`; (1 + S, N): the location's ln p, the members'."""
        given = _student_rows(rows_of(output))
        if given.log_total is None or given.drawn_totals is None:
            self.read([given])
        assert given.log_total is not None  # read() leaves both
        assert given.drawn_totals is not None
        location = given.at(tokens, rows).double()
        noise = logit_noise(self.kind, self.samples, given.V, self.seed).to(location.device)
        moved = given.scales_at(tokens, rows).double() * noise[:, tokens].double()
        drawn = location + moved - given.drawn_totals[:, rows]
        return torch.cat([(location - given.log_total[rows]).unsqueeze(0), drawn]).clamp_max(0.0)

    def token_log_probs(self, terms: Tensor) -> Tensor:
        """See :meth:`Estimator.token_log_probs`."""
        return mixture_log_probs(terms[1:]) if self.predictive == "mean" else terms[0]

    def token_uncertainty(self, measures: Mapping[str, Tensor], terms: Tensor) -> dict[str, Tensor]:
        """See :meth:`Estimator.token_uncertainty`."""
        every = dict(measures) | {"negative_log_probability": -self.token_log_probs(terms)}
        return {name: every[name] for name in self.measures if name in every}

    def sequence_measures(
        self, measures: Mapping[str, Tensor], terms: Tensor, token_mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See :meth:`Estimator.sequence_measures`."""
        of_sequences = joint_ensemble_measures(terms[1:], token_mask)
        of_sequences["joint_total_uncertainty_base"] = -mean_over_positions(terms[0], token_mask)
        of_tokens = dict(measures) | {"negative_log_probability": -self.token_log_probs(terms)}
        return sequence_values(self.measures, of_tokens, of_sequences, terms[0], token_mask)


def logit_space_estimator(
    heads: Sequence[StudentHead], options: UncertaintyOptions | None
) -> LogitSpaceEstimator:
    """Return the estimator of one such student.

    Raises:
        InputError: there are several.
    """
    if len(heads) > 1:
        raise InputError(
            f"{len(heads)} students of kind {heads[0].kind}: each is a distribution over members "
            "and decodes alone; give one --path"
        )
    return LogitSpaceEstimator(heads[0], options)


def drawn_statistics(head: StudentHead, logits: Tensor, log_scales: Tensor) -> EnsembleStatistics:
    """Return the statistics of the members drawn from a student, for the log of a training.

    Args:
        head: of one of :data:`LOGIT_SPACE_KINDS`.
        logits: (..., V) its location.
        log_scales: (..., V) or (..., 1) ln b.
    """
    noise = logit_noise(head.kind, int(head.settings["samples"]), logits.shape[-1], 0)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    scales = log_scales.to(wide).exp()
    return ensemble_statistics(
        torch.log_softmax(torch.addcmul(wide, scales, one), dim=-1) for one in noise.to(wide)
    )


def logit_entropy(kind: str, log_scales: Tensor, V: int) -> Tensor:
    """Return the differential entropy of the student's logits, nats an entry of the vocabulary.

    Laplace: mean_v ln(2 e b_v). Gaussian: mean_v ½ ln(2 π e b_v²). Concrete: that of ln x in its
    V − 1 free entries, over V. It may be below 0, as differential entropies may.

    Args:
        kind: of :data:`LOGIT_SPACE_KINDS`.
        log_scales: (..., V) or (..., 1) ln b.
        V: size of the vocabulary.

    Example:
        >>> logit_entropy("laplace", torch.zeros(5), 5)  # ln 2 + 1
        tensor(1.6931)
    """
    if kind == "concrete":
        return exp_concrete_entropy(V, (-log_scales.squeeze(-1)).exp()) / V
    constant = 1 + math.log(2) if kind == "laplace" else 0.5 * math.log(2 * math.pi * math.e)
    return log_scales.mean(dim=-1) + constant


@lru_cache(maxsize=8)
def logit_noise(kind: str, samples: int, V: int, seed: int) -> Tensor:
    """Return (S, V) noise of location 0 and scale 1, float32; the same on every machine.

    Args:
        kind: of :data:`LOGIT_SPACE_KINDS`.
        samples: S; more of them continue the same ones.
        V: size of the vocabulary.
        seed: of the draws.
    """
    if kind not in LOGIT_SPACE_KINDS:
        raise InputError(f"expected a kind among {', '.join(LOGIT_SPACE_KINDS)}, got {kind!r}")
    generator = torch.Generator().manual_seed(seed)
    u = open_uniforms((samples, V), generator)
    if kind == "gaussian":
        normals: Tensor = torch.special.ndtri(u)
        return normals.float()
    if kind == "concrete":
        return -(-u.log()).log().float()
    distance = -torch.log1p(-2 * (u - 0.5).abs())
    noise = distance.clamp_max(-math.log(2.0**-53)) * (u - 0.5).sign()
    return noise.float()


def _student_rows(output: MemberRows) -> LogitSpaceRows:
    if not isinstance(output, LogitSpaceRows):
        raise InputError(
            "expected location and scale of a student with a distribution over logits, got one "
            "row of logits"
        )
    return output
