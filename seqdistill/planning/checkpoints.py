"""The size of a model, read from a fairseq checkpoint without building it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.planning.sizes import ModelSize, Stack, Subsampler, count_parameters
from seqdistill.safe_loading import explain, load_mapped

# What a state holds beside parameters.
_BUFFERS = re.compile(r"(^|\.)(version|_float_tensor|num_batches_tracked)$")


def checkpoint_size(path: str) -> tuple[ModelSize, int]:
    """Return the size of the model in a checkpoint, and its target vocabulary.

    Shapes come from the weights; heads, dropout and sharing from the configuration beside them.

    Args:
        path: a fairseq checkpoint; read under torch's safe loading.

    Raises:
        InputError: the file is missing or bad, or its model is no transformer that can be planned.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such checkpoint; give the path of a fairseq .pt file")
    try:
        state = load_mapped(path)
    except Exception as error:
        raise explain(error, path) from error
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise InputError(f"{path}: not a fairseq checkpoint (it has no 'model')")
    settings = _settings(state, path)
    weights = {
        name: value
        for name, value in state["model"].items()
        if isinstance(value, Tensor) and not _BUFFERS.search(name)
    }
    try:
        size, V = _size(weights, settings)
        held = _parameters(weights, size)
    except KeyError as error:
        raise InputError(
            f"{path}: has no {error}; sizes can be read of fairseq's transformer and "
            "s2t_transformer. Give the sizes themselves as LAYERS,WIDTH,FFN,HEADS"
        ) from error
    counted = count_parameters(size, V).total
    if held != counted:
        raise InputError(
            f"{path}: holds {held:,} parameters, a transformer of its sizes has {counted:,}; it is "
            "another kind of model. Give the sizes themselves as LAYERS,WIDTH,FFN,HEADS"
        )
    return size, V


def size_of_settings(settings: dict[str, Any]) -> ModelSize | None:
    """Return the size of the model that fairseq would build; None of another kind than planned.

    Args:
        settings: of the architecture, by fairseq's names, defaults filled in.
    """
    settings = _flat(settings)
    architecture = str(settings.get("arch") or settings.get("_name") or "")
    is_speech = architecture.startswith("s2t_transformer")
    if not is_speech and not architecture.startswith("transformer"):
        return None
    subsampler = None
    if is_speech:
        if settings.get("conv_version", "s2t_transformer") != "s2t_transformer":
            return None
        kernels = tuple(int(kernel) for kernel in str(settings["conv_kernel_sizes"]).split(","))
        features = int(settings.get("input_feat_per_channel", 80))
        subsampler = Subsampler(features, int(settings["conv_channels"]), kernels)
    try:
        encoder, decoder = (
            Stack(
                layers=int(settings[f"{side}_layers"]),
                width=int(settings[f"{side}_embed_dim"]),
                ffn=int(settings[f"{side}_ffn_embed_dim"]),
                heads=int(settings[f"{side}_attention_heads"]),
                normalize_before=bool(settings.get(f"{side}_normalize_before")),
            )
            for side in ("encoder", "decoder")
        )
    except KeyError:
        return None  # a model that is called a transformer, but has other settings
    return ModelSize(
        encoder,
        decoder,
        sharing=_sharing(settings, is_speech),
        subsampler=subsampler,
        layernorm_embedding=bool(settings.get("layernorm_embedding")),
        dropout=float(settings.get("dropout", 0.1)),
        attention_dropout=float(settings.get("attention_dropout") or 0.0),
        activation_dropout=float(settings.get("activation_dropout") or 0.0),
    )


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings by the names of the command line; Hydra has those of a side in one."""
    flat = dict(settings)
    for side in ("encoder", "decoder"):
        if isinstance(flat.get(side), Mapping):
            flat |= {f"{side}_{name}": value for name, value in flat.pop(side).items()}
    return flat


def _sharing(settings: dict[str, Any], is_speech: bool) -> str:
    if settings.get("share_all_embeddings") and not is_speech:
        return "all"
    return "decoder" if settings.get("share_decoder_input_output_embed") else "none"


def _settings(state: dict[str, Any], path: str) -> dict[str, Any]:
    config = state.get("cfg") or {}
    given = config.get("model") if isinstance(config, dict) else None
    given = given if given is not None else state.get("args")
    if given is None:
        raise InputError(f"{path}: has no configuration of its model ('cfg' or 'args')")
    return _flat(dict(given) if isinstance(given, dict) else dict(vars(given)))


def _size(weights: dict[str, Tensor], settings: dict[str, Any]) -> tuple[ModelSize, int]:
    subsampler = None
    if any(name.startswith("encoder.subsample.") for name in weights):
        shapes = _convolutions(weights)
        subsampler = Subsampler(
            features=shapes[0][1], channels=shapes[0][0], kernels=tuple(k for _, _, k in shapes)
        )
    layers = "transformer_layers" if subsampler is not None else "layers"
    encoder = _stack(weights, settings, "encoder", layers)
    decoder = _stack(weights, settings, "decoder", "layers")
    sharing = _sharing(settings, subsampler is not None)
    table = weights["decoder.embed_tokens.weight"]
    source = weights.get("encoder.embed_tokens.weight")
    dropout = float(settings.get("dropout", 0.1))
    # fairseq's own defaults of a transformer: none inside, unless they are set.
    size = ModelSize(
        encoder,
        decoder,
        sharing=sharing,
        subsampler=subsampler,
        ctc="encoder.ctc_proj.weight" in weights,
        layernorm_embedding="decoder.layernorm_embedding.weight" in weights,
        dropout=dropout,
        attention_dropout=float(settings.get("attention_dropout") or 0.0),
        activation_dropout=float(
            settings.get("activation_dropout") or settings.get("relu_dropout") or 0.0
        ),
        source_vocabulary=None if source is None or sharing == "all" else source.shape[0],
    )
    return size, int(table.shape[0])


def _stack(weights: dict[str, Tensor], settings: dict[str, Any], side: str, layers: str) -> Stack:
    numbers = {
        int(match[1])
        for name in weights
        if (match := re.match(rf"{side}\.{layers}\.(\d+)\.", name)) is not None
    }
    if not numbers:
        raise KeyError(f"{side}.{layers}")
    ffn, width = weights[f"{side}.{layers}.0.fc1.weight"].shape
    positions = weights.get(f"{side}.embed_positions.weight")
    return Stack(
        layers=len(numbers),
        width=int(width),
        ffn=int(ffn),
        heads=int(settings[f"{side}_attention_heads"]),
        normalize_before=f"{side}.layer_norm.weight" in weights,
        learned_positions=0 if positions is None else int(positions.shape[0]),
    )


def _convolutions(weights: dict[str, Tensor]) -> list[tuple[int, int, int]]:
    found: list[tuple[int, int, int]] = []
    while (name := f"encoder.subsample.conv_layers.{len(found)}.weight") in weights:
        outputs, inputs, kernel = weights[name].shape
        found.append((int(outputs), int(inputs), int(kernel)))
    if not found:
        raise KeyError("encoder.subsample.conv_layers.0.weight")
    return found


def _parameters(weights: dict[str, Tensor], size: ModelSize) -> int:
    """Count the parameters; tables that are one matrix in the model count once."""
    left_out = {"all": 2, "decoder": 1, "none": 0}[size.sharing]
    names = ["decoder.output_projection.weight", "encoder.embed_tokens.weight"]
    shared = set(names[:left_out] if size.sharing != "none" else [])
    return sum(value.numel() for name, value in weights.items() if name not in shared)
