"""``--boundary-weight``: sources moved to the student's decision boundary, read by all models."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from fairseq_plugins.criterions.batch import Batch, Distilled
from fairseq_plugins.criterions.terms.relational import models_here
from fairseq_plugins.criterions.terms.term import LossTerm, Sums, option_weight
from fairseq_plugins.features import gives_features, token_features
from fairseq_plugins.placement import Teachers
from seqdistill.errors import InputError
from seqdistill.losses.boundary import (
    choose_classes,
    choose_tokens,
    decision_margin,
    newton_share,
    steepest_words,
)


@dataclass
class BoundaryOptions:
    """Options of the term."""

    boundary_weight: float = field(
        default=0.0,
        metadata={
            "help": "weight of the same loss on boundary samples, sources moved to where the "
            "student's decision changes, added to the loss; 0 for none"
        },
    )
    boundary_steps: int = field(
        default=1, metadata={"help": "steps from a source to the student's boundary"}
    )
    boundary_reach: float = field(
        default=0.5, metadata={"help": "largest share of other words in a boundary sample"}
    )
    boundary_seed: int = field(
        default=1, metadata={"help": "of the decisions that boundary samples are made for"}
    )


@dataclass(frozen=True)
class Mixture:
    """What encoders read instead of a batch's words.

    Attributes:
        tokens: (B, S) the words.
        others: (B, S) those that are mixed in.
        share: (B) of the others; 0 is the batch as it is.
    """

    tokens: Tensor
    others: Tensor
    share: Tensor

    def embeddings(self, embed: Any) -> Tensor:
        """Return (B, S, D) by a model's own table."""
        here = embed(self.tokens)
        share = self.share[:, None, None].to(here.dtype)
        mixed: Tensor = here + share * (embed(self.others) - here)
        return mixed


class BoundarySamples(LossTerm):
    """Makes boundary samples, and lets the models read them.

    Args:
        weight: of the loss on them, above 0.
        steps: Newton steps to the boundary, each a forward and a backward pass of the student.
        reach: the largest share of other words.
        seed: of the decisions that are looked at.

    Raises:
        InputError: an option is impossible.
    """

    name = "boundary"
    needs_features = True

    def __init__(self, weight: float, steps: int, reach: float, seed: int) -> None:
        super().__init__(weight)
        if steps < 1:
            raise InputError(f"--boundary-steps: expected 1 or more, got {steps}")
        if not 0.0 < reach <= 1.0:
            raise InputError(f"--boundary-reach: expected a number in (0, 1], got {reach}")
        if seed < 0:
            raise InputError(f"--boundary-seed: expected 0 or more, got {seed}")
        self.steps, self.reach, self.seed = steps, reach, seed
        # In a list, where it is not taken for a part of this module.
        self._students: list[Any] = []
        self._given: Tensor | None = None
        self._mixture: Mixture | None = None

    @classmethod
    def from_options(cls, cfg: Any, task: Any) -> Self | None:
        """See :meth:`LossTerm.from_options`."""
        weight = option_weight(cfg, "boundary_weight")
        if not weight:
            return None
        return cls(weight, cfg.boundary_steps, cfg.boundary_reach, cfg.boundary_seed)

    def meet(self, student: Any, teachers: Teachers | None) -> None:
        """Set the hooks through which encoders read mixtures.

        Raises:
            InputError: there are no teachers here, or a model does not read embeddings.
        """
        models = models_here(teachers, "--boundary-weight", "teachers that read the samples")
        for model in (student, *models):
            encoder: Any = getattr(model, "encoder", None)
            if not gives_features(model) or not hasattr(encoder, "embed_tokens"):
                raise InputError(
                    f"--boundary-weight: a {type(model).__name__} does not read embeddings of "
                    "words; boundary samples are for transformers of text"
                )
            encoder.register_forward_pre_hook(self._read, with_kwargs=True)
        self._students = [student]

    def added(self, batch: Batch, distilled: Distilled) -> tuple[Tensor, Sums]:
        """Return the distillation loss of the batch's boundary sample."""
        mixture = self.sample(batch.sample, batch.token_mask, batch.update)
        with self.mixing(mixture):
            loss = distilled.again()
        return loss, {"boundary_loss": loss.detach(), "boundary_share": mixture.share.sum()}

    @classmethod
    def log(cls, sums: Sums) -> dict[str, tuple[float, float]]:
        """Return the metrics of a step; the share is a mean over sentences."""
        found = super().log(sums)
        if "boundary_share" in sums:
            found["boundary_share"] = sums["boundary_share"] / sums["nsentences"], 1
        return found

    def sample(self, sample: dict[str, Any], token_mask: Tensor, update: int) -> Mixture:
        """Return a batch's boundary sample.

        Args:
            sample: the batch.
            token_mask: (B, T) of the target's tokens.
            update: number of the update, for the random choices.

        Raises:
            InputError: teachers read another source, or parameters are in parts.
        """
        if sample.get("teacher_net_input"):
            raise InputError(
                "--boundary-weight: the samples are made of what the student reads, and the "
                "teachers read another source (--teacher-source clean); leave one of them away"
            )
        (student,) = self._students
        if any(hasattr(parameter, "ds_id") for parameter in student.parameters()):
            raise InputError(
                "--boundary-weight needs whole parameters, and ZeRO 3 keeps them in parts; take "
                "ZeRO 2 or less"
            )
        seeds = [self.seed, update, int(sample["id"][0])]
        generator = torch.Generator().manual_seed(
            int(np.random.SeedSequence(seeds).generate_state(1)[0])
        )
        was_training = student.training
        student.eval()  # dropout would make a decision of its own
        try:
            with torch.enable_grad():
                return self._find(student, sample["net_input"], token_mask, generator)
        finally:
            student.train(was_training)

    @contextmanager
    def mixing(self, mixture: Mixture) -> Iterator[None]:
        """Let encoders read a mixture inside."""
        self._mixture = mixture
        try:
            yield
        finally:
            self._mixture = None

    def _find(
        self, student: Any, net_input: dict[str, Any], token_mask: Tensor, generator: Any
    ) -> Mixture:
        tokens = net_input["src_tokens"]  # (B, S)
        table = student.encoder.embed_tokens
        chosen = choose_tokens(token_mask, generator)
        embeddings = table(tokens).detach().requires_grad_()
        self._given = embeddings
        try:
            logits = _logits(student, net_input, token_mask, chosen)
        finally:
            self._given = None
        base, other = choose_classes(logits, generator)
        margin = decision_margin(logits, base, other)
        (gradient,) = torch.autograd.grad(margin.sum(), embeddings)
        specials = student.encoder.dictionary.nspecial
        is_word = tokens >= specials  # (B, S)
        allowed = torch.arange(table.num_embeddings, device=tokens.device) >= specials
        words, slopes = steepest_words(gradient[is_word], tokens[is_word], table.weight, allowed)
        others = tokens.masked_scatter(is_word, words)
        slope = gradient.new_zeros(tokens.shape).masked_scatter(is_word, slopes).sum(dim=1)
        share = newton_share(torch.zeros_like(slope), margin.detach(), slope, self.reach)
        for _ in range(self.steps - 1):
            share = share.detach().requires_grad_()
            with self.mixing(Mixture(tokens, others, share)):
                logits = _logits(student, net_input, token_mask, chosen)
            margin = decision_margin(logits, base, other)
            (slope,) = torch.autograd.grad(margin.sum(), share)
            share = newton_share(share.detach(), margin.detach(), slope, self.reach)
        return Mixture(tokens, others, share.detach())

    def _read(self, module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if self._given is not None:
            return args, {**kwargs, "token_embeddings": self._given}
        if self._mixture is not None:
            mixed = self._mixture.embeddings(module.embed_tokens)
            return args, {**kwargs, "token_embeddings": mixed}
        return None


def _logits(student: Any, net_input: dict[str, Any], token_mask: Tensor, chosen: Tensor) -> Tensor:
    """Return (B, V) float32 at one counted token of each sentence."""
    given = token_features(student, net_input, token_mask)
    logits: Tensor = given.projection(given.features[chosen])
    return logits.float()
