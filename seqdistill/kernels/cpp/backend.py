"""The row operations in C++."""

import ctypes
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from seqdistill.kernels.backend import KINDS, RowLoss, RowTargets, StudentRows
from seqdistill.kernels.cpp.build import CACHE_VARIABLE, BuildError, build
from seqdistill.kernels.cpp.check import (
    complaint,
    complaint_of_mixtures,
    complaint_of_uncertainty,
)
from seqdistill.kernels.cpp.library import (
    LEVEL_VARIABLE,
    EnsembleArguments,
    Library,
    MemberArguments,
    StudentArguments,
)
from seqdistill.kernels.eager import EagerRows
from seqdistill.losses.rows import check_offset

_LEVEL_NAMES = {"baseline": "baseline instructions", "avx2": "AVX2", "avx512": "AVX-512"}
_DTYPES = (torch.float32, torch.bfloat16)


class CppRows:
    """Row operations by vector code on the CPU, float32 and bfloat16.

    Whatever else comes (float64, float16, another device, rows with gaps between elements) goes to
    the eager backend.

    Args:
        library: the compiled kernels; those of this process when None.

    Raises:
        RuntimeError: there are none here; :func:`cpp_status` says so beforehand.
    """

    name = "cpp"

    def __init__(self, library: Library | None = None) -> None:
        if library is None:
            loaded = load()
            if loaded.library is None:
                raise RuntimeError(f"the C++ kernels are not usable here: {loaded.reason}")
            library = loaded.library
        self._library = library
        self._eager = EagerRows()

    def add_members_(
        self,
        logits: Sequence[Tensor],
        inverse_temperature: float,
        weight: float,
        mean_probs: Tensor,
        mean_log_probs: Tensor,
        negative_entropies: Tensor,
        is_first: bool = False,
    ) -> None:
        """See :class:`~seqdistill.kernels.backend.RowBackend`."""
        sums = (mean_probs, mean_log_probs, negative_entropies)
        if not all(_usable(member) for member in logits) or any(
            t.dtype != torch.float32 for t in sums
        ):
            self._eager.add_members_(logits, inverse_temperature, weight, *sums, is_first=is_first)
            return
        M = len(logits)
        n, V = logits[0].shape
        dtype = logits[0].dtype
        if any(member.shape != (n, V) or member.dtype != dtype for member in logits):
            raise TypeError(f"expected members of one shape and dtype, {dtype} ({n}, {V})")
        # Held here until the call is over: the kernel sees addresses only.
        addresses = (ctypes.c_void_p * M)(*(member.data_ptr() for member in logits))
        strides = (ctypes.c_int64 * M)(*(member.stride(0) for member in logits))
        arguments = MemberArguments(
            logits=ctypes.addressof(addresses),
            logits_strides=ctypes.addressof(strides),
            mean_probs=_rows("mean_probs", mean_probs, n, V),
            mean_log_probs=_rows("mean_log_probs", mean_log_probs, n, V),
            negative_entropies=_rows("negative_entropies", negative_entropies, M, n),
            members=M,
            n=n,
            V=V,
            inverse_temperature=inverse_temperature,
            weight=weight,
            is_bfloat16=dtype == torch.bfloat16,
            is_first=is_first,
        )
        self._library.call("add_members", n, arguments)

    def ensemble_rows(
        self, mean_probs: Tensor, mean_log_probs: Tensor, negative_entropy: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See :class:`~seqdistill.kernels.backend.RowBackend`."""
        if not _usable(mean_probs) or mean_probs.dtype != torch.float32:
            return self._eager.ensemble_rows(mean_probs, mean_log_probs, negative_entropy)
        n, V = mean_probs.shape
        mean_probs, mean_log_probs = mean_probs.contiguous(), mean_log_probs.contiguous()
        total_uncertainty, mutual_information = mean_probs.new_empty(2, n)
        arguments = EnsembleArguments(
            mean_probs=_rows("mean_probs", mean_probs, n, V),
            mean_log_probs=_rows("mean_log_probs", mean_log_probs, n, V),
            total_uncertainty=total_uncertainty.data_ptr(),
            mutual_information=mutual_information.data_ptr(),
            V=V,
        )
        self._library.call("ensemble", n, arguments)
        return total_uncertainty, mutual_information

    def student_rows_(
        self,
        logits: Tensor,
        loss: RowLoss,
        targets: RowTargets,
        wants_gradient: bool,
        gradient: Tensor | None = None,
    ) -> StudentRows:
        """See :class:`~seqdistill.kernels.backend.RowBackend`.

        The gradient is always computed: a third of the time, and half the code not to.
        """
        out = logits if gradient is None else gradient
        if not (_usable(logits) and _usable(out)):
            return self._eager.student_rows_(logits, loss, targets, wants_gradient, gradient)
        n, V = logits.shape
        if out.shape != (n, V) or out.dtype != logits.dtype:
            raise TypeError(
                f"expected a gradient of {logits.dtype} {(n, V)}, got {out.dtype} "
                f"{tuple(out.shape)}"
            )
        if loss.kind != "mean_kl":
            check_offset(loss.offset)
        proxy = loss.kind.startswith("proxy")
        name = "mean_log_probs" if loss.kind == "end2" else "mean_probs"
        target = _given(name, targets.mean_log_probs if loss.kind == "end2" else targets.mean_probs)
        # Held here, copies included: the kernel sees addresses only.
        target = target if target.stride(-1) == 1 else target.contiguous()
        inverse_w = _numbers("inverse_w", targets.inverse_w, n, needed=proxy)
        inverse_precision = _numbers(
            "inverse_precision",
            targets.inverse_precision,
            n,
            needed=loss.kind == "proxy_dirichlet_forward",
        )
        row_weight = _numbers("row_weight", targets.row_weight, n)
        references = _references(targets.references, n, V, needed=loss.mix_weight != 0)
        value, log_sum, largest, reference_logit = logits.new_empty(4, n, dtype=torch.float32)
        arguments = StudentArguments(
            logits=logits.data_ptr(),
            gradient=out.data_ptr(),
            target=_rows(name, target, n, V, contiguous=False),
            inverse_w=_address(inverse_w),
            inverse_precision=_address(inverse_precision),
            references=_address(references),
            row_weight=_address(row_weight),
            loss=value.data_ptr(),
            log_sum=log_sum.data_ptr(),
            reference_logit=reference_logit.data_ptr(),
            largest_logit=largest.data_ptr(),
            logits_stride=logits.stride(0),
            gradient_stride=out.stride(0),
            target_stride=target.stride(0),
            V=V,
            mix_weight=loss.mix_weight,
            label_smoothing=loss.label_smoothing,
            kind=KINDS.index(loss.kind),
            offset=int(loss.offset),
            is_bfloat16=logits.dtype == torch.bfloat16,
        )
        self._library.call("student", n, arguments)
        return StudentRows(
            value, log_sum, reference_logit if references is not None else None, largest
        )


def cpp_status() -> tuple[bool, str]:
    """Return whether the C++ kernels are usable here, and how or why not.

    The first call of a process loads them, and compiles them if no earlier process did.
    """
    loaded = load()
    return loaded.library is not None, loaded.reason


@dataclass(frozen=True)
class Loaded:
    """What came of loading: a library, or the reason why there is none."""

    library: Library | None
    reason: str


_lock = threading.Lock()


def load() -> Loaded:
    """Return the library of this process: built, loaded and checked at the first call."""
    with _lock:
        return _load(os.environ.get(LEVEL_VARIABLE) or None)


@lru_cache(maxsize=8)
def _load(level: str | None) -> Loaded:
    try:
        built = build()
        library = Library(built, level)
    except BuildError as error:
        return Loaded(None, str(error))
    except OSError as error:
        return Loaded(None, f"{error}; {CACHE_VARIABLE} names another folder for the build")
    wrong = (
        complaint(CppRows(library))
        or complaint_of_uncertainty(library)
        or complaint_of_mixtures(library)
    )
    if wrong is not None:
        return Loaded(None, f"the compiled library fails its check, {wrong}: {built.path}")
    parts = [
        _LEVEL_NAMES[library.level],
        "OpenMP" if library.has_openmp else "without OpenMP",
        f"built with {built.compiler or 'a compiler that is gone'}",
    ]
    if built.seconds is not None:
        parts[-1] += f" in {built.seconds:.1f} s"
    return Loaded(library, ", ".join([*parts, f"cached in {built.path.parent}"]))


def _usable(logits: Tensor) -> bool:
    return logits.device.type == "cpu" and logits.dtype in _DTYPES and logits.stride(1) == 1


def _rows(name: str, rows: Tensor, *shape: int, contiguous: bool = True) -> int:
    """Return the address of float32 rows; what does not fit would be read past its end."""
    fits = rows.is_contiguous() if contiguous else rows.stride(-1) == 1
    if tuple(rows.shape) != shape or rows.dtype != torch.float32 or rows.device.type != "cpu":
        fits = False
    if not fits:
        raise TypeError(
            f"expected {name} as {'contiguous ' if contiguous else ''}float32 rows {shape} on the "
            f"CPU, got {rows.dtype} {tuple(rows.shape)} with strides {rows.stride()} on "
            f"{rows.device}"
        )
    return rows.data_ptr()


def _given(name: str, value: Tensor | None) -> Tensor:
    if value is None:
        raise TypeError(f"the driver left out {name}, which this loss needs")
    return value


def _numbers(name: str, value: Tensor | None, n: int, *, needed: bool = False) -> Tensor | None:
    """Return one float32 number a row, (n)."""
    if value is None:
        return _given(name, value) if needed else None
    value = value.to(torch.float32).contiguous()
    _rows(name, value, n)
    return value


def _references(value: Tensor | None, n: int, V: int, *, needed: bool) -> Tensor | None:
    """Return the reference pieces, (n) int64, each within the vocabulary."""
    if value is None:
        return _given("references", value) if needed else None
    if tuple(value.shape) != (n,) or value.device.type != "cpu" or value.is_floating_point():
        raise TypeError(
            f"expected references as integers ({n},) on the CPU, got {value.dtype} "
            f"{tuple(value.shape)} on {value.device}"
        )
    value = value.to(torch.int64).contiguous()
    if n and not (int(value.min()) >= 0 and int(value.max()) < V):
        raise IndexError(
            f"expected references from 0 to {V - 1}, got {int(value.min())} to {int(value.max())}"
        )
    return value


def _address(value: Tensor | None) -> int | None:
    return None if value is None else value.data_ptr()
