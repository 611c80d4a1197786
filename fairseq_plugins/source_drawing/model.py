"""A fairseq language model that draws whole sentences."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq import checkpoint_utils
from fairseq.data import Dictionary
from fairseq.search import Sampling
from fairseq.sequence_generator import SequenceGenerator
from fairseq.tasks.language_modeling import LanguageModelingTask
from torch import Tensor

from fairseq_plugins.checkpoints import load_checkpoint
from fairseq_plugins.target_cache.corpus import take_gpu
from fairseq_plugins.teachers import check_vocabulary, compare_dictionaries, saved_setting
from seqdistill.errors import InputError
from seqdistill.targets.store.files import Array

#: Sentences that are drawn side by side.
BATCH = 256
#: Sentences that depend on one state of the random numbers: what a killed command draws again.
CHUNK = 1024

_SHARED = "language model and data must share one dictionary"


@dataclass(frozen=True)
class Draws:
    """How pieces are drawn.

    Attributes:
        temperature: of the model; below 1 likelier pieces are drawn more often.
        top_k: from the likeliest pieces alone; None: from all.
        top_p: from the likeliest pieces that have this probability together; None: from all.
        longest: pieces of a sentence; those that do not end by themselves are of no use.
        seed: of the random numbers.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    longest: int = 100
    seed: int = 1

    def check(self) -> None:
        """Check the numbers.

        Raises:
            InputError: one makes no sense.
        """
        if not 0 < self.temperature < math.inf:
            raise InputError(f"--temperature: expected a number above 0, got {self.temperature:g}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InputError(f"--top-p: expected a share, above 0 to 1, got {self.top_p:g}")


class SentenceModel:
    """A trained language model, ready to draw.

    Args:
        path: its checkpoint, of fairseq's task ``language_modeling``.
        dictionary: of the sentences.
        draws: how pieces are drawn.
        use_cpu: even where there is a GPU.

    Raises:
        InputError: a bad checkpoint, another kind of model, or another dictionary.
    """

    def __init__(
        self, path: str | Path, dictionary: Dictionary, draws: Draws, *, use_cpu: bool
    ) -> None:
        model, with_bos = _load(str(path), dictionary)
        self._device = "cuda" if take_gpu(use_cpu) else "cpu"
        self._models = [model.to(self._device)]
        self._begin = dictionary.bos() if with_bos else dictionary.eos()
        self._seed = draws.seed
        top_k = None if draws.top_k is None else min(draws.top_k, len(dictionary))
        self._generator = SequenceGenerator(
            self._models,
            dictionary,
            beam_size=1,
            max_len_b=draws.longest,
            unk_penalty=math.inf,
            temperature=draws.temperature,
            search_strategy=_Sampling(dictionary, top_k, draws.top_p),
            tokens_to_suppress=_empty_symbols(dictionary),
        )
        self.longest: int = min(draws.longest, self._generator.max_len - 1)

    def draw(self, chunk: int) -> list[Array]:
        """Return the sentences of a chunk, each with its end; the same whenever it is asked.

        Sentences that were cut have ``longest`` + 1 pieces.
        """
        # torch on the CPU has 32 bits of seed: both numbers are mixed into them.
        mixed = np.random.SeedSequence([self._seed, chunk]).generate_state(1)
        devices = [torch.cuda.current_device()] if self._device == "cuda" else []
        found: list[Array] = []
        with torch.random.fork_rng(devices):
            torch.manual_seed(int(mixed[0]))
            for _ in range(CHUNK // BATCH):
                # The generator wants a source: one that the model, a decoder alone, never sees.
                begins = torch.full((BATCH, 1), self._begin, device=self._device)
                sample = {"net_input": {"src_tokens": begins, "src_lengths": begins[:, 0] * 0 + 1}}
                drawn = self._generator.generate(self._models, sample, bos_token=self._begin)
                found += [one["tokens"].cpu().numpy() for (one,) in drawn]
        return found


class _Sampling(Sampling):
    """fairseq's sampling from what is left of a distribution when some pieces may not be drawn."""

    def __init__(self, dictionary: Dictionary, top_k: int | None, top_p: float | None) -> None:
        super().__init__(dictionary, top_k or -1, top_p or -1.0)

    def step(self, step: int, lprobs: Tensor, *rest: Any, **more: Any) -> Any:
        """Draw the next piece of every sentence."""
        # Made a distribution again: a share of it is what --top-p means, and where a sentence has
        # to end the only piece that is left may have too small a probability to be drawn at all.
        return super().step(step, lprobs.softmax(dim=-1).log(), *rest, **more)


def _empty_symbols(dictionary: Dictionary) -> list[str]:
    """Return the symbols that stand for no text; padding and unknown words fairseq excludes."""
    padding = [one for one in dictionary.symbols if one.startswith("madeupword")]
    return [dictionary[dictionary.bos()], *padding]


def _load(path: str, dictionary: Dictionary) -> tuple[Any, bool]:
    """Return a language model, and whether its sentences begin with a symbol of their own."""
    state = load_checkpoint(path)
    if saved_setting(state, "_name") != "language_modeling":
        raise InputError(
            f"{path}: a model of the task {saved_setting(state, '_name')}; give a language model, "
            "trained with --task language_modeling"
        )
    if any(saved_setting(state, f"{name}_target") for name in ("self", "past")):
        raise InputError(f"{path}: predicts more than the next piece; draw from one that does not")
    hint = "make the data of both with one --srcdict"
    check_vocabulary(path, state, "decoder", dictionary, hint, _SHARED)
    compare_dictionaries(path, state, "dict.txt", dictionary, "source", _SHARED)
    config = state["cfg"]["task"]
    task = LanguageModelingTask(config, dictionary)
    state.pop("task_state", None)
    models, _, _ = checkpoint_utils.load_model_ensemble_and_task([path], task=task, state=state)
    return models[0].requires_grad_(False).eval(), bool(saved_setting(state, "add_bos_token"))
