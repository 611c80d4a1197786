"""What is compared in decoding: fairseq's search, ours with every measure, the research code's way.

All sides search with the same models on the same batch, so they do the same steps and find the same
hypotheses; weights are random, and every hypothesis grows to the same length.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from fairseq.sequence_generator import EnsembleModel, SequenceGenerator
from torch import Tensor

from benchmarks.models import Architecture, Batch, random_batch, random_dictionary, random_model
from fairseq_plugins.generation.generator import UncertaintySequenceGenerator
from seqdistill.student import StudentHead
from seqdistill.uncertainty.estimators import UncertaintyOptions
from seqdistill.uncertainty.measures import available_measures

#: What the names in results mean.
MEANINGS = {
    "plain": "fairseq's own SequenceGenerator, no measures",
    "measures": "ours: the same search, every measure of tokens and sequences, PE and EP, that an "
    "ensemble has; of a student every closed form, official_* left out",
    "second_pass": "the research code's way: fairseq's search, then a second forward pass of every "
    "model over the hypotheses, all members' distributions stacked",
}

#: What the models hold by themselves: memory that a search adds nothing to.
STATES = "states"
STATES_MEANING = (
    "the decoders alone, step by step to the same length: encoder outputs and incremental states, "
    "no vocabulary"
)


@dataclass
class Decoding:
    """What a side searches with.

    Attributes:
        models: M fairseq models in evaluation mode; one with a Dirichlet head is a student.
        dictionary: of both sides.
        batch: B sources.
        beam: hypotheses searched and returned for each source.
        length: target positions, the end included.
    """

    models: list[Any]
    dictionary: Any
    batch: Batch
    beam: int
    length: int

    @classmethod
    def make(cls, settings: Mapping[str, Any]) -> "Decoding":
        """Return models and a batch with random weights and tokens.

        Args:
            settings: V, M (0: one Dirichlet student), B, beam, length, seed, and ``architecture``,
                the fields of :class:`~benchmarks.models.Architecture`.
        """
        architecture = Architecture(**settings["architecture"])
        dictionary = random_dictionary(settings["V"])
        length, seed = settings["length"], settings["seed"]
        models = [
            random_model(architecture, dictionary, length + 8, seed + m).eval()
            for m in range(max(1, settings["M"]))
        ]
        if not settings["M"]:
            models[0].student_head = StudentHead("dirichlet", offset=1.0)
        batch = random_batch(dictionary, settings["B"], length, seed)
        return cls(models, dictionary, batch, settings["beam"], length)

    def sides(self) -> dict[str, Callable[[], Any]]:
        """Return every side by name; a call returns the hypotheses of the batch."""
        return {
            "plain": lambda: self._search(SequenceGenerator),
            "measures": lambda: self._search(
                partial(UncertaintySequenceGenerator, options=self._options())
            ),
            "second_pass": self._second_pass,
        }

    def _options(self) -> UncertaintyOptions:
        if len(self.models) > 1:
            return UncertaintyOptions(("all",))
        closed = available_measures("dirichlet", samples=False)
        return UncertaintyOptions(tuple(n for n in closed if not n.startswith("official_")))

    @torch.no_grad()
    def states(self) -> None:
        """Do the decoders' steps of a search, and nothing of the search itself."""
        model = EnsembleModel(self.models).eval()
        source = self.batch.net_input
        order = torch.arange(len(source["src_tokens"])).repeat_interleave(self.beam)
        outputs = model.reorder_encoder_out(model.forward_encoder(source), order)
        states: list[dict[str, Any]] = [{} for _ in self.models]
        tokens = torch.full((len(order), self.length), self.dictionary.eos())
        for step in range(self.length):
            if step:
                rows = torch.arange(len(order))
                model.reorder_incremental_state(states, rows)
                outputs = model.reorder_encoder_out(outputs, rows)
            for m, one in enumerate(self.models):
                one.decoder(
                    tokens[:, : step + 1],
                    encoder_out=outputs[m],
                    incremental_state=states[m],
                    features_only=True,
                )

    def _search(self, generator: Any) -> Any:
        search = generator(
            self.models,
            self.dictionary,
            beam_size=self.beam,
            max_len_a=0,
            max_len_b=self.length - 1,
            # All go to the end: the sides' work must not depend on when a sentence happens to stop.
            min_len=self.length - 1,
        )
        source = {name: self.batch.net_input[name] for name in ("src_tokens", "src_lengths")}
        return search.generate(self.models, {"net_input": source})

    @torch.no_grad()
    def _second_pass(self) -> Any:
        found = self._search(SequenceGenerator)
        tokens = torch.stack([h["tokens"] for sentence in found for h in sentence])
        source = self.batch.net_input["src_tokens"].repeat_interleave(self.beam, 0)
        previous = tokens.roll(1, 1)
        previous[:, 0] = self.dictionary.eos()
        inputs = {
            "src_tokens": source,
            "src_lengths": torch.full((len(source),), source.shape[1]),
            "prev_output_tokens": previous,
        }
        stacked = torch.stack([model(**inputs)[0] for model in self.models], dim=2)
        return found, _stacked_measures(stacked)


def _stacked_measures(logits: Tensor) -> dict[str, Tensor]:
    """Return token measures (B, T) of (B, T, M, V) logits, the members all at once."""
    probs = torch.softmax(logits, -1)
    log_probs = torch.log_softmax(logits, -1)
    mean = probs.mean(2)
    total = -(mean * torch.log(mean + 1e-20)).sum(-1)
    data = -(probs * log_probs).sum(-1).mean(2)
    cross = -(mean * log_probs.mean(2)).sum(-1)
    return {"tu": total, "mi": total - data, "epkl": cross - data, "rmi": cross - total}
