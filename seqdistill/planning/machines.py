"""What a rank runs on, and how much of it a training is assumed to reach.

Peaks are the makers' figures for dense matrix products; bandwidths are of one direction.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any

from seqdistill.errors import InputError

GIB = 2**30
#: Bytes of a number, by precision.
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Machine:
    """One device, and how it is connected.

    Attributes:
        name: as it is shown.
        memory: bytes of the device.
        flops32: float32 matrix products a second (TF32 where the device has it and torch is told).
        flops16: float16 or bfloat16 ones.
        bandwidth: bytes a second of its memory.
        link: bytes a second to the other devices of a node.
        host_link: bytes a second to and from the memory of the processor.
        has_bfloat16: whether it computes in bfloat16.
        is_cpu: ranks are processes on a processor, memory is the machine's divided by them.
    """

    name: str
    memory: float
    flops32: float
    flops16: float
    bandwidth: float
    link: float
    host_link: float
    has_bfloat16: bool = True
    is_cpu: bool = False

    def flops(self, precision: str) -> float:
        """Return products a second in a precision."""
        return self.flops32 if precision == "float32" else self.flops16


#: Devices by name. ``cpu`` is one thread of a server core and stands in for measured figures
#: (``seqdistill plan --calibrate``).
MACHINES: dict[str, Machine] = {
    "v100": Machine("V100 SXM2 16 GB", 16 * GIB, 15.7e12, 125e12, 0.9e12, 150e9, 12e9, False),
    "v100-32": Machine("V100 SXM2 32 GB", 32 * GIB, 15.7e12, 125e12, 0.9e12, 150e9, 12e9, False),
    "a100-40": Machine("A100 SXM 40 GB", 40 * GIB, 19.5e12, 312e12, 1.555e12, 300e9, 25e9),
    "a100-80": Machine("A100 SXM 80 GB", 80 * GIB, 19.5e12, 312e12, 2.039e12, 300e9, 25e9),
    "h100": Machine("H100 SXM 80 GB", 80 * GIB, 67e12, 989e12, 3.35e12, 450e9, 50e9),
    "h200": Machine("H200 SXM 141 GB", 141e9, 67e12, 989e12, 4.8e12, 450e9, 50e9),
    "cpu": Machine("CPU", 16 * GIB, 0.1e12, 0.1e12, 10e9, 2e9, 10e9, is_cpu=True),
}


@dataclass(frozen=True)
class Assumptions:
    """What cannot be counted. Every figure can be set (``--assume NAME=VALUE``).

    Attributes:
        body_efficiency: share of the peak that the products of encoders and decoders reach.
        projection_efficiency: the same of products with the vocabulary, which are large.
        bandwidth_efficiency: share of the memory's bandwidth that element-wise work reaches.
        link_efficiency: share of the links' bandwidth that collectives reach.
        overlap: share of the collectives' time that the backward pass hides.
        activation_passes: how often a forward pass reads or writes what it keeps, beside products;
            a backward pass twice as often.
        member_seconds: of one entry (token, piece) of one member's logits in the loss, in seconds;
            0 takes the bytes it moves over the bandwidth.
        student_seconds: the same of the student's logits.
        framework_gib: a process with torch, its kernels and communicators, before any tensor.
        fragmentation: share by which the allocator holds more than tensors need.
        adam_bytes: of memory moved to update a parameter: a fused Adam reads parameter, gradient
            and two moments and writes all but the gradient; one that is not fused moves three
            times as much.
        store_bandwidth: bytes a second at which stored targets are read.
        network: bytes a second between nodes, of one device.
        host_adam_bandwidth: bytes a second at which the processor updates offloaded parameters.
    """

    body_efficiency: float = 0.4
    projection_efficiency: float = 0.6
    bandwidth_efficiency: float = 0.7
    link_efficiency: float = 0.6
    overlap: float = 0.5
    activation_passes: float = 3.0
    member_seconds: float = 0.0
    student_seconds: float = 0.0
    framework_gib: float = 1.5
    fragmentation: float = 0.05
    adam_bytes: float = 28.0
    store_bandwidth: float = 0.5e9
    network: float = 12.5e9
    host_adam_bandwidth: float = 50e9

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            share = field.name.endswith("efficiency") or field.name == "overlap"
            may_be_zero = field.name in _MAY_BE_ZERO
            if not (value > 0 or (may_be_zero and value == 0)) or (share and value > 1):
                wanted = "a share above 0 and at most 1" if share else "a number above 0"
                raise InputError(f"assumption {field.name}: expected {wanted}, got {value}")

    def record(self) -> dict[str, Any]:
        """Return them by name."""
        return asdict(self)


_MAY_BE_ZERO = (
    "overlap",
    "activation_passes",
    "member_seconds",
    "student_seconds",
    "fragmentation",
    "framework_gib",
)


def machine(name: str) -> Machine:
    """Return a device by name.

    Raises:
        InputError: there is none of that name.
    """
    if name not in MACHINES:
        raise InputError(f"unknown device {name!r}; there are {', '.join(MACHINES)}")
    return MACHINES[name]
