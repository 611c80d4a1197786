r"""Stochastic gradient Langevin dynamics: a training whose weights are samples of a posterior.

With the mean loss of a token L, N tokens and a Gaussian prior of precision Nλ, the posterior is
p(θ|D) ∝ exp(-N U(θ)), U = L + λ‖θ‖²/2. Welling & Teh (2011, eq. 4) write a step of size ε as
θ ← θ - (ε/2) N ∇U + √ε ξ, ξ ~ N(0, I); with the learning rate η = εN/2 that is

    θ ← θ - η ∇U + √(2ηT/N) ξ,

which at temperature T = 1 samples the posterior, and at T < 1 a colder one, p(θ|D)^(1/T).
"""

import hashlib
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from seqdistill.errors import InputError

#: Preconditioners: none, or that of RMSprop (Li, Chen, Carlson & Carin 2016).
PRECONDITIONERS = ("none", "rmsprop")


class Langevin(torch.optim.Optimizer):
    r"""SGLD and, preconditioned, pSGLD.

    With ``rmsprop``, G = 1/(√v̂ + eps) for v ← αv + (1-α)g², v̂ = v/(1 - α^t), and the step is
    θ ← θ - ηG∇U + √(2ηTG/N) ξ (Li et al. 2016, algorithm 1; as there, the term Γ of G's own
    derivative is left out, and, not as there, v is corrected for its start from 0).

    The noise of update t is drawn from a generator that is seeded by ``seed`` and t, parameter
    after parameter: a training that goes on from a checkpoint has the noise it would have had, and
    all ranks of a data-parallel training have the same. A device of another kind draws others.

    Args:
        params: parameters, or groups of them.
        lr: η, above 0; that of the preconditioned step has no unit of loss, like Adam's.
        data_size: N, tokens of the training set.
        temperature: T; 0 adds no noise.
        weight_decay: λ.
        preconditioner: ``none`` or ``rmsprop``.
        alpha: of v.
        eps: added to √v̂.
        burn_in: updates before noise is added.
        seed: of the noise.

    Raises:
        InputError: a number out of its range, or an unknown preconditioner.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(3))
        >>> optimizer = Langevin([weight], lr=0.1, data_size=50, seed=1)
        >>> weight.grad = torch.zeros(3)
        >>> _ = optimizer.step()
        >>> bool((weight != 0).all())
        True
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        data_size: float,
        *,
        temperature: float = 1.0,
        weight_decay: float = 0.0,
        preconditioner: str = "none",
        alpha: float = 0.99,
        eps: float = 1e-5,
        burn_in: int = 0,
        seed: int = 1,
    ) -> None:
        if preconditioner not in PRECONDITIONERS:
            raise InputError(
                f"expected a preconditioner of {', '.join(PRECONDITIONERS)}, got {preconditioner!r}"
            )
        for name, value, fits, expected in (
            ("data_size", data_size, data_size > 0, "tokens of the training set, above 0"),
            ("temperature", temperature, temperature >= 0, "0 or more"),
            ("weight_decay", weight_decay, weight_decay >= 0, "0 or more"),
            ("alpha", alpha, 0 <= alpha < 1, "0 to below 1"),
            ("eps", eps, eps > 0, "above 0"),
            ("burn_in", burn_in, burn_in >= 0, "0 or more"),
        ):
            if not fits:
                raise InputError(f"SGLD: expected {expected} for {name}, got {value:g}")
        defaults = {
            "lr": lr, "data_size": data_size, "temperature": temperature,
            "weight_decay": weight_decay, "preconditioner": preconditioner, "alpha": alpha,
            "eps": eps, "burn_in": burn_in, "seed": seed, "step": 0, "explores": False,
        }  # fmt: skip
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Do an update; returns the closure's loss, if there is one.

        A group that ``explores`` gets no noise: the first part of a cycle (see :func:`cycle_at`).
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for number, group in enumerate(self.param_groups):
            group["step"] += 1
            is_noisy = (
                not group["explores"] and group["step"] > group["burn_in"] and group["temperature"]
            )
            generators: dict[torch.device, torch.Generator] = {}
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                gain = self._move(weight, weight.grad, group)
                if is_noisy:
                    device = weight.device
                    if device not in generators:
                        seed = _seed(group["seed"], group["step"], number)
                        generators[device] = torch.Generator(device).manual_seed(seed)
                    # Drawn in float32, whatever the weight is: noise is smaller than its spacing.
                    noise = torch.empty(weight.shape, dtype=torch.float32, device=device)
                    noise.normal_(generator=generators[device])
                    scale = 2 * group["lr"] * group["temperature"] / group["data_size"]
                    noise *= math.sqrt(scale) if gain is None else (scale * gain).sqrt()
                    weight.add_(noise)
        return loss

    def _move(self, weight: Tensor, given: Tensor, group: dict[str, Any]) -> Tensor | None:
        """Follow the gradient; returns G, None where it is 1."""
        gradient = given.float() if given.dtype.itemsize < 4 else given
        drift = gradient + group["weight_decay"] * weight if group["weight_decay"] else gradient
        if group["preconditioner"] == "none":
            weight.add_(drift, alpha=-group["lr"])
            return None
        state = self.state[weight]
        if not state:
            state["square"] = torch.zeros_like(gradient)
        square: Tensor = state["square"]
        square.mul_(group["alpha"]).addcmul_(gradient, gradient, value=1 - group["alpha"])
        corrected = square / (1 - group["alpha"] ** group["step"])
        gain: Tensor = 1 / (corrected.sqrt() + group["eps"])
        weight.add_(gain * drift, alpha=-group["lr"])
        return gain


def cycle_at(
    updates: int, cycle: int, largest: float, exploration: float
) -> tuple[float, bool, bool]:
    r"""Return the learning rate of an update of cyclical SGLD, and what it is for.

    η_k = η_0/2 · (cos(π r) + 1), r = mod(k-1, C)/C (Zhang, Li, Zhang, Chen & Wilson 2020, eq. 1);
    while r < β the cycle explores without noise, then it samples; its last weights are the sample.

    Args:
        updates: done before this one, k - 1.
        cycle: C, updates of a cycle.
        largest: η_0.
        exploration: β, share of a cycle without noise, from 0 to below 1.

    Returns:
        The learning rate; whether it explores; whether a cycle has just ended, whose sample the
        weights before this update are.

    Raises:
        InputError: a number out of its range.

    Example:
        >>> cycle_at(200, cycle=200, largest=0.5, exploration=0.8)
        (0.5, True, True)
        >>> rate, explores, ended = cycle_at(399, cycle=200, largest=0.5, exploration=0.8)
        >>> f"{rate:.1e}", explores, ended
        ('3.1e-05', False, False)
    """
    if cycle < 1:
        raise InputError(f"expected a cycle of at least 1 update, got {cycle}")
    if not 0 <= exploration < 1:
        raise InputError(f"expected a share of exploration from 0 to below 1, got {exploration:g}")
    place = updates % cycle / cycle
    rate = largest / 2 * (math.cos(math.pi * place) + 1)
    return rate, place < exploration, updates > 0 and updates % cycle == 0


def _seed(seed: int, step: int, group: int) -> int:
    digest = hashlib.sha256(f"langevin/{seed}/{step}/{group}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
