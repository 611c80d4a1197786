"""S2T models: inert to padding, with features and CTC, and still fairseq's."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq import checkpoint_utils, tasks
from fairseq.models.speech_to_text.s2t_conformer import S2TConformerModel
from fairseq.models.speech_to_text.s2t_transformer import S2TTransformerModel

from fairseq_plugins.criterions.terms.ctc import ctc_loss
from fairseq_plugins.features import gives_features, step_projection, token_logits
from fairseq_plugins.speech.models import adapt
from tests.plugins.speech_corpus import SIZES, SpeechCorpus, model_arguments, save_teacher

CTC = ["--criterion", "mean_kl", "--ctc-weight", "0.3"]
CONFORMER = ["--arch", "s2t_conformer", *SIZES, "--depthwise-conv-kernel-size", "7"]
TRANSFORMER = ["--arch", "s2t_transformer", *SIZES]
CONVOLUTIONS_2D = ["--conv-version", "convtransformer", "--conv-out-channels", "8"]
KINDS = {
    "transformer": TRANSFORMER,
    "transformer-even-kernels": [*TRANSFORMER, "--conv-kernel-sizes", "4,4"],
    "transformer-2d": [*TRANSFORMER, *CONVOLUTIONS_2D],
    "conformer": CONFORMER,
    "conformer-2d": [*CONFORMER, *CONVOLUTIONS_2D],
    "conformer-relative": [*CONFORMER, "--attn-type", "espnet", "--pos-enc-type", "rel_pos"],
    "conformer-rotary": [*CONFORMER, "--attn-type", "espnet", "--pos-enc-type", "rope"],
}


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def build(speech: SpeechCorpus, options: list[str], seed: int = 3) -> Any:
    """A model as training builds it."""
    arguments = model_arguments(speech.data, *options)
    torch.manual_seed(seed)
    return tasks.setup_task(arguments).build_model(arguments)


def stock(speech: SpeechCorpus, options: list[str], seed: int = 3) -> Any:
    """The same by fairseq alone."""
    arguments = model_arguments(speech.data, *options)
    task = tasks.setup_task(arguments)
    arguments.input_feat_per_channel, arguments.input_channels = 80, 1
    torch.manual_seed(seed)
    of = S2TConformerModel if "s2t_conformer" in options else S2TTransformerModel
    return of.build_model(arguments, task)


def inputs(lengths: list[int], filling: float) -> dict[str, torch.Tensor]:
    """A batch whose padding holds ``filling``; sentence i is the same in every batch."""
    features = torch.full((len(lengths), max(lengths), 80), filling)
    for row, length in enumerate(lengths):
        generator = torch.Generator().manual_seed(length)
        features[row, :length] = torch.randn(length, 80, generator=generator)
    return {
        "src_tokens": features,
        "src_lengths": torch.tensor(lengths),
        "prev_output_tokens": torch.tensor([[2, 4, 5, 6]]).repeat(len(lengths), 1),
    }


LENGTHS = [8, 9, 10, 13, 31, 50, 51, 64]


def test_padding_changes_no_output(speech: SpeechCorpus, kind: str) -> None:
    model = build(speech, [*KINDS[kind], *CTC]).eval()
    with torch.no_grad():
        for length in LENGTHS:
            alone = model(**inputs([length], 0.0))[0][0]
            among = model(**inputs([90, length], 1e4))[0][1]
            torch.testing.assert_close(among, alone, rtol=0, atol=1e-5)


def test_padding_changes_no_loss_and_no_gradient(speech: SpeechCorpus, kind: str) -> None:
    """In training, a conformer's batch norm included: more padding, the same gradients."""

    def gradients(filling: int) -> list[torch.Tensor]:
        model = build(speech, [*KINDS[kind], *CTC]).train()
        given = inputs([30, 17, 24], 1e3)
        features = given["src_tokens"]
        given["src_tokens"] = torch.cat([features, torch.full((3, filling, 80), 1e3)], dim=1)
        logits, _ = model(**given)
        logits.log_softmax(-1)[..., 4].sum().backward()
        found = [p.grad for p in model.parameters() if p.grad is not None]
        running = [b for name, b in model.named_buffers() if "running" in name]
        return [*found, *running]

    for some, more in zip(gradients(0), gradients(23), strict=True):
        torch.testing.assert_close(more, some, rtol=1e-4, atol=1e-4)


# fairseq itself fails on even kernels: a frame more than its mask has.
@pytest.mark.parametrize("kind", [name for name in KINDS if "even" not in name])
def test_alone_they_are_fairseqs_own(speech: SpeechCorpus, kind: str) -> None:
    """Without padding nothing changes: names, weights and outputs are the stock model's."""
    model = build(speech, KINDS[kind]).eval()
    other = stock(speech, KINDS[kind]).eval()
    assert list(model.state_dict()) == list(other.state_dict())
    model.load_state_dict(other.state_dict())
    with torch.no_grad():
        given = inputs([64], 0.0)
        torch.testing.assert_close(model(**given)[0], other(**given)[0], rtol=0, atol=1e-6)


# fairseq's rotary attention computes in the precision that its training had.
@pytest.mark.parametrize("kind", [name for name in KINDS if "rotary" not in name])
def test_features_follow_a_model_into_its_precision(speech: SpeechCorpus, kind: str) -> None:
    """As with --ensemble-dtype bfloat16, or decoding with --fp16."""
    model = build(speech, KINDS[kind]).eval()
    given = inputs([40, 23], 0.0)
    with torch.no_grad():
        expected = model(**given)[0]
        half = model.bfloat16()(**given)[0]
    assert half.dtype == torch.bfloat16
    assert (half.float() - expected).abs().max() < 0.1 * expected.abs().max()


def test_features_and_their_projection_are_the_logits(speech: SpeechCorpus, kind: str) -> None:
    model = build(speech, KINDS[kind]).eval()
    assert gives_features(model)
    assert step_projection(model) is not None
    given = inputs([30, 17], 0.0)
    mask = torch.tensor([[True, True, True, False], [True, True, True, True]])
    with torch.no_grad():
        expected = model(**given)[0][mask]
        torch.testing.assert_close(token_logits(model, given, mask), expected)


def test_other_architectures_are_left_as_they_are(
    speech: SpeechCorpus, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = model_arguments(speech.data, "--arch", "convtransformer", "--encoder-layers", "1")
    model = tasks.setup_task(arguments).build_model(arguments)
    assert type(model).__name__ == "ConvTransformerModel"
    assert "is used as it is" in caplog.text
    assert not gives_features(model)


def test_a_conformer_gets_the_ctc_projection(speech: SpeechCorpus, tmp_path: Path) -> None:
    with_ctc = build(speech, [*CONFORMER, *CTC])
    assert with_ctc.encoder.ctc_proj.weight.shape == (10, 16)
    assert not hasattr(build(speech, CONFORMER).encoder, "ctc_proj")
    # And gets it back from its checkpoint.
    path = save_teacher(speech.data, 7, *CONFORMER, *CTC, name="conformer.pt")
    arguments = model_arguments(speech.data, *TRANSFORMER)
    (model,), _ = checkpoint_utils.load_model_ensemble(
        [str(path)], task=tasks.setup_task(arguments)
    )
    log_probs, frames = model.get_ctc_output((None, model(**inputs([30], 0.0))[1]), None)
    assert log_probs.shape == (8, 1, 10)
    assert frames.tolist() == [8]


def test_utterances_that_ctc_cannot_align_are_counted(speech: SpeechCorpus) -> None:
    """Two frames for four pieces; four frames are enough, but not if a piece is said twice."""
    model = build(speech, [*TRANSFORMER, *CTC]).eval()
    target = torch.tensor([[4, 5, 6, 2], [4, 5, 6, 2], [4, 4, 6, 2], [4, 2, 1, 1]])
    sample = {"target": target, "target_lengths": torch.tensor([4, 4, 4, 2])}
    with torch.no_grad():
        _, extra = model(**inputs([8, 16, 16, 8], 0.0))
        loss, logged = ctc_loss(model, extra, sample)
        log_probs, frames = model.get_ctc_output((None, extra), sample)
    each = torch.nn.functional.ctc_loss(
        log_probs, target, frames, sample["target_lengths"], reduction="none"
    )
    assert each.isinf().tolist() == [True, False, True, False]
    assert logged["ctc_impossible"] == 2
    torch.testing.assert_close(loss, each[~each.isinf()].sum())


def test_presets_are_fairseqs() -> None:
    from fairseq.models import ARCH_CONFIG_REGISTRY

    for name in ("s2t_transformer_xs", "s2t_transformer_s", "s2t_transformer_l", "s2t_conformer"):
        assert name in ARCH_CONFIG_REGISTRY


def test_adapt_twice_is_adapt_once(speech: SpeechCorpus) -> None:
    model = build(speech, CONFORMER)
    kind = type(model)
    assert type(adapt(model, Namespace(ctc_weight=0.0))) is kind
