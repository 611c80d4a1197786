r"""Concrete gates on layers: how likely each layer is kept is learnt with the weights.

In LayerDrop every layer is left out with one probability that somebody chose. Here layer l has its
own, π_l = σ(φ_l), learnt as in structure distributions of Bayesian networks (Deng, Luo & Zhu 2019,
DBSN) and Concrete dropout (Gal, Hron & Kendall 2017): in training the layer's output is

    x + z_l (f_l(x) - x),      z_l = σ((φ_l + ln u - ln(1-u)) / τ),  u ~ U(0, 1)

(a binary Concrete variable, Maddison, Mnih & Teh 2017: relaxed, so that φ_l has a gradient), and
the loss of a token grows by w Σ_l KL(Bernoulli(π_l) ‖ Bernoulli(π_0)). With w = 1/N that is the
evidence bound of the structures; a larger w keeps more of the prior's chance in them.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqdistill.errors import InputError

#: τ of gates; Maddison, Mnih & Teh (2017, appendix C.4) found 2/3 to be safe for two outcomes.
TEMPERATURE = 2 / 3


class LayerGate(nn.Module):
    """The gate of one layer.

    Args:
        keep: π_0, the prior's probability of keeping the layer, in (0, 1), and the first π.
        temperature: τ, above 0.

    Raises:
        InputError: a number out of its range.

    Example:
        >>> gate = LayerGate(0.75).eval()
        >>> round(gate.probability.item(), 4), gate.draw(2).tolist()
        (0.75, [1.0, 1.0])
    """

    def __init__(self, keep: float, temperature: float = TEMPERATURE) -> None:
        super().__init__()
        if not 0 < keep < 1:
            raise InputError(f"expected a probability of keeping a layer in (0, 1), got {keep:g}")
        if not temperature > 0:
            raise InputError(f"expected a temperature of gates above 0, got {temperature:g}")
        self.prior_logit = math.log(keep) - math.log1p(-keep)
        self.temperature = temperature
        self.logit = nn.Parameter(torch.tensor(self.prior_logit))

    @property
    def probability(self) -> Tensor:
        """π, of keeping the layer."""
        return torch.sigmoid(self.logit.float())

    def draw(self, count: int) -> Tensor:
        """Return z of so many sentences, (count,): relaxed in training, else the likelier of 0, 1.

        Args:
            count: draws, independent of each other.
        """
        logit = self.logit if self.logit.dtype.itemsize >= 4 else self.logit.float()
        if not self.training:
            return (logit >= 0).to(logit.dtype).expand(count)
        # ln u - ln(1-u) of a uniform number is logistic; u = 0 is drawn once in 2^24.
        uniform = torch.rand(count, device=logit.device, dtype=logit.dtype)
        tiny = torch.finfo(uniform.dtype).tiny
        noise = uniform.clamp(min=tiny).log() - torch.log1p(-uniform)
        return torch.sigmoid((logit + noise) / self.temperature)

    def divergence(self) -> Tensor:
        """Return KL(Bernoulli(π) ‖ Bernoulli(π_0)) (nats, 0 where they agree)."""
        logit = self.logit if self.logit.dtype.itemsize >= 4 else self.logit.float()
        prior = torch.full_like(logit, self.prior_logit)
        kept = torch.sigmoid(logit)
        return kept * (functional.logsigmoid(logit) - functional.logsigmoid(prior)) + (1 - kept) * (
            functional.logsigmoid(-logit) - functional.logsigmoid(-prior)
        )

    def blend(self, layer: nn.Module, given: tuple[Any, ...], output: Any) -> Any:
        """Return a layer's output, gated sentence by sentence: a forward hook of the layer.

        Args:
            layer: whose output it is.
            given: its arguments; the first is its input, (T, B, D).
            output: (T, B, D), or a tuple that begins with it.
        """
        inputs = given[0]
        outputs = output[0] if isinstance(output, tuple) else output
        gate = self.draw(inputs.shape[1]).to(outputs.dtype)[:, None]
        # Not x + z(f - x): an open gate gives f, and a closed one x, to the last bit.
        gated = gate * outputs + (1 - gate) * inputs
        return (gated, *output[1:]) if isinstance(output, tuple) else gated


def attach_gates(
    layers: list[nn.Module], keep: float, temperature: float = TEMPERATURE
) -> list[LayerGate]:
    """Give each layer a gate, as its submodule ``gate``; returns them.

    Args:
        layers: of an encoder or a decoder; not gated yet.
        keep: prior and first probability of keeping a layer.
        temperature: τ.

    Example:
        >>> len(attach_gates([nn.Linear(2, 2), nn.Linear(2, 2)], keep=0.8))
        2
    """
    gates = []
    for layer in layers:
        gate = LayerGate(keep, temperature)
        layer.gate = gate
        layer.register_forward_hook(gate.blend)
        gates.append(gate)
    return gates


def gates_of(model: nn.Module) -> list[LayerGate]:
    """Return all gates of a model, the encoder's first.

    Example:
        >>> gates_of(nn.Linear(2, 2))
        []
    """
    return [module for module in model.modules() if isinstance(module, LayerGate)]
