"""Compile every kernel for a CUDA GPU that need not be there.

``python -m tests.unit.triton_compile`` prints a line of JSON for each: its name, the size of the
machine code, whether a loop over the vocabulary computes in float64, and whether each column of a
block is held by one thread only. (The student's kernel overwrites what it reads: a second thread
that holds the same column could read the gradient in the logit's place.)
"""

import json
import re
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from seqdistill.kernels.triton import members, student
from seqdistill.kernels.triton.backend import _shape

CAPABILITY = 80
_LARGE, _SMALL = 40_000, 17


@triton.jit
def float64_kernel(logits_ptr, V, BLOCK: tl.constexpr):
    """What the check for float64 has to find."""
    total = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, V, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        total += tl.load(logits_ptr + columns, mask=columns < V, other=0.0)
    tl.store(logits_ptr, tl.sum(total))


def compiled(
    kernel: Any, pointers: dict[str, str | None], constants: dict[str, Any], shape: dict[str, int]
) -> Any:
    """Compile a kernel; pointers by the type of what they point to, None for one left out."""
    constants = {**constants, "BLOCK": shape["BLOCK"]}
    signature, attributes = {}, {}
    for place, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name in pointers and pointers[name] is None:
            signature[name], constants[name] = "constexpr", None
        elif name.endswith("_ptr"):
            signature[name] = f"*{pointers.get(name, 'fp32')}"
        else:
            signature[name] = "i32" if name == "V" or name.endswith("_stride") else "fp32"
        if signature[name] == "i32" or signature[name].startswith("*"):
            # What a launch finds out by itself: addresses and strides that vectors may use.
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature=signature, constexprs=constants, attrs=attributes)
    target = GPUTarget("cuda", CAPABILITY, 32)
    return triton.compile(source, target=target, options={"num_warps": shape["num_warps"]})


def float64_in_loops(ttir: str) -> bool:
    """Whether the body of a loop of Triton's IR holds float64."""
    inside, depth = False, 0
    for line in ttir.splitlines():
        if "scf.for" in line:
            inside, depth = True, 0
            continue
        if inside:
            if re.search(r"f64\b", line):
                return True
            depth += line.count("{") - line.count("}")
            inside = depth >= 0
    return False


def columns_held_once(ttgir: str, block: int) -> bool:
    """Whether every layout of a block of columns has at most one thread a column."""
    layouts = re.findall(
        r"sizePerThread = \[(\d+)\], threadsPerWarp = \[(\d+)\], warpsPerCTA = \[(\d+)\]", ttgir
    )
    return bool(layouts) and all(int(a) * int(b) * int(c) <= block for a, b, c in layouts)


def report(
    kernel: Any, pointers: dict[str, str | None], constants: dict[str, Any], V: int = _LARGE
) -> None:
    """Compile one variant and print what is known of it."""
    shape = _shape(V)
    code = compiled(kernel, pointers, constants, shape)
    line = {
        "name": code.metadata.name,
        "constants": str(constants),
        "cubin_bytes": len(code.asm["cubin"]),
        "columns_held_once": columns_held_once(code.asm["ttgir"], shape["BLOCK"]),
        "float64_in_loops": float64_in_loops(code.asm["ttir"]),
    }
    print(json.dumps(line))


def main() -> None:
    """Every kind and offset, each with one of the logits' dtypes, with and without the mix."""
    for dtype in ("fp32", "bf16"):
        report(members.add_member_kernel, {"logits_ptr": dtype}, {"FIRST": dtype == "bf16"})
    report(members.ensemble_kernel, {}, {})
    report(float64_kernel, {}, {})
    for kind, number in student.NUMBERS.items():
        proxy = kind.startswith("proxy")
        for offset in (1, 0):
            if kind == "mean_kl" and offset == 0:
                continue
            mixed = offset == 1
            pointers = {
                "logits_ptr": "bf16" if mixed else "fp32",
                "inverse_w_ptr": "fp32" if proxy else None,
                "inverse_precision_ptr": "fp32" if kind.endswith("forward") else None,
                "references_ptr": "i64" if mixed else None,
                "row_weight_ptr": "fp32" if mixed else None,
            }
            constants = {"KIND": number, "OFFSET": offset, "MIXED": mixed, "WANTS_GRADIENT": True}
            V = _SMALL if kind == "mean_kl" else _LARGE
            report(student.student_kernel, pointers, constants, V)


if __name__ == "__main__":
    main()
