"""Gates on layers: their distribution, their divergence, what they do to a layer."""

import math

import pytest
import torch
from torch import nn

from seqdistill.errors import InputError
from seqdistill.teachers.cheap.gates import LayerGate, attach_gates, gates_of


def test_relaxed_draws_have_the_concrete_distribution() -> None:
    # P(z ≤ s) = σ(τ·logit(s) - φ): the density's integral, Maddison et al. (2017), eq. 21.
    gate = LayerGate(0.7, temperature=0.5)
    torch.manual_seed(1)
    drawn = gate.draw(200_000).detach()
    for s in (0.05, 0.3, 0.5, 0.9):
        expected = 1 / (1 + math.exp(gate.prior_logit - 0.5 * math.log(s / (1 - s))))
        assert (drawn <= s).double().mean().item() == pytest.approx(expected, abs=0.005)
    # The limit of a small temperature: kept with probability π.
    cold = LayerGate(0.7, temperature=1e-3).draw(200_000)
    assert (cold > 0.5).double().mean().item() == pytest.approx(0.7, abs=0.005)
    assert ((cold < 1e-6) | (cold > 1 - 1e-6)).double().mean() > 0.99


def test_divergence_is_that_of_two_outcomes() -> None:
    gate = LayerGate(0.8).double()
    assert gate.divergence().item() == pytest.approx(0.0, abs=1e-7)
    for pi in (0.01, 0.5, 0.99):
        with torch.no_grad():
            gate.logit.fill_(math.log(pi / (1 - pi)))
        expected = pi * math.log(pi / 0.8) + (1 - pi) * math.log((1 - pi) / 0.2)
        assert gate.divergence().item() == pytest.approx(expected, abs=1e-7)
    with torch.no_grad():
        gate.logit.fill_(60.0)  # π = 1 to the last bit
    assert gate.divergence().item() == pytest.approx(-math.log(0.8))


def test_gradients() -> None:
    def loss(logit: torch.Tensor) -> torch.Tensor:
        gate = LayerGate(0.6)
        del gate.logit
        gate.logit = logit  # a tensor that the check varies, in the parameter's place
        torch.manual_seed(2)
        return gate.divergence() + gate.draw(5).square().sum()

    logit = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (logit,))


def test_a_gate_is_open_closed_or_between() -> None:
    layer = nn.Linear(3, 3)
    layers = [layer]
    inputs = torch.randn(4, 6, 3)  # (T, B, D)
    plain = layer(inputs)
    (gate,) = attach_gates(layers, keep=0.5)
    assert gates_of(nn.ModuleList(layers)) == [gate]
    assert "gate.logit" in layer.state_dict()
    layer.eval()
    for logit, expected in ((2.0, plain), (-2.0, inputs)):
        with torch.no_grad():
            gate.logit.fill_(logit)
        assert torch.equal(layer(inputs), expected)
    layer.train()
    torch.manual_seed(3)
    gated = layer(inputs)
    torch.manual_seed(3)
    z = gate.draw(6)[:, None]
    torch.testing.assert_close(gated, inputs + z * (plain - inputs))
    assert len(set(z.flatten().tolist())) == 6  # each sentence has its own


def test_the_gates_of_layers_that_give_tuples() -> None:
    class Layer(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, str, None]:
            return 2 * x, "attention", None

    layer = Layer()
    (gate,) = attach_gates([layer], keep=0.5)
    with torch.no_grad():
        gate.logit.fill_(-1.0)
    x = torch.ones(2, 3, 4)
    output = layer.eval()(x)
    assert torch.equal(output[0], x)
    assert output[1:] == ("attention", None)


@pytest.mark.parametrize(("keep", "temperature"), [(0.0, 1.0), (1.0, 1.0), (0.5, 0.0)])
def test_bad_numbers(keep: float, temperature: float) -> None:
    with pytest.raises(InputError, match="expected a"):
        LayerGate(keep, temperature)
