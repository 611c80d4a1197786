"""The cost model by itself: hand-computed bytes and seconds, identities, advice, bad input."""

from dataclasses import replace

import pytest

from seqdistill.errors import InputError
from seqdistill.planning import (
    MACHINES,
    PRESETS,
    Assumptions,
    Machine,
    Plan,
    Stack,
    Training,
    collective_bytes,
    count_parameters,
    machine,
    make_plan,
    memory,
    preset,
    require_fit,
    text_size,
    times,
    traffic,
)
from seqdistill.planning.fused import member_entries, member_flops, student_flops, workspace_bytes
from seqdistill.planning.tables import WAYS, plan_text, sweep, way

BIG = PRESETS["transformer-big"]
P = 217_317_376  # transformer-big, V = 40,000
IDEAL = Assumptions(
    body_efficiency=1.0,
    projection_efficiency=1.0,
    bandwidth_efficiency=1.0,
    link_efficiency=1.0,
    overlap=0.0,
    activation_passes=0.0,
    framework_gib=0.0,
    fragmentation=0.0,
)


def training(**changes: object) -> Training:
    given = Training(BIG, BIG, 5, 40_000, 4096, 32, 32, MACHINES["a100-80"], assumptions=IDEAL)
    return replace(given, **changes)  # type: ignore[arg-type]


# --- memory ---------------------------------------------------------------------------------


def test_parameters_by_hand() -> None:
    D, F = 1024, 4096
    attention = 4 * (D * D + D)
    ffn = D * F + F + F * D + D
    layers = 6 * (attention + ffn + 4 * D) + 6 * (2 * attention + ffn + 6 * D)
    counted = count_parameters(BIG, 40_000)
    assert (counted.total, counted.body, counted.projection) == (
        layers + 40_000 * D,
        layers,
        40_000 * D,
    )
    assert counted.total == P


@pytest.mark.parametrize(
    ("stage", "weights", "states"),
    [
        (0, 2 * P, 12 * P),
        (1, 2 * P, 12 * P // 8),
        (2, 2 * P, 12 * P // 8),
        (3, P // 4, 12 * P // 8),
    ],
)
def test_what_lasts_by_stage(stage: int, weights: float, states: float) -> None:
    parts = memory(training(gpus=8, stage=stage, M=0, update_freq=2)).parts
    assert parts["weights"] == pytest.approx(weights, rel=1e-6)
    # Of the peak's phase; the update takes no part in it here.
    assert parts["optimizer"] == pytest.approx(states, rel=1e-6)


def test_offloaded_states_are_on_the_host() -> None:
    given = training(gpus=8, stage=2, M=0, offload_optimizer=True)
    needed = memory(given)
    assert needed.parts["optimizer"] == 0
    assert needed.host == 16 * -(-P // 8)


def test_teachers_by_placement() -> None:
    one = 2 * P
    projection = 2 * 40_000 * 1024

    def lasting(**changes: object) -> int:
        given = training(M=20, gpus=8, **changes)
        return memory(given).phases["update"] - memory(replace(given, M=0)).phases["update"]

    assert lasting() == 20 * one
    # 8 ranks share 20 members: three for those that have most.
    assert lasting(placement="shard") == 3 * one
    assert lasting(placement="shard", group=4) == 5 * one
    assert lasting(placement="offload") == 20 * projection + 2 * (one - projection)
    assert lasting(stored_pieces=128) == 0
    assert memory(training(M=20, placement="offload")).host == 20 * (one - projection)


def test_memory_grows_with_what_it_should() -> None:
    base = memory(training()).total
    assert memory(training(M=6)).total - base == 2 * P + 4096 * 1024 * 2
    assert memory(training(tokens=8192)).total > base
    assert memory(training(checkpointing=True)).total < base
    assert (
        memory(training(gpus=8, stage=3, max_live=10_000_000)).total
        < memory(training(gpus=8, stage=3)).total
    )
    # What a GPU allocates whole, a CPU touches as far as it is used.
    bucket = training(gpus=2, stage=1, machine=replace(MACHINES["cpu"], has_bfloat16=True))
    assert memory(bucket).total == memory(replace(bucket, reduce_bucket=10**9)).total


def test_the_loss_is_flat_in_members_and_tokens() -> None:
    few = workspace_bytes(training(M=2))
    assert few == workspace_bytes(training(M=20, tokens=40_960))
    rows = (1 << 26) // 40_000
    assert few == rows * 40_000 * (4 + 4 + 2) + 40_000 * 1024 * 2


# --- operations and time --------------------------------------------------------------------


def test_operations_of_the_loss_by_hand() -> None:
    given = training()
    one = 2 * 4096 * 40_000 * 1024
    assert student_flops(given) == 3 * one
    assert member_flops(given) == 5 * one
    # A group's batches, members divided: as many, where they can be divided.
    shared = training(M=8, gpus=8, placement="shard")
    assert member_flops(shared) == 8 * one
    assert member_entries(shared) == 8 * 4096 * 40_000
    uneven = training(M=9, gpus=8, placement="shard")
    assert member_flops(uneven) == 16 * one


def test_seconds_by_hand() -> None:
    ideal = Machine("ideal", 1e12, 1e12, 2e12, 1e30, 1e30, 1e30)
    found = times(training(machine=ideal, M=0))
    assert found.parts["student forward"] == pytest.approx(found.flops["student forward"] / 2e12)
    assert found.parts["student backward"] == pytest.approx(2 * found.parts["student forward"])
    assert found.total == pytest.approx(sum(found.flops.values()) / 2e12)
    slower = times(training(machine=ideal, M=0, precision="float32", teacher_precision="float32"))
    assert slower.total == pytest.approx(2 * found.total)
    assert times(training(machine=ideal, M=0, update_freq=4)).total == pytest.approx(
        4 * found.total
    )


def test_checkpointing_adds_a_forward_pass() -> None:
    plain, again = times(training()), times(training(checkpointing=True))
    assert (
        again.flops["student backward"] - plain.flops["student backward"]
        == (plain.flops["student forward"])
    )


def test_a_store_needs_no_teachers() -> None:
    found = times(training(stored_pieces=128))
    assert found.flops["teachers"] == 0
    assert traffic(training(stored_pieces=128)).store == 4096 * (128 * 4 + 20)
    assert traffic(training(stored_pieces=128, V=256_000)).store == 4096 * (128 * 6 + 20)


# --- traffic --------------------------------------------------------------------------------


def ring(payload: float, ranks: int) -> float:
    """What a rank sends when W − 1 times a chunk goes to its neighbour."""
    return sum(payload / ranks for _ in range(ranks - 1))


@pytest.mark.parametrize("W", [1, 2, 8])
def test_traffic_by_stage(W: int) -> None:
    one = ring(2 * P, W)
    for stage, gradients, parameters in ((0, 2, 0), (1, 2, 1), (2, 2, 1), (3, 1, 1)):
        found = traffic(training(gpus=W, stage=stage))
        assert found.gradients == pytest.approx(gradients * one, abs=2)
        assert found.parameters == pytest.approx(parameters * one, abs=2)
    # Too many parameters to stay: gathered for the backward pass once more.
    assert traffic(training(gpus=W, stage=3, max_live=10**6)).parameters == pytest.approx(
        2 * one, abs=4
    )
    # Only stages that partition gradients reduce them in every micro-batch.
    repeated = [traffic(training(gpus=W, stage=s, update_freq=3)).gradients for s in range(4)]
    assert repeated == pytest.approx([2 * one, 2 * one, 6 * one, 3 * one], abs=6)


def test_traffic_of_sharded_teachers() -> None:
    shared = traffic(training(M=4, gpus=4, placement="shard")).teachers
    sums = 4096 * (2 * 40_000 + 1) * 4
    inputs = 128 * (32 + 64) * 8
    assert shared == pytest.approx(3 * (sums + inputs), abs=4)
    assert traffic(training(M=4, gpus=4)).teachers == 0
    assert traffic(training(M=4, placement="shard")).teachers == 0


def test_collectives() -> None:
    assert collective_bytes("all_reduce", 1000, 1) == 0
    assert collective_bytes("all_reduce", 1000, 2) == 2 * collective_bytes(
        "reduce_scatter", 1000, 2
    )


# --- plans ----------------------------------------------------------------------------------


def test_advice_fits_and_is_the_nearest() -> None:
    tight = training(M=20, gpus=8, machine=machine("v100"), precision="float16",
                     teacher_precision="float16", assumptions=Assumptions())  # fmt: skip
    plan = make_plan(tight)
    assert not plan.fits
    assert plan.advice == "--teacher-placement shard"
    assert make_plan(replace(tight, placement="shard")).fits
    assert make_plan(replace(tight, placement="shard")).advice is None


def test_advice_may_need_two_changes() -> None:
    tight = training(M=20, gpus=8)
    found = [
        make_plan(replace(tight, machine=replace(tight.machine, memory=gib * 2**30))).advice
        for gib in (12, 6, 4, 3)
    ]
    assert found[0] == "--teacher-placement shard"
    assert found[1] is not None
    assert any(advice is not None and " and " in advice for advice in found)


def test_nothing_fits_a_tiny_device() -> None:
    tiny = replace(MACHINES["a100-40"], memory=1e6)
    plan = make_plan(training(machine=tiny))
    assert (plan.fits, plan.advice) == (False, None)
    assert "does not fit" in plan_text(plan)


def test_a_teacher_that_does_not_fit_is_refused() -> None:
    given = training(M=20, gpus=8)
    assert require_fit(given).total == memory(given).total
    with pytest.raises(
        InputError,
        match=r"20 teachers and the student do not fit.*teachers 8\.\d GiB.*there are 10\.0 GiB; "
        r"with --teacher-placement shard it would",
    ):
        require_fit(given, limit=10 * 2**30)


def test_a_plan_as_text_and_record() -> None:
    plan = make_plan(training(updates=1000, gpus=8, placement="shard"))
    text = plan_text(plan)
    assert "217.3 M parameters" in text
    assert "shard in groups of 4" in text
    assert f"1,000 updates: {1000 * plan.times.total / 3600:,.1f} hours" in text
    record = plan.record()
    assert record["memory"]["total"] == plan.memory.total
    assert sum(record["seconds"]["parts"].values()) == pytest.approx(record["seconds"]["total"])
    assert plan.hours == pytest.approx(1000 * plan.times.total / 3600)


def test_the_sweep_has_every_cell() -> None:
    cells: list[list[Plan]] = list(sweep(training()))
    found = {(c[0].training.V, c[0].training.M, c[0].training.world) for c in cells}
    assert found == {(V, M, W) for V in (40_000, 256_000) for M in (5, 10, 20) for W in (1, 8, 64)}
    assert all(len(cell) == len(WAYS) for cell in cells)
    assert way(training(), "store").online_members == 0


# --- bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": 4}, "ZeRO stage"),
        ({"placement": "everywhere"}, "replicate, shard, offload"),
        ({"tokens": 16}, "does not hold one target of 32"),
        ({"offload_optimizer": True}, "choose a stage of 1, 2 or 3"),
        ({"group": 3, "gpus": 8}, "take a divisor of 8"),
        ({"stored_pieces": 40_001}, "1 to 40000 stored pieces"),
        ({"machine": MACHINES["v100"]}, "does not compute in bfloat16"),
        ({"gpus": 0}, "at least 1 for gpus"),
        ({"precision": "float8"}, "float32, float16, bfloat16"),
        ({"M": -1}, "number of members"),
    ],
)
def test_bad_trainings_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        training(**changes)


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="not divided by 7 heads"):
        text_size(6, 512, 2048, 7)
    with pytest.raises(InputError, match="at least 1 for a model's layers"):
        Stack(0, 512, 2048, 8)
    with pytest.raises(InputError, match="unknown size 'huge'"):
        preset("huge")
    with pytest.raises(InputError, match="unknown device"):
        machine("b200")
    with pytest.raises(InputError, match="body_efficiency: expected a share"):
        Assumptions(body_efficiency=1.5)
