"""Members spread over real processes say what they say in one: any group, any length of batch."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch

from seqdistill.errors import InputError
from seqdistill.kernels import MemberLogits, ShardedMembers
from seqdistill.teachers.group import TeacherGroup, together
from seqdistill.teachers.placement import (
    check_group_size,
    choose_group_size,
    members_of,
    offload_traffic,
    shard_traffic,
    sums_bytes_per_token,
    teacher_memory,
)
from tests.ranks import run_ranks
from tests.unit import sharded_ranks

Results = Callable[[int, str], list[Any]]

# One job for all that needs as many ranks: starting processes takes longer than what they do.
CALLS: dict[int, dict[str, tuple[Callable[..., Any], tuple]]] = {
    2: {
        "uneven": (sharded_ranks.compare, ([23, 9], 2, 3)),  # M not divisible by the group
        # A rank without a counted token, another with many chunks.
        "one-empty": (sharded_ranks.compare, ([0, 131], 2, 2)),
        "overlap": (sharded_ranks.small_transfers, ([170, 331], True)),
        "no-overlap": (sharded_ranks.small_transfers, ([170, 331], False)),
        "names": (sharded_ranks.different_names, ()),
        "masked": (sharded_ranks.masked, ()),
    },
    3: {
        "three": (sharded_ranks.compare, ([7, 0, 17], 3, 5)),
        "gathered": (sharded_ranks.gathered, ()),
        "fails": (sharded_ranks.fails_on_one, (InputError,)),
        "breaks": (sharded_ranks.fails_on_one, (OSError,)),
    },
    4: {
        "two-groups": (sharded_ranks.compare, ([4, 11, 16, 2], 2, 3)),
        "nan-two-groups": (sharded_ranks.with_nan, (2,)),
        "nan-one-group": (sharded_ranks.with_nan, (4,)),
        "sizes": (sharded_ranks.make_groups, (3,)),
    },
}


@pytest.fixture(scope="module")
def results() -> Results:
    """Give what each rank of a job returned for one of its calls."""

    @cache
    def job(world: int) -> list[list[Any]]:
        return run_ranks(sharded_ranks.all_of, world, list(CALLS[world].values()))

    return lambda world, name: [rank[list(CALLS[world]).index(name)] for rank in job(world)]


@pytest.mark.parametrize(
    ("world", "name"), [(2, "uneven"), (2, "one-empty"), (3, "three"), (4, "two-groups")]
)
def test_sharded_is_unsharded(results: Results, world: int, name: str) -> None:
    for found in results(world, name):
        assert len(found) == 3 * (3 * 5 + 4)
        wrong = [(what, value) for what, value in found if not value < 3e-6]
        assert not wrong


@pytest.mark.parametrize("name", ["overlap", "no-overlap"])
def test_transfers_are_bounded_and_counted(results: Results, name: str) -> None:
    """Chunks of 150 tokens in transfers of 64; as many bytes as the formula says."""
    for probs, entropies, sent, wanted in results(2, name):
        assert probs < 3e-6
        assert entropies < 3e-6
        assert sent == wanted


@pytest.mark.parametrize("name", ["nan-two-groups", "nan-one-group"])
def test_nan_is_named_on_every_rank(results: Results, name: str) -> None:
    """In a member that one rank holds, for a token of another; other groups end as well."""
    for error in results(4, name):
        assert isinstance(error, InputError)
        assert "NaN log-probabilities from teacher1.pt (1 tokens)" in str(error)


def test_batches_are_gathered_as_they_are(results: Results) -> None:
    first, second, third = results(3, "gathered")
    assert first == second == third
    for rank, batch in enumerate(first):
        expected = torch.arange(2 * (rank + 1)).view(2, rank + 1) + rank
        assert batch["tokens"] == expected.tolist()
        features = sharded_ranks.made(rank, rank, 3, 2, dtype=torch.bfloat16)
        assert batch["features"] == features.tolist()
        assert batch["mask"] == [True, False, rank == 1]


@pytest.mark.parametrize(("name", "kind"), [("fails", InputError), ("breaks", OSError)])
def test_what_fails_on_one_rank_fails_on_all(
    results: Results, name: str, kind: type[Exception]
) -> None:
    first, second, third = results(3, name)
    assert type(second) is kind
    for other in (first, third):
        assert isinstance(other, InputError)
        assert str(other).startswith("rank 1: ")
        assert "teacher2.pt is cut short" in str(other)


def test_groups_and_batches_that_do_not_fit_are_refused(results: Results) -> None:
    for world, name, said in (
        (4, "sizes", "divides the 4 ranks, got 3"),
        (2, "names", "must train the same task"),
        (2, "masked", "without a token mask"),
    ):
        for error in results(world, name):
            assert isinstance(error, InputError)
            assert said in str(error)
    part = MemberLogits([torch.zeros(2, 5), torch.zeros(2, 5)])
    with pytest.raises(InputError, match="read on 2 batches"):
        ShardedMembers([part], TeacherGroup(None, [0, 1], 0), [0, 2], ["a", "b", "c"])


def test_alone_an_action_just_runs() -> None:
    assert together(lambda: 3) == 3
    with pytest.raises(ValueError, match="as it is"):
        together(lambda: (_ for _ in ()).throw(ValueError("as it is")))


def test_every_member_lives_once() -> None:
    for M, G in ((5, 2), (7, 3), (4, 4)):
        held = [m for rank in range(G) for m in members_of(rank, G, M)]
        assert sorted(held) == list(range(M))
        assert max(len(members_of(rank, G, M)) for rank in range(G)) == -(-M // G)


@pytest.mark.parametrize(
    ("hosts", "M", "size"),
    [
        ("aaaaaaaa", 20, 8),
        ("aaaaaaaa", 5, 4),
        ("aaabbb", 20, 3),
        ("aaaabb", 20, 2),
        ("abab", 20, 1),
        ("aaaa", 2, 2),
        ("aaa", 2, 1),
    ],
)
def test_groups_stay_in_a_node(hosts: str, M: int, size: int) -> None:
    assert choose_group_size(list(hosts), M) == size


def test_group_sizes_that_cannot_be() -> None:
    check_group_size(2, 4, 3)
    with pytest.raises(InputError, match="expected at least 1"):
        check_group_size(0, 4, 3)
    with pytest.raises(InputError, match="has 3 members, so 1 ranks"):
        check_group_size(4, 4, 3)
    with pytest.raises(InputError, match="5 processes"):
        check_group_size(2, 5, 3)


def test_what_a_placement_takes() -> None:
    """Seven members of 100 bytes, 40 of them the projection; numbers by hand."""
    sizes = {"M": 7, "body_bytes": 60, "projection_bytes": 40}
    replicate = teacher_memory("replicate", **sizes)
    assert (replicate.device, replicate.host) == (700, 0)
    assert teacher_memory("shard", **sizes, group_size=2).device == 400
    offload = teacher_memory("offload", **sizes)
    assert (offload.device, offload.host) == (2 * 60 + 280, 420)
    with pytest.raises(InputError, match="replicate, shard, offload"):
        teacher_memory("everywhere", **sizes)


def test_what_is_sent() -> None:
    assert sums_bytes_per_token(40_000) == 320_004
    assert shard_traffic(9, 3, [1, 2, 4]) == [6 * 76, 5 * 76, 3 * 76]
    # Over the group: (G − 1)(8V + 4) bytes a token.
    assert sum(shard_traffic(9, 3, [1, 2, 4])) == 7 * 2 * 76
    with pytest.raises(InputError, match="tokens of 3 ranks, got 2"):
        shard_traffic(9, 3, [1, 2])
    assert (offload_traffic(20, 10), offload_traffic(2, 10)) == (200, 0)
