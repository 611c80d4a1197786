"""What an estimator is: one kind of model, as every framework adapter sees it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.hypotheses import ModelInfo
from seqdistill.uncertainty.outputs import MemberRows, rows_of


@dataclass(frozen=True)
class TokenReading:
    """What a model says at R rows.

    Attributes:
        log_probs: (R, V) the distribution that is decoded; a new tensor, free to be changed.
        measures: token measures by name, each (R,), nats, higher = more uncertain, temperature 1.
    """

    log_probs: Tensor
    measures: dict[str, Tensor]


class Estimator(Protocol):
    """One kind of model.

    Attributes:
        info: what is recorded beside each hypothesis.
        wants_logits: members' outputs are raw logits (True) or normalised log-probabilities.
        needs_logits: all logits of a row are looked at again when its token is known.
        needs_prefix: ``read`` wants to know what the members said of the tokens so far.
        measures: names of the measures that were chosen.
        token_measures: names of the token measures, in the order of ``TokenReading.measures``.
    """

    info: ModelInfo
    wants_logits: bool
    needs_logits: bool
    needs_prefix: bool
    measures: tuple[str, ...]
    token_measures: tuple[str, ...]

    def read(
        self,
        outputs: Iterable[Tensor | MemberRows],
        temperature: float = 1.0,
        prefixes: Iterable[Tensor] | None = None,
    ) -> TokenReading:
        """Read the members' outputs, M times (R, V), held one at a time.

        Args:
            outputs: tensors, as ``wants_logits`` says, or what keeps them; a sequence of them is
                the fast way. Rows that are kept know their ``log_total`` afterwards.
            temperature: of the distribution that is decoded; the measures stay at 1.
            prefixes: where ``needs_prefix``: M tensors (R,), ln P_m(y_<l) of the rows' tokens so
                far, at temperature 1; each is asked for after the member's output. None: no
                tokens so far.

        Raises:
            InputError: NaN in an output, or infinity in a logit; the member is named.
        """
        ...

    def token_terms(
        self,
        output: Tensor | MemberRows,
        tokens: Tensor,
        rows: Tensor,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Look up tokens (N,) at the rows (N,) of one member's output (R, V); returns (k, N).

        ``positions`` (N,) are their places in their hypotheses, from 0; None: 0 for all.
        """
        ...

    def token_log_probs(self, terms: Tensor) -> Tensor:
        """Return (..., T) log-probabilities of (K, ..., T), under what is decoded, temperature 1.

        T are all positions of hypotheses, from their first on.
        """
        ...

    def token_uncertainty(self, measures: Mapping[str, Tensor], terms: Tensor) -> dict[str, Tensor]:
        """Return the chosen token measures, each (..., T), those of the chosen tokens included.

        Args:
            measures: as read, each (..., T).
            terms: (K, ..., T).
        """
        ...

    def sequence_measures(
        self, measures: Mapping[str, Tensor], terms: Tensor, token_mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return every chosen measure of the sequences, each (...), float64.

        Args:
            measures: token measures as read, each (..., T).
            terms: (K, ..., T).
            token_mask: (..., T) bool, True where a position counts; None counts all.
        """
        ...


def tempered(log_probs: Tensor, temperature: float) -> Tensor:
    """Return ln softmax(ln p / T)."""
    if temperature == 1.0:
        return log_probs
    return torch.log_softmax(log_probs / temperature, dim=-1)


def entropy(log_probs: Tensor) -> Tensor:
    """Return (...) −Σ p ln p of (..., V); impossible tokens (−∞) count 0."""
    return -(log_probs.exp() * log_probs.clamp_min(torch.finfo(log_probs.dtype).min)).sum(dim=-1)


def row_chunks(rows: Tensor, on_gpu: int = 1 << 26) -> tuple[Tensor, ...]:
    """Split (R, V) by rows: a formula's temporaries fit a core's cache, or a GPU's memory."""
    elements = 1 << 17 if rows.device.type == "cpu" else on_gpu
    return torch.split(rows, max(1, elements // rows.shape[-1]))


def only_output(outputs: Iterable[Tensor | MemberRows]) -> MemberRows:
    """Return the one output that there must be."""
    given = list(outputs)
    if len(given) != 1:
        raise InputError(f"expected the output of one model, got {len(given)}")
    return rows_of(given[0])


def require_valid(valid: Tensor, what: str, member: int = 1) -> None:
    """Raise an :class:`InputError` unless all are valid."""
    if not bool(valid.all()):
        raise InputError(
            f"NaN or infinite {what} from member {member}; check that checkpoint, and its dtype "
            "(float16 overflows where bfloat16 and float32 do not)"
        )
