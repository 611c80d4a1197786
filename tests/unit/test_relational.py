"""Graphs of a batch's similarities, against a slow form and by their identities."""

import pytest
import torch

from seqdistill.errors import InputError
from seqdistill.losses.relational import pooled_states, relational_loss, similarity_graph
from tests.reference import relations


def states(B: int, D: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, D, generator=generator, dtype=torch.float64) + 0.3


@pytest.mark.parametrize("neighbours", [0, 1, 3, 50])
@pytest.mark.parametrize(("B", "D"), [(2, 3), (7, 5), (12, 2)])
def test_agrees_with_the_slow_form(B: int, D: int, neighbours: int) -> None:
    one, other = states(B, D), states(B, D + 4, seed=1)
    expected = [relations.graph(x.tolist(), neighbours) for x in (one, other)]
    target = similarity_graph(other, neighbours)
    torch.testing.assert_close(target, torch.tensor(expected[1], dtype=torch.float64))
    loss = relational_loss(one, target, neighbours)
    assert loss.item() == pytest.approx(relations.distance(*expected))


def test_a_graph_is_symmetric_and_has_a_largest_eigenvalue_of_one() -> None:
    found = similarity_graph(states(9, 4))
    torch.testing.assert_close(found, found.T)
    assert found.diagonal().abs().max() == 0
    assert torch.linalg.eigvalsh(found).max().item() == pytest.approx(1.0)


def test_scale_rotation_and_width_make_no_difference() -> None:
    one = states(8, 5)
    rotation = torch.linalg.qr(states(5, 5, seed=2)).Q
    target = similarity_graph(one)
    wider = torch.cat([3.0 * one @ rotation, torch.zeros(8, 4, dtype=one.dtype)], dim=1)
    assert relational_loss(wider, target).item() == pytest.approx(0.0, abs=1e-24)
    assert relational_loss(one + 1.0, target).item() > 1e-4


def test_gradients() -> None:
    target = similarity_graph(states(6, 7, seed=3))
    for neighbours in (0, 2):
        given = states(6, 4).requires_grad_()
        assert torch.autograd.gradcheck(
            lambda x, k=neighbours: relational_loss(x, target, k), (given,), atol=1e-7
        )


def test_sentences_that_are_like_no_other_leave_gradients_finite() -> None:
    for given in (torch.zeros(3, 4), torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.ones(1, 4)):
        given.requires_grad_()
        loss = relational_loss(given, torch.zeros(len(given), len(given)))
        loss.backward()
        assert loss.item() == 0.0
        assert given.grad is not None
        assert bool(given.grad.isfinite().all())


def test_padding_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(4)
    rows = torch.randn(3, 5, 4, generator=generator)
    counted = torch.tensor([[1, 1, 0, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]]).bool()
    found = pooled_states(rows, counted)
    torch.testing.assert_close(found[0], rows[0, [0, 1, 3]].mean(dim=0))
    torch.testing.assert_close(found[2], torch.zeros(4))
    extreme = rows.masked_fill(~counted[..., None], torch.nan).requires_grad_()
    again = pooled_states(extreme, counted)
    torch.testing.assert_close(again, found)
    again.sum().backward()
    assert extreme.grad is not None
    assert bool(extreme.grad.isfinite().all())
    assert pooled_states(rows.bfloat16(), counted).dtype == torch.float32


def test_bad_input() -> None:
    with pytest.raises(InputError, match="expected states of shape"):
        similarity_graph(torch.zeros(2, 3, 4))
    with pytest.raises(InputError, match="neighbours"):
        similarity_graph(torch.zeros(2, 3), -1)
    with pytest.raises(InputError, match="target graph of 2 sentences"):
        relational_loss(torch.zeros(2, 3), torch.zeros(3, 3))
