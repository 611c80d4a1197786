import math
from dataclasses import replace
from pathlib import Path

import pytest

from seqdistill.assessment.hypothesis_files import read_set
from seqdistill.assessment.n_best import Aggregation, NBest, join_n_best
from seqdistill.errors import InputError
from seqdistill.hypotheses import Hypothesis, write_hypotheses
from tests.reference.hypothesis_sets import make_hypotheses

WEIGHTED = Aggregation("weighted")


def listed(sentence: int, *entries: tuple[float, float]) -> list[Hypothesis]:
    """An n-best list of (P(y), epkl), best first."""
    like = make_hypotheses(1)[0]
    return [
        replace(
            like,
            id=sentence,
            rank=rank,
            text=f"text {rank}",
            log_prob=math.log(probability),
            uncertainty={"epkl": value, "total_uncertainty": 2 * value + rank},
        )
        for rank, (probability, value) in enumerate(entries)
    ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    # The weights are P(y) over their sum: 3/4 and 1/4; 1/2, 1/3 and 1/6.
    lists = listed(0, (0.3, 1.0), (0.1, 3.0)) + listed(1, (0.3, 1.0), (0.2, 4.0), (0.1, 10.0))
    write_hypotheses(tmp_path / "set.jsonl", reversed(lists))
    return tmp_path / "set.jsonl"


def values(path: Path, aggregation: Aggregation, measure: str = "epkl") -> list[float]:
    return [h.uncertainty[measure] for h in read_set(path, aggregation).hypotheses]


def test_by_hand(path: Path) -> None:
    assert values(path, Aggregation()) == [1.0, 1.0]
    assert values(path, Aggregation("uniform")) == pytest.approx([2.0, 5.0], rel=1e-14)
    weighted = [0.75 * 1 + 0.25 * 3, 0.5 * 1 + 4 / 3 + 10 / 6]
    assert values(path, WEIGHTED) == pytest.approx(weighted, rel=1e-14)
    # τ = 1/2 squares the probabilities: 9 : 1, and 9 : 4 : 1.
    squared = [(9 * 1 + 1 * 3) / 10, (9 * 1 + 4 * 4 + 1 * 10) / 14]
    assert values(path, Aggregation("weighted", 0.5)) == pytest.approx(squared, rel=1e-14)
    ranked = [0.75 * 2 + 0.25 * 7, 2 / 2 + 9 / 3 + 22 / 6]
    assert values(path, WEIGHTED, "total_uncertainty") == pytest.approx(ranked, rel=1e-14)


def test_the_limits_of_the_temperature(path: Path) -> None:
    hot, cold = Aggregation("weighted", 1e9), Aggregation("weighted", 1e-3)
    assert values(path, hot) == pytest.approx(values(path, Aggregation("uniform")), rel=1e-8)
    assert values(path, cold) == pytest.approx(values(path, Aggregation()), rel=1e-12)


def test_text_and_probability_stay_those_of_the_best(path: Path) -> None:
    top, weighted = read_set(path), read_set(path, WEIGHTED)
    assert top.n_best is None
    assert weighted.n_best == NBest(WEIGHTED, 2, 3)
    assert weighted.lines == top.lines == [5, 3]
    assert [replace(h, uncertainty={}) for h in weighted.hypotheses] == [
        replace(h, uncertainty={}) for h in top.hypotheses
    ]


def test_signature_fields() -> None:
    assert NBest(WEIGHTED, 2, 3).fields() == {
        "nbest": "2-3",
        "aggregation": "softmax(lnP/1)",
    }
    assert NBest(Aggregation("uniform"), 5, 5).fields() == {
        "nbest": "5",
        "aggregation": "uniform",
    }


def test_no_list_to_average_over(tmp_path: Path) -> None:
    write_hypotheses(tmp_path / "one.jsonl", listed(0, (0.3, 1.0)) + listed(1, (0.3, 1.0)))
    with pytest.raises(InputError, match=r"one\.jsonl: every sentence has one .*--nbest N"):
        read_set(tmp_path / "one.jsonl", WEIGHTED)


def test_a_measure_that_some_hypotheses_lack(tmp_path: Path) -> None:
    lists = listed(0, (0.3, 1.0), (0.1, 3.0))
    lists[1] = replace(lists[1], uncertainty={"epkl": 3.0})
    write_hypotheses(tmp_path / "set.jsonl", lists)
    with pytest.raises(InputError, match=r"set\.jsonl:2: .* total_uncertainty; every hypothesis"):
        read_set(tmp_path / "set.jsonl", WEIGHTED)


@pytest.mark.parametrize(
    ("ranks", "message"),
    [((0, 2), r":1: .* none of rank 1"), ((0, 1, 1), r":3: .* two hypotheses of rank 1")],
)
def test_ranks_that_are_no_list(tmp_path: Path, ranks: tuple[int, ...], message: str) -> None:
    lists = [replace(listed(0, (0.3, 1.0))[0], rank=rank) for rank in ranks]
    write_hypotheses(tmp_path / "set.jsonl", lists)
    with pytest.raises(InputError, match=message):
        read_set(tmp_path / "set.jsonl", WEIGHTED)


def test_files_of_other_list_sizes_do_not_compare() -> None:
    two, three = NBest(WEIGHTED, 1, 2), NBest(WEIGHTED, 3, 3)
    assert join_n_best({"a": None, "b": None}) is None
    assert join_n_best({"a": two, "b": NBest(WEIGHTED, 2, 2)}) == two
    with pytest.raises(InputError, match="b has up to 3 hypotheses a sentence and a up to 2"):
        join_n_best({"a": two, "b": three})


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_bad_temperatures(temperature: float) -> None:
    with pytest.raises(InputError, match="temperature above 0"):
        Aggregation("weighted", temperature)


def test_unknown_aggregation() -> None:
    with pytest.raises(InputError, match="of top, weighted, uniform, got 'mean'"):
        Aggregation("mean")
