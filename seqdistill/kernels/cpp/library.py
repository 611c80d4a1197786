"""The compiled library's functions, by ctypes."""

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from seqdistill.kernels.cpp.build import LEVELS, Build, BuildError

#: Forces an instruction set below the processor's best: baseline, avx2 or avx512.
LEVEL_VARIABLE = "SEQDISTILL_CPP_ISA"


#: What :attr:`DirichletRows.measures` are.
MEASURES = (
    "total_uncertainty",
    "mutual_information",
    "epkl",
    "reverse_mutual_information",
    "total_uncertainty_base",
    "inverse_precision",
)


class MemberArguments(ctypes.Structure):
    """``MemberArguments`` of rows.h."""

    _fields_ = (
        ("logits", ctypes.c_void_p),
        ("logits_strides", ctypes.c_void_p),
        ("mean_probs", ctypes.c_void_p),
        ("mean_log_probs", ctypes.c_void_p),
        ("negative_entropies", ctypes.c_void_p),
        ("members", ctypes.c_int64),
        ("n", ctypes.c_int64),
        ("V", ctypes.c_int64),
        ("inverse_temperature", ctypes.c_float),
        ("weight", ctypes.c_float),
        ("is_bfloat16", ctypes.c_int32),
        ("is_first", ctypes.c_int32),
    )


class EnsembleArguments(ctypes.Structure):
    """``EnsembleArguments`` of rows.h."""

    _fields_ = (
        ("mean_probs", ctypes.c_void_p),
        ("mean_log_probs", ctypes.c_void_p),
        ("total_uncertainty", ctypes.c_void_p),
        ("mutual_information", ctypes.c_void_p),
        ("V", ctypes.c_int64),
    )


class StudentArguments(ctypes.Structure):
    """``StudentArguments`` of rows.h."""

    _fields_ = (
        ("logits", ctypes.c_void_p),
        ("gradient", ctypes.c_void_p),
        ("target", ctypes.c_void_p),
        ("inverse_w", ctypes.c_void_p),
        ("inverse_precision", ctypes.c_void_p),
        ("references", ctypes.c_void_p),
        ("row_weight", ctypes.c_void_p),
        ("loss", ctypes.c_void_p),
        ("log_sum", ctypes.c_void_p),
        ("reference_logit", ctypes.c_void_p),
        ("largest_logit", ctypes.c_void_p),
        ("logits_stride", ctypes.c_int64),
        ("gradient_stride", ctypes.c_int64),
        ("target_stride", ctypes.c_int64),
        ("V", ctypes.c_int64),
        ("mix_weight", ctypes.c_double),
        ("label_smoothing", ctypes.c_double),
        ("kind", ctypes.c_int32),
        ("offset", ctypes.c_int32),
        ("is_bfloat16", ctypes.c_int32),
    )


class UncertaintyArguments(ctypes.Structure):
    """``UncertaintyArguments`` of rows.h."""

    _fields_ = (
        ("logits", ctypes.c_void_p),
        ("measures", ctypes.c_void_p),
        ("largest", ctypes.c_void_p),
        ("log_gap", ctypes.c_void_p),
        ("log_probs", ctypes.c_void_p),
        ("logits_stride", ctypes.c_int64),
        ("n", ctypes.c_int64),
        ("V", ctypes.c_int64),
        ("offset", ctypes.c_int32),
        ("is_mean", ctypes.c_int32),
    )


class MixArguments(ctypes.Structure):
    """``MixArguments`` of rows.h."""

    _fields_ = (
        ("logits", ctypes.c_void_p),
        ("probs", ctypes.c_void_p),
        ("log_probs", ctypes.c_void_p),
        ("weighted", ctypes.c_void_p),
        ("fade", ctypes.c_void_p),
        ("share", ctypes.c_void_p),
        ("log_total", ctypes.c_void_p),
        ("entropy", ctypes.c_void_p),
        ("logits_stride", ctypes.c_int64),
        ("V", ctypes.c_int64),
        ("is_first", ctypes.c_int32),
    )


class ReadMixtureArguments(ctypes.Structure):
    """``ReadMixtureArguments`` of rows.h."""

    _fields_ = (
        ("sums", ctypes.c_void_p),
        ("log_probs", ctypes.c_void_p),
        ("factor", ctypes.c_void_p),
        ("measures", ctypes.c_void_p),
        ("members", ctypes.c_int64),
        ("n", ctypes.c_int64),
        ("V", ctypes.c_int64),
        ("wants_log", ctypes.c_int32),
    )


#: The operations that a library has to have, beside ``elementary``.
OPERATIONS = (
    "add_members", "ensemble", "student", "uncertainty", "mix_member", "read_mixture",
)  # fmt: skip


@dataclass(frozen=True)
class DirichletRows:
    """What :meth:`Library.uncertainty` says of n rows.

    Attributes:
        measures: (6, n) in the order of :data:`MEASURES`.
        largest: (n) max z.
        log_gap: (n) ln Σ e^z − max z, float64.
        log_probs: (n, V) of the predictive distribution asked for, or None.
    """

    measures: Tensor
    largest: Tensor
    log_gap: Tensor
    log_probs: Tensor | None


class Library:
    """The operations of a compiled library at one instruction set.

    Args:
        build: what was compiled.
        level: an instruction set of :data:`LEVELS`; the processor's best when None.

    Raises:
        BuildError: the file cannot be loaded, or the processor lacks the instruction set.
    """

    def __init__(self, build: Build, level: str | None = None) -> None:
        self.build = build
        try:
            functions = ctypes.CDLL(str(build.path))
            best: int = functions.seqdistill_level()
            self.has_openmp = bool(functions.seqdistill_has_openmp())
            self._functions = functions
            for name in (*OPERATIONS, "elementary"):
                getattr(functions, f"seqdistill_{name}")
        except (OSError, AttributeError) as error:
            raise BuildError(f"the compiled library cannot be loaded: {error}") from error
        self.levels = LEVELS[: best + 1]
        if level is not None and level not in self.levels:
            raise BuildError(
                f"expected an instruction set among {', '.join(self.levels)} (those of this "
                f"processor), got {level!r}; correct or unset {LEVEL_VARIABLE}"
            )
        self.level = self.levels[-1] if level is None else level

    def call(self, operation: str, rows: int, arguments: ctypes.Structure) -> None:
        """Run an operation on rows with torch's number of threads.

        Raises:
            MemoryError: a thread could not have one row of memory.
        """
        failed = getattr(self._functions, f"seqdistill_{operation}")(
            ctypes.c_int32(LEVELS.index(self.level)),
            ctypes.c_int32(torch.get_num_threads()),
            ctypes.c_int64(rows),
            ctypes.byref(arguments),
        )
        if failed:
            raise MemoryError(f"no memory for a row of the {operation} kernel")

    def uncertainty(
        self,
        logits: Tensor,
        offset: float,
        predictive: str | None = None,
        *,
        is_free: bool = False,
    ) -> DirichletRows:
        """Return the measures of a Dirichlet student, in two passes over its logits.

        Args:
            logits: (n, V) on the CPU, float32, contiguous rows; z of α = e^z + offset.
            offset: 1 or 0.
            predictive: ``base`` or ``mean``, whose log-probabilities are wanted, too; None: none.
            is_free: they may take the logits' place: fresh memory of that size costs a pass.

        Raises:
            TypeError: other logits; the kernel would read past their end.
        """
        if (
            logits.dim() != 2
            or logits.stride(1) != 1
            or logits.device.type != "cpu"
            or logits.dtype != torch.float32
        ):
            raise TypeError(
                "expected float32 rows (n, V) on the CPU, got "
                f"{logits.dtype} {tuple(logits.shape)} with strides {logits.stride()}"
            )
        n, V = logits.shape
        log_probs = None
        if predictive is not None:
            log_probs = logits if is_free and logits.is_contiguous() else torch.empty(n, V)
        rows = DirichletRows(
            measures=torch.empty(len(MEASURES), n),
            largest=torch.empty(n),
            log_gap=torch.empty(n, dtype=torch.float64),
            log_probs=log_probs,
        )
        arguments = UncertaintyArguments(
            logits=logits.data_ptr(),
            measures=rows.measures.data_ptr(),
            largest=rows.largest.data_ptr(),
            log_gap=rows.log_gap.data_ptr(),
            log_probs=None if rows.log_probs is None else rows.log_probs.data_ptr(),
            logits_stride=logits.stride(0),
            n=n,
            V=V,
            offset=int(offset),
            is_mean=predictive == "mean",
        )
        self.call("uncertainty", n, arguments)
        return rows

    def elementary(self, which: str, x: Tensor) -> Tensor:
        """Return an elementary function of (n) float32 numbers, for tests of its accuracy."""
        x = x.contiguous()
        y = torch.empty_like(x)
        self._functions.seqdistill_elementary(
            ctypes.c_int32(LEVELS.index(self.level)),
            ctypes.c_int32(("exp_nonpositive", "exp", "log", "log1p").index(which)),
            ctypes.c_void_p(x.data_ptr()),
            ctypes.c_void_p(y.data_ptr()),
            ctypes.c_int64(x.numel()),
        )
        return y
