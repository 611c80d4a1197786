"""Scored references whose best temperature is known."""

from dataclasses import replace

import numpy as np
import torch

from seqdistill.hypotheses import Hypothesis, Tempered
from seqdistill.uncertainty.second_reading import DEFAULT_TEMPERATURES, log_partitions
from tests.reference.hypothesis_sets import make_hypotheses

LENGTH = 8  # tokens a sentence


class Sharpened:
    """n sentences whose tokens are drawn from p, scored by p^sharpness: the best T is sharpness.

    Half of the tokens are easy, so the distributions differ in shape as those of real models do.
    """

    def __init__(self, n: int, sharpness: float, *, seed: int = 0, V: int = 300) -> None:
        random = np.random.default_rng(seed)
        logits = random.normal(0.0, 2.0, size=(n * LENGTH, V))
        logits[::2, 0] += 9.0
        self.truth = torch.log_softmax(torch.tensor(logits), dim=-1)
        uniform = torch.tensor(random.random((n * LENGTH, 1)))
        self.tokens = (self.truth.exp().cumsum(-1) < uniform).sum(-1).clamp_max(V - 1)
        self.log_probs = torch.log_softmax(sharpness * self.truth, dim=-1)

    def hypotheses(
        self, temperatures: tuple[float, ...] = DEFAULT_TEMPERATURES, kind: str = "softmax"
    ) -> list[Hypothesis]:
        base = make_hypotheses(1, kind=kind, forced=True)[0]
        picked = self.log_probs.gather(-1, self.tokens[:, None])[:, 0]
        confidence, best = self.log_probs.max(-1)
        partitions = log_partitions(self.log_probs, temperatures) if temperatures else None
        rows = []
        for number in range(len(self.tokens) // LENGTH):
            here = slice(number * LENGTH, (number + 1) * LENGTH)
            rows.append(
                replace(
                    base,
                    id=number,
                    tokens=self.tokens[here].tolist(),
                    token_log_probs=picked[here].tolist(),
                    token_confidence=confidence[here].exp().tolist(),
                    token_correct=(best == self.tokens)[here].tolist(),
                    token_uncertainty={},
                    tempered=None
                    if partitions is None
                    else Tempered(list(temperatures), partitions[:, here].tolist()),
                )
            )
        return rows

    def nll(self, temperature: float) -> float:
        log_probs = torch.log_softmax(self.log_probs / temperature, dim=-1)
        return -log_probs.gather(-1, self.tokens[:, None]).mean().item()
