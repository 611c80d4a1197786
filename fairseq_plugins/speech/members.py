"""Whether a checkpoint of speech fits the data of a task."""

from typing import Any

from fairseq.data import Dictionary
from fairseq.data.audio.data_cfg import S2TDataConfig

from fairseq_plugins.teachers import check_vocabulary, compare_dictionaries
from seqdistill.errors import InputError


def check_speech_member(
    path: str, state: dict[str, Any], cfg: S2TDataConfig, dictionary: Dictionary
) -> None:
    """Raise an :class:`InputError` if a checkpoint does not fit a data folder.

    Args:
        path: the checkpoint's, for messages.
        state: its content.
        cfg: the folder's configuration.
        dictionary: of the pieces.
    """
    hint = (
        "prepare the data with the teachers' pieces (seqdistill prepare-speech --piece-model … "
        "--dictionary …)"
    )
    check_vocabulary(path, state, "decoder", dictionary, hint)
    compare_dictionaries(path, state, cfg.vocab_filename, dictionary, "target")
    weight = state["model"].get("encoder.subsample.conv_layers.0.weight")  # (channels, D, k)
    features = cfg.input_feat_per_channel * cfg.input_channels
    if weight is not None and weight.shape[1] != features:
        raise InputError(
            f"{path}: it reads {weight.shape[1]} features a frame, the data have {features}; "
            "teachers and student must read the same features"
        )
