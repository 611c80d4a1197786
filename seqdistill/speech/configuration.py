"""The configuration of a prepared folder, as fairseq's ``S2TDataConfig`` reads it."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqdistill.errors import InputError
from seqdistill.speech.extras import need

CONFIG, DICTIONARY, PIECE_MODEL, STATISTICS = "config.yaml", "dict.txt", "spm.model", "gcmvn.npz"
CMVN = ("utterance", "global", "none")

_INTEGERS = ("time_warp_W", "freq_mask_N", "freq_mask_F", "time_mask_N", "time_mask_T")
_NUMBERS = ("time_mask_p", "mask_value")


def _policy(freq_n: int, freq_f: int, time_n: int, time_t: int, share: float) -> dict[str, Any]:
    return {
        "time_warp_W": 0,
        "freq_mask_N": freq_n,
        "freq_mask_F": freq_f,
        "time_mask_N": time_n,
        "time_mask_T": time_t,
        "time_mask_p": share,
    }


#: Park et al., SpecAugment, Interspeech 2019, table 1: LibriSpeech basic and double, Switchboard
#: mild and strong. Without the time warp, as in fairseq: its gain is the smallest (section 5).
POLICIES = {
    "lb": _policy(1, 27, 1, 100, 1.0),
    "ld": _policy(2, 27, 2, 100, 1.0),
    "sm": _policy(2, 15, 2, 70, 0.2),
    "ss": _policy(2, 27, 2, 70, 0.2),
}


def resolve_policy(name: str, bins: int) -> dict[str, Any] | None:
    """Return a SpecAugment policy in fairseq's keys.

    Args:
        name: ``none``, a key of :data:`POLICIES`, or a YAML file with such keys.
        bins: of the filterbanks.

    Raises:
        InputError: the file is missing or says something else.
    """
    if name == "none":
        return None
    if name in POLICIES:
        return dict(POLICIES[name])
    yaml = need("yaml", "reading a SpecAugment policy")
    path = Path(name)
    if not path.is_file():
        raise InputError(
            f"--specaugment {name}: expected none, {', '.join(POLICIES)} or a YAML file, found no "
            "such file"
        )
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected YAML, found something else ({error})") from error
    if isinstance(values, Mapping) and isinstance(values.get("specaugment"), Mapping):
        values = values["specaugment"]
    return _checked(values, path, bins)


def _checked(values: Any, path: Path, bins: int) -> dict[str, Any]:
    known = (*_INTEGERS, *_NUMBERS)
    if not isinstance(values, Mapping) or not values:
        raise InputError(f"{path}: expected keys out of {', '.join(known)}")
    for key, value in values.items():
        if key not in known:
            raise InputError(f"{path}: expected keys out of {', '.join(known)}, found {key!r}")
        types: Any = int if key in _INTEGERS else (int, float)
        is_good = isinstance(value, types) and not isinstance(value, bool)
        if not is_good or (key != "mask_value" and value < 0):
            raise InputError(f"{path}: {key}: expected a number of at least 0, found {value!r}")
    policy = dict.fromkeys(_INTEGERS, 0) | {"time_mask_p": 0.0} | dict(values)
    for number, width, most in (
        ("freq_mask_N", "freq_mask_F", bins),
        ("time_mask_N", "time_mask_T", None),
    ):
        if policy[number] and (not policy[width] or (most is not None and policy[width] > most)):
            bound = "" if most is None else f", at most {most}"
            raise InputError(
                f"{path}: {number} is {policy[number]}, so {width} has to be at least 1{bound}; "
                f"found {policy[width]}"
            )
    if policy["time_mask_N"] and not 0 < policy["time_mask_p"] <= 1:
        raise InputError(
            f"{path}: time_mask_p: expected a share of the utterance, more than 0 and at most 1, "
            f"found {policy['time_mask_p']}"
        )
    if policy["time_warp_W"] and importlib.util.find_spec("cv2") is None:
        raise InputError(
            f"{path}: time_warp_W is {policy['time_warp_W']}, and fairseq warps with OpenCV, which "
            "is not installed here: pip install opencv-python-headless, or set it to 0"
        )
    return policy


def config_yaml(
    folder: Path, *, rate: int, bins: int, cmvn: str, specaugment: Mapping[str, Any] | None
) -> str:
    """Return the configuration.

    Args:
        folder: the prepared folder; ``audio_root`` is its absolute path.
        rate: samples a second.
        bins: of the filterbanks.
        cmvn: one of :data:`CMVN`.
        specaugment: a policy in fairseq's keys.
    """
    yaml = need("yaml", "writing the configuration")
    root = folder.resolve()
    always = [] if cmvn == "none" else [f"{cmvn}_cmvn"]
    training = [*always, *(["specaugment"] if specaugment else [])]
    config: dict[str, Any] = {
        "vocab_filename": DICTIONARY,
        "bpe_tokenizer": {"bpe": "sentencepiece", "sentencepiece_model": PIECE_MODEL},
        "input_feat_per_channel": bins,
        "input_channels": 1,
        "sample_rate": rate,
        "audio_root": str(root),
    }
    if training:
        config["feature_transforms"] = {"_train": training, "*": always}
    if cmvn == "global":
        # fairseq's transform opens this as it is: a relative path would be one of the process.
        config["global_cmvn"] = {"stats_npz_path": str(root / STATISTICS)}
    if specaugment:
        config["specaugment"] = dict(specaugment)
    text: str = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    return text
