"""What densities of features are fitted on: sentence pairs of text, or transcribed speech."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fairseq_plugins.generation.loading import load_models
from fairseq_plugins.speech.dataset import load_speech
from fairseq_plugins.speech.loading import load_speech_models
from fairseq_plugins.target_cache.corpus import CorpusPlace, collate, fits, make_batches
from seqdistill.errors import InputError


@dataclass(frozen=True)
class Corpus:
    """A data set and the sentences of it that are read.

    Attributes:
        name: for messages.
        dataset: fairseq's.
        sentences: their numbers.
    """

    name: str
    dataset: Any
    sentences: list[int]

    def batches(self, max_tokens: int, use_cuda: bool) -> Iterator[dict[str, Any]]:
        """Yield fairseq's batches, of sentences of like lengths.

        Args:
            max_tokens: of the longer side of a batch, padding counted.
            use_cuda: move them to the GPU.
        """
        for batch in make_batches(self.dataset, self.sentences, max_tokens):
            yield collate(self.dataset, batch, use_cuda)

    def drawn(self, count: int | None, seed: int) -> "Corpus":
        """Return the same with as many of its sentences, drawn at random; all where it has less."""
        if count is None or count >= len(self.sentences):
            return self
        drawn = np.random.default_rng(seed).permutation(len(self.sentences))[:count]
        chosen = [self.sentences[n] for n in sorted(drawn)]
        return Corpus(self.name, self.dataset, chosen)


class Corpora(Protocol):
    """Models, and the data that they can read.

    Attributes:
        models: in evaluation mode, on their device.
        pad: the target dictionary's padding.
    """

    models: list[Any]
    pad: int

    def corpus(self, folder: str, subset: str) -> Corpus:
        """Return a set of a data folder.

        Raises:
            InputError: there is none, it has no targets, or it is not of the models' pieces.
        """
        ...


class TextCorpora:
    """Models of translation and binarised text.

    Args:
        paths: the models' checkpoints.
        data: a data folder with their dictionaries.
        source: language; None: inferred from the folder.
        target: language; likewise.
        subset: of the folder, by which languages are inferred.
        use_cuda: move the models to the GPU.

    Raises:
        InputError: models or dictionaries are missing or do not fit.
    """

    def __init__(
        self,
        paths: Sequence[str],
        data: str,
        source: str | None,
        target: str | None,
        subset: str,
        use_cuda: bool,
    ) -> None:
        place = CorpusPlace.find(data, source, target, subset)
        self._data, self._languages = data, (place.source, place.target)
        loaded = load_models(paths, data, *self._languages, use_cuda=use_cuda)
        self._task, self.models = loaded.task, loaded.models
        self.pad = self._task.target_dictionary.pad()

    def corpus(self, folder: str, subset: str) -> Corpus:
        """Return a binarised set."""
        task, dataset = CorpusPlace.find(folder, *self._languages, subset).load()
        name = f"{folder} ({subset})"
        if dataset.tgt is None:
            raise InputError(f"{name}: no target side; preprocess it with both languages")
        for mine, other in (
            (self._task.source_dictionary, task.source_dictionary),
            (self._task.target_dictionary, task.target_dictionary),
        ):
            if mine != other:
                raise InputError(
                    f"{name}: its dictionaries are not those of {self._data}; preprocess it "
                    "with --srcdict and --tgtdict of that folder"
                )
        return Corpus(name, dataset, _readable(dataset, self.models))


class SpeechCorpora:
    """Models of speech and folders of ``seqdistill prepare-speech``; nothing is augmented.

    Args:
        paths: the models' checkpoints.
        data: a folder with their pieces.
        config_yaml: name of the configuration in it, and in others.
        use_cuda: move the models to the GPU.

    Raises:
        InputError: models or data are missing or do not fit.
    """

    def __init__(self, paths: Sequence[str], data: str, config_yaml: str, use_cuda: bool) -> None:
        self._data, self._config_yaml = data, config_yaml
        loaded = load_speech_models(paths, data, config_yaml, use_cuda=use_cuda)
        self._task, self.models = loaded.task, loaded.models
        self.pad = self._task.target_dictionary.pad()

    def corpus(self, folder: str, subset: str) -> Corpus:
        """Return a set of a prepared folder."""
        task = self._task if folder == self._data else self._task.sibling(data=folder)
        name = f"{folder} ({subset})"
        if task.target_dictionary != self._task.target_dictionary:
            raise InputError(
                f"{name}: its pieces are not those of {self._data}; prepare it with --piece-model "
                "and --dictionary of that folder"
            )
        dataset = load_speech(
            folder,
            task.data_cfg,
            subset,
            is_train_split=False,
            seed=0,
            with_clean=False,
            tgt_dict=task.target_dictionary,
            pre_tokenizer=task.build_tokenizer(None),
            bpe_tokenizer=task.build_bpe(None),
        )
        if getattr(dataset, "tgt_texts", True) is None:
            raise InputError(f"{name}: no transcripts; densities need a set that has them")
        return Corpus(name, dataset, _readable(dataset, self.models))


def _readable(dataset: Any, models: Sequence[Any]) -> list[int]:
    """Return the numbers of the sentences that no model finds too long."""
    limits = [model.max_positions() for model in models]
    sizes = ((n, *dataset.size(n)) for n in range(len(dataset)))
    return [n for n, source, target in sizes if fits(source, target, limits)]
