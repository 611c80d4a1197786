"""fairseq's S2T encoders read a batch's padding; its data set forgets its masks; audio is lost.

Each test fails once fairseq mends it: then the seam in fairseq_plugins/speech can go.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq import tasks
from fairseq.data.audio.audio_utils import get_fbank
from fairseq.data.audio.speech_to_text_dataset import SpeechToTextDatasetCreator
from fairseq.models.speech_to_text.s2t_transformer import S2TTransformerModel

from seqdistill.speech.features import load_features
from seqdistill.speech.manifest import Utterance, write_manifest
from tests.plugins.speech_corpus import RATE, model_arguments, write_audio, write_configuration


def test_company_changes_the_stock_models_output(tmp_path: Path) -> None:
    write_configuration(tmp_path)
    arguments = model_arguments(tmp_path)
    task = tasks.setup_task(arguments)
    arguments.input_feat_per_channel, arguments.input_channels = 80, 1
    torch.manual_seed(1)
    model = S2TTransformerModel.build_model(arguments, task).eval()
    features = torch.randn(1, 40, 80)
    padded = torch.zeros(2, 60, 80)  # zeros, as fairseq pads
    padded[0, :40] = features[0]
    padded[1] = torch.randn(60, 80)
    tokens = torch.tensor([[2, 4, 5]])
    with torch.no_grad():
        alone = model(features, torch.tensor([40]), tokens)[0][0]
        among = model(padded, torch.tensor([40, 60]), tokens.repeat(2, 1))[0][0]
    assert (alone - among).abs().max() > 1e-3


def test_the_stock_data_set_draws_other_masks_every_time(tmp_path: Path) -> None:
    write_configuration(tmp_path)
    features = np.random.default_rng(1).normal(size=(60, 80)).astype(np.float32)
    np.save(tmp_path / "a.npy", features)
    write_manifest(tmp_path / "train.tsv", [Utterance("a", str(tmp_path / "a.npy"), 60, "ONE")])
    task = tasks.setup_task(model_arguments(tmp_path))
    dataset = SpeechToTextDatasetCreator.from_tsv(
        str(tmp_path), task.data_cfg, "train", task.tgt_dict, None, None, True, 1, 1
    )
    dataset.set_epoch(1)
    drawn = [dataset[0].source for _ in range(8)]
    assert any(not torch.equal(drawn[0], other) for other in drawn)


def test_stock_audio_reading_needs_what_torchaudio_has_dropped(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    write_audio(path, np.random.default_rng(2).normal(0, 0.1, RATE).astype(np.float32))
    with pytest.raises(ImportError, match="torchaudio"):
        get_fbank(str(path))
    assert load_features(str(path), rate=RATE).shape == (98, 80)
