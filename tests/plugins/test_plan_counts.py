"""The cost model's counts against real models of fairseq: parameters, operations, memory."""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.models.speech_to_text import s2t_transformer
from fairseq.models.speech_to_text.s2t_transformer import S2TTransformerModel
from fairseq.models.transformer import TransformerModel
from fairseq.models.transformer import transformer_legacy as legacy
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, mm_flop

import fairseq_plugins  # noqa: F401  (allows what checkpoints of fairseq hold)
from benchmarks.models import random_batch, random_dictionary
from benchmarks.timing import in_fresh_process
from seqdistill.errors import InputError
from seqdistill.kernels import MemberProjections, fused_distillation_loss
from seqdistill.planning import (
    PRESETS,
    Assumptions,
    Training,
    count_parameters,
    machine,
    memory,
    text_size,
)
from seqdistill.planning.activations import activation_bytes
from seqdistill.planning.checkpoints import checkpoint_size
from seqdistill.planning.flops import Batch, body_flops
from seqdistill.planning.fused import member_flops, student_flops
from seqdistill.planning.sizes import ModelSize, Stack

V = 500


def text_model(size: ModelSize, vocabulary: int = V, **more: Any) -> Any:
    """fairseq's transformer of a size."""
    dictionary = random_dictionary(vocabulary)
    args = Namespace(
        dropout=size.dropout,
        attention_dropout=size.attention_dropout,
        share_all_embeddings=size.sharing == "all",
        share_decoder_input_output_embed=size.sharing != "none",
        max_source_positions=256,
        max_target_positions=256,
        layernorm_embedding=size.layernorm_embedding,
        **more,
    )
    for side, stack in (("encoder", size.encoder), ("decoder", size.decoder)):
        for name, value in (
            ("layers", stack.layers),
            ("embed_dim", stack.width),
            ("ffn_embed_dim", stack.ffn),
            ("attention_heads", stack.heads),
            ("normalize_before", stack.normalize_before),
            ("learned_pos", stack.learned_positions > 0),
        ):
            setattr(args, f"{side}_{name}", value)
    legacy.base_architecture(args)
    task = SimpleNamespace(source_dictionary=dictionary, target_dictionary=dictionary)
    return TransformerModel.build_model(args, task), args


def speech_model(architecture: str, **more: Any) -> Any:
    """fairseq's S2T transformer of an architecture."""
    dictionary = random_dictionary(V)
    args = Namespace(
        input_feat_per_channel=80,
        max_source_positions=2_000,
        max_target_positions=256,
        tgt_dict_size=V,
        **more,
    )
    getattr(s2t_transformer, architecture)(args)
    task = SimpleNamespace(target_dictionary=dictionary)
    return S2TTransformerModel.build_model(args, task), args


def parameters_of(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """torch's counter. Attention by plain products: it does not count a CPU's fused kernel."""
    # Nor products that are added in place.
    mapping = {torch.ops.aten.addmm_: lambda _, a, b, **more: mm_flop(a, b)}
    counter = FlopCounterMode(display=False, custom_mapping=mapping)
    with sdpa_kernel(SDPBackend.MATH), counter:
        yield counter


SMALL = text_size(2, 64, 128, 4)
UNEQUAL = ModelSize(Stack(3, 64, 128, 4), Stack(2, 96, 160, 8), sharing="decoder")

TEXT = {
    "all shared": SMALL,
    "decoder shared": replace(SMALL, sharing="decoder"),
    "none shared": replace(SMALL, sharing="none"),
    "unequal": UNEQUAL,
    "normalised before": ModelSize(
        Stack(2, 64, 128, 4, normalize_before=True), Stack(1, 64, 128, 4, normalize_before=True)
    ),
    # fairseq's tables have one row more than positions, and one for padding.
    "learned positions": ModelSize(
        Stack(1, 64, 128, 4, learned_positions=258),
        Stack(1, 64, 128, 4, learned_positions=258),
        layernorm_embedding=True,
    ),
}


# --- parameters -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEXT)
def test_parameters_of_text(name: str) -> None:
    with torch.device("meta"):
        model, _ = text_model(TEXT[name])
    counted = count_parameters(TEXT[name], V)
    assert counted.total == parameters_of(model)
    assert counted.projection == model.decoder.output_projection.weight.numel()


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("transformer-base", "base_architecture"),
        ("transformer-big", "transformer_vaswani_wmt_en_de_big"),
        ("transformer-iwslt", "transformer_iwslt_de_en"),
    ],
)
def test_presets_of_text_are_fairseqs(name: str, architecture: str) -> None:
    args = Namespace(share_all_embeddings=True, max_source_positions=256, max_target_positions=256)
    getattr(legacy, architecture)(args)
    dictionary = random_dictionary(4_000)
    task = SimpleNamespace(source_dictionary=dictionary, target_dictionary=dictionary)
    with torch.device("meta"):
        model = TransformerModel.build_model(args, task)
    assert count_parameters(PRESETS[name], 4_000).total == parameters_of(model)
    assert PRESETS[name].dropout == args.dropout
    assert PRESETS[name].decoder.heads == args.decoder_attention_heads


@pytest.mark.parametrize("name", ["s2t-xs", "s2t-s", "s2t-m", "s2t-l"])
def test_presets_of_speech_are_fairseqs(name: str) -> None:
    with torch.device("meta"):
        model, _ = speech_model(name.replace("s2t-", "s2t_transformer_"))
    assert count_parameters(PRESETS[name], V).total == parameters_of(model)


# --- operations -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["all shared", "unequal", "normalised before"])
@pytest.mark.parametrize("lengths", [(3, 7, 11), (2, 9, 4)])
def test_operations_of_text(name: str, lengths: tuple[int, int, int]) -> None:
    sentences, source, target = lengths
    model, _ = text_model(TEXT[name])
    model.train()
    given = random_batch(random_dictionary(V), sentences, max(source, target), 1).net_input
    given["src_tokens"] = given["src_tokens"][:, :source]
    given["src_lengths"] = torch.full((sentences,), source)
    given["prev_output_tokens"] = given["prev_output_tokens"][:, :target]
    with counting() as forward:
        features = model(**given, features_only=True)[0]
    with counting() as backward:
        features.sum().backward()
    flops = body_flops(TEXT[name], Batch(sentences, source, target), V)
    assert forward.get_total_flops() == flops.forward
    assert backward.get_total_flops() == flops.backward


def test_operations_of_recomputed_layers() -> None:
    model, _ = text_model(SMALL, checkpoint_activations=True)
    given = random_batch(random_dictionary(V), 3, 8, 1).net_input
    with counting() as forward:
        features = model.train()(**given, features_only=True)[0]
    with counting() as backward:
        features.sum().backward()
    flops = body_flops(SMALL, Batch(3, 8, 8), V)
    assert forward.get_total_flops() == flops.forward
    assert backward.get_total_flops() == flops.backward + flops.recomputed


def test_operations_of_speech() -> None:
    model, _ = speech_model("s2t_transformer_xs")
    frames = torch.randn(2, 101, 80)
    previous = torch.randint(4, V, (2, 9))
    with counting() as forward:
        features = model.train().decoder(
            previous,
            encoder_out=model.encoder(frames, torch.tensor([101, 101])),
            features_only=True,
        )[0]
    with counting() as backward:
        features.sum().backward()
    flops = body_flops(PRESETS["s2t-xs"], Batch(2, 101, 9), V)
    assert forward.get_total_flops() == flops.forward
    assert backward.get_total_flops() == flops.backward


@pytest.mark.parametrize("M", [2, 5])
def test_operations_of_the_fused_loss(M: int) -> None:
    N, D = 24, SMALL.decoder.width
    features = torch.randn(N, D, requires_grad=True)
    weight = torch.randn(V, D, requires_grad=True)
    members = MemberProjections(
        [torch.randn(N, D) for _ in range(M)], [torch.randn(V, D) for _ in range(M)]
    )
    with counting() as counter:
        result = fused_distillation_loss(
            features, weight, members, backend="eager", chunk_tokens=10
        )
        result.loss_sum.backward()
    training = Training(SMALL, SMALL, M, V, N, 6, 6, machine("cpu"))
    assert counter.get_total_flops() == student_flops(training) + member_flops(training)


# --- memory ---------------------------------------------------------------------------------


def saved_bytes(model: Any, given: dict[str, Any]) -> int:
    """What autograd keeps of a forward pass, each storage once, parameters left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    held: dict[int, Any] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(**given, features_only=True)
    del output
    return sum(storage.nbytes() for storage in held.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("size", "B", "T"),
    [
        (text_size(2, 64, 256, 4), 4, 25),
        (replace(text_size(2, 64, 256, 4), dropout=0.0), 4, 25),
        (text_size(3, 128, 512, 4), 4, 40),
        (TEXT["normalised before"], 6, 20),
    ],
)
def test_what_the_backward_pass_needs(size: ModelSize, B: int, T: int, dtype: torch.dtype) -> None:
    model, _ = text_model(size)
    model.train().to(dtype)
    given = random_batch(random_dictionary(V), B, T, 1).net_input
    expected = activation_bytes(size, Batch(B, T, T), dtype.itemsize, on_cpu=True)
    assert expected.kept(False) == pytest.approx(saved_bytes(model, given), rel=0.03)


@pytest.mark.parametrize(
    "settings",
    [
        {"V": 20_000, "M": 2, "layers": 2, "width": 256, "ffn": 1024, "heads": 4, "sentences": 16},
        {"V": 1_000, "M": 2, "layers": 4, "width": 256, "ffn": 1024, "heads": 4, "sentences": 48},
    ],
)
def test_the_peak_of_a_real_training(
    settings: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Freed memory goes back to the system, so that what is resident is what tensors hold.
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
    given = {**settings, "length": 32, "updates": 2}
    measured = in_fresh_process("benchmarks.plan_run", given, 1)
    size = text_size(*(settings[name] for name in ("layers", "width", "ffn", "heads")))
    training = Training(
        size,
        size,
        settings["M"],
        settings["V"],
        settings["sentences"] * 32,
        32,
        32,
        machine("cpu"),
        precision="float32",
        teacher_precision="float32",
        assumptions=Assumptions(framework_gib=0, fragmentation=0),
    )
    assert memory(training).total == pytest.approx(measured["peak_bytes"], rel=0.15)


# --- checkpoints ----------------------------------------------------------------------------


def save(model: Any, args: Namespace, path: Path) -> str:
    torch.save({"args": args, "model": model.state_dict()}, path)
    return str(path)


@pytest.mark.parametrize("name", TEXT)
def test_sizes_of_text_are_read(name: str, tmp_path: Path) -> None:
    size = TEXT[name]
    found, vocabulary = checkpoint_size(save(*text_model(size), tmp_path / "model.pt"))
    if size.sharing != "all":
        size = replace(size, source_vocabulary=V)
    assert (found, vocabulary) == (size, V)
    # What the plug-ins have allowed for their own loading stays allowed.
    assert Namespace in torch.serialization.get_safe_globals()


def test_sizes_of_speech_are_read(tmp_path: Path) -> None:
    path = save(*speech_model("s2t_transformer_xs", ctc_weight=0.3), tmp_path / "model.pt")
    found, vocabulary = checkpoint_size(path)
    xs = PRESETS["s2t-xs"]
    assert (found.encoder, found.decoder, found.subsampler) == (
        xs.encoder,
        xs.decoder,
        xs.subsampler,
    )
    assert found.ctc
    assert vocabulary == V


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    model, args = text_model(SMALL)
    state = model.state_dict() | {"decoder.adapter.weight": torch.zeros(3)}
    torch.save({"args": args, "model": state}, tmp_path / "odd.pt")
    with pytest.raises(InputError, match=r"odd.pt: holds 199,427 parameters.*199,424"):
        checkpoint_size(str(tmp_path / "odd.pt"))


def test_a_checkpoint_that_runs_code_is_refused(tmp_path: Path) -> None:
    torch.save({"args": Namespace(), "model": {"x": Path("/")}}, tmp_path / "bad.pt")
    with pytest.raises(InputError, match="not on the allow-list"):
        checkpoint_size(str(tmp_path / "bad.pt"))
    (tmp_path / "short.pt").write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match=r"short\.pt"):
        checkpoint_size(str(tmp_path / "short.pt"))
    with pytest.raises(InputError, match="no such checkpoint"):
        checkpoint_size(str(tmp_path / "none.pt"))
