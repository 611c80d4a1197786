"""Noise on sources: deterministic, at the rates asked for, never an empty sentence."""

import numpy as np
import pytest
import torch

from seqdistill.errors import InputError
from seqdistill.teachers.source_noise import SourceNoise

EOS = 2


def noise(drop: float = 0.0, replace: float = 0.0, seed: int = 1) -> SourceNoise:
    return SourceNoise(drop, replace, seed, range(4, 8), [1, 0, 3, 0], fixed=(0, 1, EOS))


def sentence(length: int) -> torch.Tensor:
    return torch.tensor([9] * (length - 1) + [EOS])


def test_the_same_sentence_of_an_epoch_gets_the_same_noise() -> None:
    tokens = torch.tensor([*range(4, 40), EOS])
    one = noise(0.3, 0.3)
    assert torch.equal(one(tokens, 2, 7), noise(0.3, 0.3)(tokens, 2, 7))
    for other in (one(tokens, 3, 7), one(tokens, 2, 8), noise(0.3, 0.3, seed=2)(tokens, 2, 7)):
        assert one(tokens, 2, 7).tolist() != other.tolist()
    assert torch.equal(tokens, torch.tensor([*range(4, 40), EOS]))  # as it was
    assert torch.equal(noise()(tokens, 2, 7), tokens)


def test_what_is_left_out_does_not_depend_on_what_is_replaced() -> None:
    tokens = torch.tensor([*range(10, 60), EOS])
    dropped = noise(0.4)(tokens, 1, 0).tolist()
    both = noise(0.4, 0.5)(tokens, 1, 0).tolist()
    assert len(both) == len(dropped)
    pairs = list(zip(both, dropped, strict=True))
    assert all(one == other or one in (4, 6) for one, other in pairs)
    assert any(one != other for one, other in pairs)


def test_rates_and_frequencies() -> None:
    tokens = sentence(20001)
    found = noise(0.25, 0.2)(tokens, 1, 0)
    assert found[-1] == EOS
    kept = found[:-1].numpy()
    # Within five standard deviations of the binomial.
    assert len(kept) / 20000 == pytest.approx(0.75, abs=5 * (0.75 * 0.25 / 20000) ** 0.5)
    replaced = kept[kept != 9]
    assert len(replaced) / len(kept) == pytest.approx(0.2, abs=5 * (0.16 / 15000) ** 0.5)
    assert set(np.unique(replaced)) == {4, 6}  # the others are never drawn
    assert (replaced == 6).mean() == pytest.approx(0.75, abs=5 * (0.1875 / 3000) ** 0.5)


def test_one_piece_and_the_end_always_stay() -> None:
    for index in range(200):
        found = noise(0.99)(sentence(4), 1, index)
        assert found.tolist()[-1] == EOS
        assert len(found) >= 2
    assert noise(0.9)(torch.tensor([EOS]), 1, 0).tolist() == [EOS]


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_bad_chances(share: float) -> None:
    with pytest.raises(InputError, match="chance to drop a piece"):
        noise(drop=share)
    with pytest.raises(InputError, match="chance to replace a piece"):
        noise(replace=share)


def test_bad_frequencies() -> None:
    for frequencies in ([0, 0], [1], [1, -1]):
        with pytest.raises(InputError, match="expected a frequency"):
            SourceNoise(0.1, 0.1, 1, [4, 5], frequencies, ())
    with pytest.raises(InputError, match="seed of the noise"):
        noise(seed=-1)
