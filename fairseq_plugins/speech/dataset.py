"""Speech as fairseq's S2T models read it: augmented the same whenever an epoch is gone through.

fairseq's own data set draws its SpecAugment masks from numpy's global state, so a resumed training
goes on with other masks, as does one with other loader processes; it reads audio with a part of
torchaudio that is gone; and it finds out in the middle of an epoch that a file is missing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq.data import ConcatDataset, Dictionary, FairseqDataset, data_utils
from fairseq.data.audio.data_cfg import S2TDataConfig
from fairseq.data.audio.feature_transforms import CompositeAudioFeatureTransform
from fairseq.data.audio.speech_to_text_dataset import (
    SpeechToTextDataset,
    SpeechToTextDatasetItem,
    _collate_frames,
)
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.speech.audio import Array
from seqdistill.speech.features import check_place, load_features
from seqdistill.speech.manifest import Utterance, read_manifest

#: What teachers may read in training: the student's augmented features, or clean ones.
TEACHER_FEATURES = ("augmented", "clean")


@dataclass
class SpeechItem(SpeechToTextDatasetItem):
    """An utterance.

    Attributes:
        name: its id in the manifest.
        transcript: its text in the manifest; None where the set has none.
        clean: (frames, D) its features without augmentation, where teachers are to have them.
    """

    name: str = ""
    transcript: str | None = None
    clean: Tensor | None = None


class SpeechDataset(SpeechToTextDataset):
    """A set of utterances.

    A batch is fairseq's, with ``utterances``, the ids, ``transcripts``, the texts as the manifest
    has them (None where the set has none), and, with clean features for the teachers,
    ``teacher_net_input``.

    Args:
        split: the set's name.
        is_train_split: whether its features are augmented.
        cfg: fairseq's configuration of the data folder.
        places: absolute places of the features, see :mod:`seqdistill.speech.features`.
        utterances: of the manifest, as many.
        seed: of the augmentation.
        with_clean: give the teachers features without augmentation.
        tgt_dict: of the pieces; not needed for a set without transcripts.
        **kwargs: what else ``SpeechToTextDataset`` takes.

    Raises:
        InputError: a place does not exist, or the configuration wants what is not done here.
    """

    def __init__(
        self,
        split: str,
        is_train_split: bool,
        cfg: S2TDataConfig,
        places: Sequence[str],
        utterances: Sequence[Utterance],
        *,
        seed: int,
        with_clean: bool = False,
        tgt_dict: Dictionary | None = None,
        **kwargs: Any,
    ) -> None:
        _check_configuration(cfg, split, is_train_split, with_clean)
        for place in places:
            check_place(place)
        has_texts = utterances[0].text is not None
        super().__init__(
            split,
            is_train_split,
            cfg,
            list(places),
            [utterance.n_frames for utterance in utterances],
            tgt_texts=[utterance.text for utterance in utterances] if has_texts else None,
            speakers=[utterance.speaker or "" for utterance in utterances],
            ids=[utterance.id for utterance in utterances],
            tgt_dict=tgt_dict if has_texts else None,
            **kwargs,
        )
        self.seed = seed
        self.clean_transforms = None
        if with_clean and is_train_split:
            self.clean_transforms = CompositeAudioFeatureTransform.from_config_dict(
                cfg.get_feature_transforms(split, False)
            )
        # Loader processes live for a whole training, and read the epoch from here.
        self._epoch = torch.ones((), dtype=torch.long)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Tell which epoch's augmentation is wanted."""
        super().set_epoch(epoch)
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> SpeechItem:
        """Return an utterance; its augmentation depends on seed, epoch and index alone."""
        with data_utils.numpy_seed(self.seed, int(self._epoch), int(index)):
            item = super().__getitem__(int(index))
        clean = None
        if self.clean_transforms is not None:
            clean = self.pack_frames(self._transformed(int(index), self.clean_transforms))
        text = None if self.tgt_texts is None else self.tgt_texts[index]
        given = (item.index, item.source, item.target, item.speaker_id)
        return SpeechItem(*given, self.ids[index], text, clean)

    def _get_source_audio(self, index: int | list[int]) -> Tensor:
        return self._transformed(index, self.feature_transforms)

    def _transformed(self, index: int | list[int], transforms: Any) -> Tensor:
        """Return (frames, D) features of an utterance, or of several joined, transformed."""
        indices = [index] if isinstance(index, int) else index
        features = np.concatenate([self._read(int(one)) for one in indices])
        if transforms is not None:
            features = transforms(features)
        return torch.from_numpy(features).float()

    def _read(self, index: int) -> Array:
        place, frames = self.audio_paths[index], self.n_frames[index]
        bins = self.cfg.input_feat_per_channel * self.cfg.input_channels
        features = load_features(place, rate=self.cfg.sample_rate, bins=bins)
        if len(features) != frames:
            raise InputError(
                f"{place}: expected {frames} frames, as the manifest of {self.split} says, found "
                f"{len(features)}; prepare the data again"
            )
        return features

    def collater(self, samples: list[SpeechItem], return_order: bool = False) -> dict[str, Any]:
        """Return fairseq's batch, with the additions that the class describes."""
        if not samples:
            return {}
        sample: dict[str, Any] = super().collater(samples, return_order=True)
        order = sample["order"] if return_order else sample.pop("order")
        rows = [samples[row] for row in order.tolist()]
        # A collater may be given items of other sets, where sets are joined: nothing of self's.
        sample["utterances"] = [item.name for item in rows]
        sample["transcripts"] = [item.transcript for item in rows]
        if rows[0].clean is not None:
            frames = _collate_frames([item.clean for item in rows])
            sample["teacher_net_input"] = {**sample["net_input"], "src_tokens": frames}
        return sample


def load_speech(
    folder: str,
    cfg: S2TDataConfig,
    splits: str,
    *,
    is_train_split: bool,
    seed: int,
    with_clean: bool,
    **kwargs: Any,
) -> FairseqDataset:
    """Return the data set of one or several sets of a data folder.

    Args:
        folder: that ``seqdistill prepare-speech`` made, or one like it.
        cfg: its configuration.
        splits: names of sets, with commas between them.
        is_train_split: whether features are augmented.
        seed: of the augmentation.
        with_clean: give teachers features without augmentation.
        **kwargs: what else ``SpeechToTextDataset`` takes.

    Raises:
        InputError: a manifest or a file of features is missing or wrong.
    """
    if is_train_split and cfg.sampling_alpha != 1.0:
        raise InputError(
            f"{folder}: its configuration has sampling_alpha {cfg.sampling_alpha}; only 1, every "
            "utterance once an epoch, is possible here"
        )
    sets = []
    for split in splits.split(","):
        utterances = read_manifest(Path(folder) / f"{split}.tsv")
        places = [place_of(folder, cfg, utterance.audio) for utterance in utterances]
        sets.append(
            SpeechDataset(
                split,
                is_train_split,
                cfg,
                places,
                utterances,
                seed=seed,
                with_clean=with_clean,
                **kwargs,
            )
        )
    return sets[0] if len(sets) == 1 else ConcatDataset(sets)


def _check_configuration(
    cfg: S2TDataConfig, split: str, is_train_split: bool, with_clean: bool
) -> None:
    """Refuse settings that would be left out without a word, or fail within an epoch."""
    problem = None
    if cfg.use_audio_input:
        problem = "use_audio_input: expected a model of filterbanks, not of waveforms"
    elif cfg.get_waveform_transforms(split, is_train_split)["waveform_transforms"]:
        problem = (
            "waveform_transforms: features are made beforehand, so noise has to be in the audio; "
            "prepare noisy copies (seqdistill.speech.noise) instead"
        )
    elif with_clean and cfg.get_dataset_transforms(split, is_train_split)["dataset_transforms"]:
        problem = (
            "dataset_transforms: joined utterances have no clean features; leave them away, or "
            "--teacher-features clean"
        )
    if problem is not None:
        raise InputError(f"{cfg.root} ({split}): its configuration has {problem}")


def find_statistics(folder: str, cfg: S2TDataConfig) -> None:
    """See to it that a configuration's CMVN statistics are found where a data folder was moved.

    Args:
        folder: the data folder.
        cfg: its configuration; changed.

    Raises:
        InputError: it names statistics that are not there.
    """
    settings = cfg.config.get("global_cmvn") or {}
    path = settings.get("stats_npz_path")
    if path is None or Path(path).is_file():
        return
    inside = Path(folder) / Path(path).name
    if not inside.is_file():
        raise InputError(
            f"{path}: no such file, although the configuration in {folder} names it as global_cmvn"
        )
    settings["stats_npz_path"] = str(inside)


def place_of(folder: str, cfg: S2TDataConfig, audio: str) -> str:
    """Return the absolute place of a manifest's entry.

    An entry is relative to the configuration's ``audio_root``; where that is not there (any more),
    to the data folder: so a folder may be moved.
    """
    root = Path(cfg.audio_root)
    if not cfg.audio_root or not root.is_dir():
        root = Path(folder)
    return str(root.resolve() / audio)
