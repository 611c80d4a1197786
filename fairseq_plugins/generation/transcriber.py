"""Audio in, hypotheses out: decoding speech without fairseq's command line."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from fairseq import utils
from fairseq.data.audio.feature_transforms import CompositeAudioFeatureTransform
from fairseq.dataclass.configs import GenerationConfig
from torch import Tensor

from fairseq_plugins.generation import build_uncertainty_generator, densities_for
from fairseq_plugins.generation.calibration import with_calibration
from fairseq_plugins.generation.conversion import text_decoder, to_hypotheses
from fairseq_plugins.generation.ensemble import estimator_of
from fairseq_plugins.speech.loading import load_speech_models
from seqdistill.hypotheses import Hypothesis, ModelInfo
from seqdistill.speech.features import load_features
from seqdistill.uncertainty.estimators import UncertaintyOptions


class Transcriber:
    """One or several fairseq checkpoints of speech, ready to transcribe audio.

    Args:
        paths: the checkpoints: an ensemble, one model, or one Dirichlet student.
        data: the folder of ``seqdistill prepare-speech``: pieces, normalisation, sampling rate.
        config_yaml: name of the configuration in it.
        beam: size of the beam.
        max_len: transcripts have at most as many pieces.
        predictive: overrides what a Dirichlet student decodes with, ``base`` or ``mean``.
        use_cpu: stay on the CPU where there is a GPU.
        options: measures and combination of the members; None: the defaults, PE.
        feature_density: a file of ``seqdistill fit-features``; None: no distances of features.
        calibration: a file of ``seqdistill calibrate``; None: the models' own probabilities.

    Raises:
        InputError: a file is missing or damaged, or models, data or options do not go together.

    Example:
        Transcripts and their uncertainty::

            transcriber = Transcriber(["student.pt"], "prepared")
            audio = ["a.flac", "b.flac"]
            batch = [(n, path, transcriber.read(path)) for n, path in enumerate(audio)]
            for hypothesis in transcriber.transcribe(batch):
                print(hypothesis.text, hypothesis.uncertainty["joint_total_uncertainty_pe"])
    """

    def __init__(
        self,
        paths: Sequence[str],
        data: str | Path,
        *,
        config_yaml: str = "config.yaml",
        beam: int = 5,
        max_len: int = 200,
        predictive: str | None = None,
        use_cpu: bool = False,
        options: UncertaintyOptions | None = None,
        feature_density: str | Path | None = None,
        calibration: str | Path | None = None,
    ) -> None:
        self._use_cuda = torch.cuda.is_available() and not use_cpu
        loaded = load_speech_models(
            paths, data, config_yaml, predictive=predictive, use_cuda=self._use_cuda
        )
        self.task, self.models = loaded.task, loaded.models
        options = with_calibration(options, calibration, self.models)
        self.model: ModelInfo = estimator_of(self.models, options).info
        # Not those of a training set: nothing is augmented.
        self._transforms = CompositeAudioFeatureTransform.from_config_dict(
            self.task.data_cfg.get_feature_transforms("transcribe", False)
        )
        densities = None
        if feature_density is not None:
            densities = densities_for(str(feature_density), self.models)
        settings = GenerationConfig(beam=beam, max_len_a=0.0, max_len_b=max_len)
        self._generator = build_uncertainty_generator(
            self.task, self.models, settings, options, densities=densities
        )
        self._text = text_decoder(self.task.target_dictionary, self.task.build_bpe(None))

    def read(self, path: str | Path) -> Tensor:
        """Return the features (frames, D) of an audio file, normalised as in training.

        Raises:
            InputError: it is missing, unreadable, or of another sampling rate.
        """
        cfg = self.task.data_cfg
        bins = cfg.input_feat_per_channel * cfg.input_channels
        features = load_features(str(path), rate=cfg.sample_rate, bins=bins)
        if self._transforms is not None:
            features = self._transforms(features)
        return torch.from_numpy(features).float()

    def transcribe(
        self, batch: Sequence[tuple[int, str, Tensor]], *, n_best: int = 1
    ) -> list[Hypothesis]:
        """Transcribe utterances together; returns their hypotheses in their order.

        Args:
            batch: number, name and features of each.
            n_best: how many hypotheses of each, up to the beam, best first.

        Raises:
            InputError: a model gave NaN.
        """
        if not batch:
            return []
        features = [one for _, _, one in batch]
        sample: dict[str, Any] = {
            "net_input": {
                "src_tokens": torch.nn.utils.rnn.pad_sequence(features, batch_first=True),
                "src_lengths": torch.tensor([len(one) for one in features]),
            },
            "utterances": [name for _, name, _ in batch],
        }
        if self._use_cuda:
            sample = utils.move_to_cuda(sample)
        found = to_hypotheses(
            sample,
            self._generator.generate(self.models, sample),
            range(len(batch)),
            dictionary=self.task.target_dictionary,
            target_text=self._text,
            n_best=n_best,
        )
        return [replace(one, id=batch[one.id][0]) for one in found]
