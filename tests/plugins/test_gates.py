"""Gates on layers in fairseq's real training, and the members that are drawn from them."""

import json
from pathlib import Path

import pytest
import torch
from fairseq.data import Dictionary

from fairseq_plugins.generation.loading import load_models
from fairseq_plugins.teachers import load_translation_member
from tests.plugins.corpus import Corpus, logged, run, train
from tests.plugins.tiny_models import tiny_batch

DEEPER = (
    "--encoder-layers", "3", "--decoder-layers", "2", "--ensemble-paths", "",
    "--criterion", "gated_cross_entropy", "--layer-gates", "0.6",
)  # fmt: skip


def test_gates_are_learnt_and_members_drawn_from_them(corpus: Corpus, tmp_path: Path) -> None:
    # A strong prior: what moves the gates is their logits' gradient, which must arrive.
    result = train(
        corpus, tmp_path / "gated", *DEEPER, "--max-update", "4", "--gate-kl-weight", "0.1"
    )
    assert result.returncode == 0, result.stderr
    steps = logged(result.stdout + result.stderr, "train_inner")
    assert steps[0]["gate_kl"] == pytest.approx(0.0, abs=1e-4)
    assert steps[0]["gate_kept"] == pytest.approx(5 * 0.6, abs=1e-3)
    assert steps[-1]["gate_kl"] > 0
    path = tmp_path / "gated" / "checkpoint_last.pt"
    state = torch.load(path, weights_only=False)
    assert state["task_state"]["layer_gates"]["keep"] == 0.6
    logits = {name: w.item() for name, w in state["model"].items() if name.endswith("gate.logit")}
    assert len(logits) == 5
    start = torch.tensor(0.6).logit().item()
    assert all(abs(value - start) > 1e-3 for value in logits.values()), logits
    made = run("seqdistill", "members", "layers", path, "--count", "4", "--output", tmp_path / "m")
    assert made.returncode == 0, made.stderr
    record = json.loads((tmp_path / "m" / "members.json").read_text())
    assert record["from"] == "gates"
    expected = [torch.tensor(logits[f"encoder.layers.{n}.gate.logit"]).sigmoid() for n in range(3)]
    assert record["keep_probabilities"]["encoder"] == pytest.approx([p.item() for p in expected])
    # A gated model validates and decodes as its likeliest structure. With every gate closed but
    # those of a member's layers that is the member, which stock fairseq's task builds.
    (gated,) = load_models([str(path)], corpus.data, "en", "de").models
    dictionary = Dictionary.load(str(corpus.data / "dict.en.txt"))
    batch = tiny_batch(dictionary, [5, 2], with_target=True)["net_input"]
    for about in record["members"]:
        with torch.no_grad():
            for side in ("encoder", "decoder"):
                for number, layer in enumerate(getattr(gated, side).layers):
                    layer.gate.logit.fill_(1.0 if number in about[f"{side}_layers"] else -1.0)
        member = load_translation_member(
            str(tmp_path / "m" / about["file"]), dictionary, dictionary
        )
        torch.testing.assert_close(member.eval()(**batch)[0], gated(**batch)[0])
    refused = train(corpus, tmp_path / "s", "--ensemble-paths", f"{path}:{path}", "--criterion",
                    "mean_kl", "--max-update", "1")  # fmt: skip
    assert refused.returncode != 0
    assert "its layers have gates" in refused.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--layer-gates", "1.5"), "keeping a layer in (0, 1), got 1.5"),
        (("--gate-temperature", "0"), "temperature of gates above 0"),
        (("--criterion", "cross_entropy"), "needs --criterion gated_cross_entropy"),
    ],
)
def test_what_is_refused(
    corpus: Corpus, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    result = train(corpus, tmp_path, *DEEPER, "--max-update", "1", *options)
    assert result.returncode != 0
    assert message in result.stderr + result.stdout
