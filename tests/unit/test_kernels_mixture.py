"""Mixtures of members under PE and EP: against float64, loops over floats, and each other."""

import math

import pytest
import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.kernels.cpp import cpp_status
from seqdistill.kernels.cpp.backend import Loaded, load
from seqdistill.kernels.cpp.check import complaint_of_mixtures
from seqdistill.kernels.cpp.library import Library
from seqdistill.kernels.cpp.mixture import mix_member_, read_mixture_
from seqdistill.kernels.mixture import LogWeights, MemberMixture
from tests.reference import ensembles


@pytest.fixture(params=["eager", "baseline", "avx2", "avx512"])
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Compute with PyTorch, or with an instruction set."""
    name: str = request.param
    loaded = Loaded(None, "none here")
    if name != "eager":
        library = load().library
        if library is None or name not in library.levels:
            pytest.skip(f"no kernels for {name} here")
        loaded = Loaded(Library(library.build, name), name)
    monkeypatch.setattr("seqdistill.kernels.mixture.load", lambda: loaded)
    return name


def members(M: int, n: int, V: int, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(M * V)
    shared = 4 * torch.randn(n, V, generator=generator)
    return [shared + scale * torch.randn(n, V, generator=generator) for _ in range(M)]


def prefixes(M: int, n: int) -> Tensor:
    return 3 * torch.randn(M, n, generator=torch.Generator().manual_seed(7)).double() - 900


def read(given: list[Tensor], weights: Tensor | None) -> dict[str, Tensor]:
    """Everything that a mixture says, by name; logits a member first."""
    mixture = MemberMixture(is_weighted=weights is not None)
    found = {}
    for m, logits in enumerate(given):
        log_weights = None if weights is None else weights[m]
        found[f"log_total {m}"] = mixture.add_(logits, log_weights)
    found["data"] = mixture.data_uncertainty
    for name in ("pe",) if weights is None else ("pe", "ep"):
        reading = mixture.read_(name, wants_log=True)
        assert reading.log_probs is not None
        found |= {f"{name} {key}": value for key, value in vars(reading).items()}
    return found


@pytest.mark.parametrize(("M", "n", "V"), [(2, 1, 2), (5, 7, 33), (20, 3, 4008), (3, 2, 40_001)])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_no_worse_than_float32_can_be(level: str, M: int, n: int, V: int, scale: float) -> None:
    given, weights = members(M, n, V, scale), prefixes(M, n)
    kept = [logits.clone() for logits in given]
    found = read(given, weights)
    exact = read([logits.double() for logits in given], weights)
    for name, right in exact.items():
        # Disagreement is a sum of differences of logarithms of size 10.
        close = {"rtol": 2e-6, "atol": 1e-6}
        torch.testing.assert_close(found[name].double(), right.double(), **close, msg=name)
    assert all(torch.equal(a, b) for a, b in zip(given, kept, strict=True))


def test_the_formulas(level: str) -> None:
    M, n, V = 3, 4, 11
    given, weights = members(M, n, V), prefixes(M, n)
    found = read(given, weights)
    for row in range(n):
        rows = [torch.log_softmax(logits[row].double(), -1).tolist() for logits in given]
        share = torch.softmax(weights[:, row], 0).tolist()
        p_bar = ensembles.mean_probs(rows)
        p_ep = [
            math.fsum(w * math.exp(m[v]) for w, m in zip(share, rows, strict=True))
            for v in range(V)
        ]
        for name, q in (("pe", p_bar), ("ep", p_ep)):
            log_q = [math.log(x) for x in q]
            right = {
                "entropy": ensembles.entropy(q),
                "reverse_mutual_information": math.fsum(ensembles.kl(q, log_q, m) for m in rows)
                / M,
                "largest": max(q),
                "least": min(q),
            }
            for key, value in right.items():
                assert float(found[f"{name} {key}"][row]) == pytest.approx(
                    value, rel=1e-5, abs=1e-6
                ), key
            assert found[f"{name} log_probs"][row].tolist() == pytest.approx(log_q, abs=1e-5)
        assert float(found["data"][row]) == pytest.approx(
            ensembles.data_uncertainty(rows), rel=1e-5
        )


def test_equal_weights_and_one_member_are_pe(level: str) -> None:
    given = members(4, 3, 50)
    alike = read(given, torch.full((4, 3), -700.0).double())
    for key in ("entropy", "reverse_mutual_information", "log_probs"):
        torch.testing.assert_close(alike[f"ep {key}"], alike[f"pe {key}"], rtol=2e-6, atol=2e-6)
    one = read(given[:1], torch.zeros(1, 3).double())
    for name in ("pe", "ep"):
        torch.testing.assert_close(one[f"{name} entropy"], one["data"])
        assert float(one[f"{name} reverse_mutual_information"].max()) < 1e-6


def test_the_sum_may_take_the_place_of_the_first_logits(level: str) -> None:
    given, weights = members(3, 5, 40), prefixes(3, 5)
    expected = read([logits.clone() for logits in given], weights)
    mixture = MemberMixture(is_weighted=True)
    for m, logits in enumerate(given):
        mixture.add_(logits, weights[m], is_free=True)
    reading = mixture.read_("pe", wants_log=True)
    assert reading.log_probs is not None
    assert reading.log_probs.data_ptr() == given[0].data_ptr()
    torch.testing.assert_close(reading.log_probs, expected["pe log_probs"])
    ep = mixture.read_("ep", wants_log=False)
    assert ep.log_probs is None
    torch.testing.assert_close(ep.entropy, expected["ep entropy"])


def test_constants_strides_and_dtypes(level: str) -> None:
    given, weights = members(3, 4, 19), prefixes(3, 4)
    expected = read(given, weights)
    shifted = read([logits + 5 for logits in given], weights + 3)
    columns = read([logits.t().contiguous().t() for logits in given], weights)
    wider = read([torch.cat([x, x], -1)[:, :19] for x in given], weights)
    for name, right in expected.items():
        torch.testing.assert_close(columns[name], right, msg=name)
        torch.testing.assert_close(wider[name], right, msg=name)
        if "log_total" in name:
            torch.testing.assert_close(shifted[name], right + 5)
        else:
            torch.testing.assert_close(shifted[name], right, rtol=1e-4, atol=1e-5, msg=name)
    half = read([logits.bfloat16() for logits in given], weights)
    assert half["pe log_probs"].dtype == torch.float32


def test_pieces_that_members_exclude(level: str) -> None:
    given = members(2, 1, 21)
    given[0][0, 3] = given[1][0, 3] = given[1][0, 20] = -math.inf
    found = read(given, torch.tensor([[0.0], [-1.0]]).double())
    for name in ("pe", "ep"):
        assert found[f"{name} least"] == 0
        assert found[f"{name} log_probs"][0, 3] == -math.inf
        assert found[f"{name} log_probs"].isfinite().sum() == 20
        assert found[f"{name} entropy"].isfinite().all()
        assert float(found[f"{name} reverse_mutual_information"]) > 1e30
    assert found["data"].isfinite().all()


def test_a_row_that_holds_nan_says_so(level: str) -> None:
    for value in (math.nan, math.inf):
        logits = members(1, 3, 40)[0]
        logits[1, 30] = value
        total = MemberMixture().add_(logits)
        assert total.isnan().tolist() == [False, True, False]


def test_weights_far_apart_leave_the_larger() -> None:
    weights = LogWeights()
    first = weights.add(torch.tensor([-1000.0, -math.inf]).double())
    assert [by.tolist() for by in first] == [[0, 0], [0, 0]]
    fade, share = weights.add(torch.tensor([-5.0, -math.inf]).double())
    assert fade.tolist() == [-995.0, 0.0]
    assert share.tolist() == [0.0, 0.0]
    assert weights.total.tolist() == [1.0, 2.0]


def test_bad_members() -> None:
    with pytest.raises(InputError, match="at least one member"):
        MemberMixture().read_("pe", wants_log=False)
    with pytest.raises(InputError, match="at least one member"):
        _ = LogWeights().total
    mixture = MemberMixture()
    mixture.add_(torch.zeros(2, 3))
    with pytest.raises(InputError, match=r"member 2 has shape \(1, 3\), the members before it"):
        mixture.add_(torch.zeros(1, 3))
    with pytest.raises(InputError, match="weights"):
        mixture.read_("ep", wants_log=False)


@pytest.mark.skipif(not cpp_status()[0], reason=cpp_status()[1])
def test_what_the_kernels_refuse() -> None:
    library = load().library
    assert library is not None
    assert complaint_of_mixtures(library) is None
    rows, short = torch.zeros(2, 5), torch.zeros(2, 4)
    with pytest.raises(TypeError, match="float32 logits"):
        mix_member_(library, rows.double(), rows, rows, None, None, None, True)
    with pytest.raises(TypeError, match=r"contiguous torch.float32 \(2, 5\)"):
        mix_member_(library, rows, short, rows, None, None, None, True)
    with pytest.raises(TypeError, match=r"contiguous torch.float64 \(2,\)"):
        read_mixture_(library, rows, rows, torch.ones(2), 3, False)
