"""Steps to a decision boundary: by hand, against a slow form, and on a model that is linear."""

import pytest
import torch

from seqdistill.errors import InputError
from seqdistill.losses.boundary import (
    OVERSHOOT,
    choose_classes,
    choose_tokens,
    decision_margin,
    newton_share,
    steepest_words,
)
from tests.reference import relations


def test_tokens_that_count_are_drawn_alike() -> None:
    mask = torch.tensor([[1, 0, 1, 1], [0, 1, 0, 0], [1, 1, 0, 0]]).bool()
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([choose_tokens(mask, generator) for _ in range(3000)])
    # Tokens are numbered 0 to 5 in the order of the mask.
    shares = [[(drawn[:, row] == n).float().mean().item() for n in range(6)] for row in range(3)]
    third, half = pytest.approx(1 / 3, abs=0.05), pytest.approx(0.5, abs=0.05)
    assert shares == [[third, third, third, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, half, half]]
    with pytest.raises(InputError, match="no token that counts"):
        choose_tokens(torch.tensor([[True], [False]]), generator)


def test_the_other_class_is_drawn_by_its_probability() -> None:
    logits = torch.tensor([0.5, 0.3, 0.2]).log().expand(3000, 3)
    base, other = choose_classes(logits, torch.Generator().manual_seed(1))
    assert base.unique().tolist() == [0]
    assert (other == 0).sum() == 0
    assert (other == 1).float().mean().item() == pytest.approx(0.6, abs=0.05)
    margin = decision_margin(torch.tensor([[1.0, 4.0, -2.0]]), torch.tensor([1]), torch.tensor([2]))
    assert margin.tolist() == [6.0]


def test_steepest_words_are_those_of_the_slow_form() -> None:
    generator = torch.Generator().manual_seed(2)
    P, V, D = 1030, 9, 3  # more rows than are held at once
    gradient = torch.randn(P, D, generator=generator, dtype=torch.float64)
    table = torch.randn(V, D, generator=generator, dtype=torch.float64)
    tokens = torch.randint(V, (P,), generator=generator)
    allowed = torch.tensor([False, *[True] * 7, False])
    words, slopes = steepest_words(gradient, tokens, table, allowed)
    for p in (0, 1, 511, 1023, 1024, 1029):
        word, slope = relations.steepest(
            gradient[p].tolist(), int(tokens[p]), table.tolist(), allowed.tolist()
        )
        assert int(words[p]) == word
        assert slopes[p].item() == pytest.approx(slope)
    with pytest.raises(InputError, match="no word of the vocabulary"):
        steepest_words(gradient, tokens, table, torch.zeros(V, dtype=torch.bool))


def test_newton_steps_by_hand() -> None:
    share = torch.tensor([0.0, 0.2, 0.3, 0.4])
    margin = torch.tensor([0.9, -0.3, 1.0, 1.0])
    slope = torch.tensor([-2.0, -1.0, 0.0, 3.0])
    found = newton_share(share, margin, slope, 0.5)
    # 1.0/2; back over the boundary to 0 (0.2 − 0.2); where it does not fall, where it was.
    assert found.tolist() == pytest.approx([0.5, 0.0, 0.3, 0.4])
    assert newton_share(share, margin, slope, 1.0)[0].item() == pytest.approx(0.5)


def test_one_step_crosses_the_boundary_of_a_linear_model() -> None:
    generator = torch.Generator().manual_seed(3)
    V, D, S, B = 30, 6, 4, 5
    table = torch.randn(V, D, generator=generator, dtype=torch.float64)
    readout = torch.randn(8, D, generator=generator, dtype=torch.float64)
    tokens = torch.randint(V, (B, S), generator=generator)
    embeddings = table[tokens].requires_grad_()
    logits = embeddings.sum(dim=1) @ readout.T
    base, other = choose_classes(logits, generator)
    margin = decision_margin(logits, base, other)
    (gradient,) = torch.autograd.grad(margin.sum(), embeddings)
    allowed = torch.ones(V, dtype=torch.bool)
    words, slopes = steepest_words(gradient.flatten(0, 1), tokens.flatten(), table, allowed)
    slope = slopes.view(B, S).sum(dim=1)
    share = newton_share(torch.zeros(B, dtype=torch.float64), margin.detach(), slope, 1.0)
    mixed = table[tokens] + share[:, None, None] * (table[words.view(B, S)] - table[tokens])
    after = decision_margin(mixed.sum(dim=1) @ readout.T, base, other)
    inside = share < 1.0
    assert bool(inside.any())
    torch.testing.assert_close(
        after[inside], torch.full_like(after[inside], -OVERSHOOT), rtol=0, atol=1e-9
    )
