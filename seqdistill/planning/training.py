"""What a plan is made for: a student, its teachers, the batch, the machine and how it is used."""

from dataclasses import dataclass, field

from seqdistill.errors import InputError
from seqdistill.planning.flops import Batch
from seqdistill.planning.machines import BYTES, Assumptions, Machine
from seqdistill.planning.sizes import ModelSize
from seqdistill.teachers.placement import PLACEMENTS, check_group_size

# DeepSpeed's defaults, in parameters.
_BUCKET = 500_000_000
_PREFETCH = 50_000_000
_LIVE = 1_000_000_000


@dataclass(frozen=True)
class Training:
    """A distillation as a plan sees it.

    Attributes:
        student: its size.
        teacher: the size of every member.
        M: members; 0 where targets are of a store or there are none.
        V: entries of the vocabulary.
        tokens: target tokens of a micro-batch on a rank, padding included.
        source_length: positions of a source; frames for speech.
        target_length: positions of a target.
        gpus: of a node.
        nodes: how many.
        machine: what a rank runs on.
        precision: of the student's parameters and products.
        teacher_precision: of the members.
        update_freq: micro-batches of an update.
        stage: of ZeRO, 0 to 3.
        offload_optimizer: whether the optimiser and its states are in the processor's memory.
        checkpointing: whether layers are recomputed.
        placement: of the teachers.
        group: ranks of a teacher group; None: those of a node, at most M.
        stored_pieces: k of the target store; None: the members run online.
        updates: of the whole training; None if not asked for.
        reduce_bucket: parameters of DeepSpeed's reduce_bucket_size.
        prefetch_bucket: of its stage3_prefetch_bucket_size.
        max_live: of its stage3_max_live_parameters.
        contiguous_gradients: as DeepSpeed has it.
        chunk_tokens: tokens of a chunk of the fused loss; None: its own choice.
        assumptions: what cannot be counted.
    """

    student: ModelSize
    teacher: ModelSize
    M: int
    V: int
    tokens: int
    source_length: int
    target_length: int
    machine: Machine
    gpus: int = 1
    nodes: int = 1
    precision: str = "bfloat16"
    teacher_precision: str = "bfloat16"
    update_freq: int = 1
    stage: int = 0
    offload_optimizer: bool = False
    checkpointing: bool = False
    placement: str = "replicate"
    group: int | None = None
    stored_pieces: int | None = None
    updates: int | None = None
    reduce_bucket: int = _BUCKET
    prefetch_bucket: int = _PREFETCH
    max_live: int = _LIVE
    contiguous_gradients: bool = True
    chunk_tokens: int | None = None
    assumptions: Assumptions = field(default_factory=Assumptions)

    def __post_init__(self) -> None:
        for name in ("V", "tokens", "source_length", "target_length", "gpus", "nodes",
                     "update_freq", "reduce_bucket", "prefetch_bucket", "max_live"):  # fmt: skip
            if getattr(self, name) < 1:
                raise InputError(f"expected at least 1 for {name}, got {getattr(self, name)}")
        for name in ("precision", "teacher_precision"):
            value = getattr(self, name)
            if value not in BYTES:
                raise InputError(f"expected {name} in {', '.join(BYTES)}, got {value!r}")
            if value == "bfloat16" and not self.machine.has_bfloat16:
                raise InputError(
                    f"a {self.machine.name} does not compute in bfloat16; choose float16 or float32"
                )
        if self.stage not in (0, 1, 2, 3):
            raise InputError(f"expected a ZeRO stage of 0, 1, 2 or 3, got {self.stage}")
        if self.placement not in PLACEMENTS:
            raise InputError(
                f"expected a placement in {', '.join(PLACEMENTS)}, got {self.placement!r}"
            )
        if self.offload_optimizer and self.stage == 0:
            raise InputError("the optimiser is offloaded by ZeRO: choose a stage of 1, 2 or 3")
        if self.target_length > self.tokens:
            raise InputError(
                f"a micro-batch of {self.tokens} tokens does not hold one target of "
                f"{self.target_length} positions; give more tokens or shorter targets"
            )
        if self.stored_pieces is not None and not 1 <= self.stored_pieces <= self.V:
            raise InputError(
                f"expected 1 to {self.V} stored pieces a token, got {self.stored_pieces}"
            )
        if self.M < 0:
            raise InputError(f"expected a number of members of 0 or more, got {self.M}")
        if self.group is not None and self.online_members:
            check_group_size(self.group, self.world, self.online_members)

    @property
    def world(self) -> int:
        """Ranks in all."""
        return self.gpus * self.nodes

    @property
    def batch(self) -> Batch:
        """Return a rank's micro-batch."""
        return Batch(self.tokens // self.target_length, self.source_length, self.target_length)

    @property
    def online_members(self) -> int:
        """M, or 0 where targets are stored."""
        return 0 if self.stored_pieces is not None else self.M

    @property
    def group_size(self) -> int:
        """Ranks of a teacher group: 1 unless members are sharded."""
        if self.placement != "shard" or not self.online_members:
            return 1
        if self.group is not None:
            return self.group
        largest = min(self.gpus, self.M)
        return next(size for size in range(largest, 0, -1) if self.world % size == 0)

    @property
    def resident_members(self) -> int:
        """Members of the rank that has most."""
        return -(-self.online_members // self.group_size)

    @property
    def element_bytes(self) -> int:
        """Of the student's parameters and activations."""
        return BYTES[self.precision]

    @property
    def teacher_bytes(self) -> int:
        """Of a member's parameters and activations."""
        return BYTES[self.teacher_precision]
