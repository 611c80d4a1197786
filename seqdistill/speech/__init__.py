"""Speech: from audio files to the filterbanks and manifests that models read.

Audio is decoded and verified (:mod:`.audio`), turned into log-mel filterbanks
(:mod:`.filterbanks`), and found again through a set's manifest (:mod:`.manifest`,
:mod:`.features`). soundfile and torchaudio are imported where they are used: whoever has text only
needs neither.
"""

from seqdistill.speech.audio import AudioError, read_audio
from seqdistill.speech.features import check_place, load_features
from seqdistill.speech.filterbanks import frame_count, log_mel_filterbanks
from seqdistill.speech.manifest import Utterance, read_manifest, write_manifest

__all__ = [
    "AudioError",
    "Utterance",
    "check_place",
    "frame_count",
    "load_features",
    "log_mel_filterbanks",
    "read_audio",
    "read_manifest",
    "write_manifest",
]
