"""Members of one checkpoint: what they compute, and that fairseq's programs take them."""

import json
import os
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.models.transformer import TransformerModel
from fairseq.models.transformer.transformer_legacy import base_architecture
from fairseq.modules import SinusoidalPositionalEmbedding

from seqdistill.cli.main import main
from seqdistill.teachers.cheap import draw_masks, find_sites, free_inputs, read_teacher
from seqdistill.teachers.cheap.dropout import sinusoids
from tests.plugins.corpus import USER_DIR, Corpus, logged, run, train
from tests.plugins.speech_corpus import SpeechCorpus
from tests.plugins.tiny_models import collate, tiny_dictionary

FORMS: dict[str, dict[str, Any]] = {
    "post-norm, all shared": {"share_all_embeddings": True},
    "pre-norm, nothing shared": {
        "encoder_normalize_before": True,
        "decoder_normalize_before": True,
    },
    "normalised embeddings": {
        "layernorm_embedding": True,
        "share_all_embeddings": True,
        "activation_fn": "gelu",
    },
    "learned positions": {
        "encoder_learned_pos": True,
        "decoder_learned_pos": True,
        "share_decoder_input_output_embed": True,
    },
    "no positions": {"no_token_positional_embeddings": True},
}


def build(settings: dict[str, Any], seed: int = 1) -> tuple[TransformerModel, Namespace]:
    """A random transformer of 3 + 2 layers with dropout of every kind but attention's."""
    args = Namespace(
        arch="transformer", task="translation", criterion="cross_entropy", optimizer="adam",
        encoder_layers=3, decoder_layers=2, encoder_embed_dim=16, decoder_embed_dim=16,
        encoder_ffn_embed_dim=24, decoder_ffn_embed_dim=24, encoder_attention_heads=2,
        decoder_attention_heads=2, dropout=0.3, activation_dropout=0.2, max_source_positions=12,
        max_target_positions=14,
    )  # fmt: skip
    for name, value in settings.items():
        setattr(args, name, value)
    base_architecture(args)
    torch.manual_seed(seed)
    dictionary = tiny_dictionary()
    task = SimpleNamespace(source_dictionary=dictionary, target_dictionary=dictionary)
    model = TransformerModel.build_model(args, task)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "bias" in name or "layer_norm" in name or "layernorm" in name:
                weight.add_(torch.randn_like(weight) * 0.3)  # biases are 0 in a new model
    return model.eval(), args


def save(path: Path, model: Any, args: Namespace) -> Path:
    torch.save(
        {
            "args": args,
            "model": model.state_dict(),
            "optimizer_history": [
                {
                    "criterion_name": "CrossEntropyCriterion",
                    "optimizer_name": "FairseqAdam",
                    "lr_scheduler_state": {},
                    "num_updates": 1,
                }
            ],
            "extra_state": {"train_iterator": {"epoch": 1}},
            "last_optimizer_state": {"big": torch.ones(1000)},
        },
        path,
    )
    return path


def load(path: Path) -> TransformerModel:
    """Build a member's model of nothing but its file, as fairseq does."""
    state = torch.load(path, weights_only=False)
    dictionary = tiny_dictionary()
    task = SimpleNamespace(source_dictionary=dictionary, target_dictionary=dictionary)
    model = TransformerModel.build_model(state["args"], task)
    model.load_state_dict(state["model"], strict=True)
    return model.eval()


def inputs() -> dict[str, torch.Tensor]:
    """Sentences of 11 and 3 tokens, so that one is padded."""
    dictionary = tiny_dictionary()
    generator = torch.Generator().manual_seed(0)

    def sentence(n: int) -> torch.Tensor:
        drawn = torch.randint(dictionary.nspecial, len(dictionary), (n,), generator=generator)
        return torch.cat([drawn, torch.tensor([dictionary.eos()])])

    batch = collate(dictionary, [sentence(10), sentence(2)], [sentence(5), sentence(12)])
    return batch["net_input"]


def mask_by_hooks(model: TransformerModel, masks: dict[str, torch.Tensor]) -> None:
    """Let the model's own dropout modules multiply by masks; written without the folding."""

    def multiply(module: Any, names: list[str]) -> None:
        calls = [0]

        def hook(_: Any, given: Any, output: torch.Tensor) -> torch.Tensor:
            name = names[calls[0] % len(names)]
            calls[0] += 1
            return output * masks[name] if name in masks else output

        module.register_forward_hook(hook)

    for side in ("encoder", "decoder"):
        stack = getattr(model, side)
        multiply(stack.dropout_module, [f"{side}.embedding"])
        layers = "transformer_layers" if hasattr(stack, "transformer_layers") else "layers"
        for number, layer in enumerate(getattr(stack, layers)):
            prefix = f"{side}.{layers}.{number}."
            parts = (
                ["self_attn", "fc2"] if side == "encoder" else ["self_attn", "encoder_attn", "fc2"]
            )
            multiply(layer.dropout_module, [prefix + part for part in parts])
            multiply(layer.activation_dropout_module, [prefix + "activation"])


@pytest.mark.parametrize("form", FORMS)
def test_a_dropout_member_is_the_model_under_its_mask(tmp_path: Path, form: str) -> None:
    model, args = build(FORMS[form])
    path = save(tmp_path / "teacher.pt", model, args)
    status = main(["members", "dropout", str(path), "--count", "2", "--seed", "7",
                   "--output", str(tmp_path / "members")])  # fmt: skip
    assert status == 0
    plain = model(**inputs())[0]
    sites, missing = find_sites(free_inputs(read_teacher(path)))
    assert missing == []
    assert len(sites) == 2 + 3 * 3 + 2 * 4
    outputs = []
    for member in (1, 2):
        masked, _ = build(FORMS[form])
        mask_by_hooks(masked, draw_masks(sites, seed=7, member=member))
        expected = masked(**inputs())[0]
        outputs.append(load(tmp_path / "members" / f"member{member}.pt")(**inputs())[0])
        torch.testing.assert_close(outputs[-1], expected, atol=2e-5, rtol=2e-5)
        assert (expected - plain).abs().max() > 0.1
    assert (outputs[0] - outputs[1]).abs().max() > 0.1


def test_a_member_decodes_step_by_step_as_it_scores(tmp_path: Path) -> None:
    # Sinusoids become a table, which counts positions by itself in incremental decoding.
    model, args = build(FORMS["post-norm, all shared"])
    path = save(tmp_path / "teacher.pt", model, args)
    main(["members", "dropout", str(path), "--count", "1", "--output", str(tmp_path / "m")])
    member = load(tmp_path / "m" / "member1.pt")
    given = inputs()
    whole = member(**given)[0]
    encoded = member.encoder(given["src_tokens"], given["src_lengths"])
    state: dict[str, Any] = {}
    for t in range(1, 7):  # the shorter target has 6 tokens; what follows is padding
        step = member.decoder(given["prev_output_tokens"][:, :t], encoded, state)[0]
        torch.testing.assert_close(step[:, -1], whole[:, t - 1], atol=1e-5, rtol=1e-5)


def test_kept_embeddings_stay_shared(tmp_path: Path) -> None:
    model, args = build(FORMS["post-norm, all shared"])
    path = save(tmp_path / "teacher.pt", model, args)
    main(["members", "dropout", str(path), "--keep-embeddings", "--rate", "0.5", "--count", "1",
          "--output", str(tmp_path / "m")])  # fmt: skip
    state = torch.load(tmp_path / "m" / "member1.pt", weights_only=False)
    weights = state["model"]
    tables = {weights[name].data_ptr() for name in weights if "embed_tokens" in name}
    assert tables == {weights["decoder.output_projection.weight"].data_ptr()}
    assert torch.equal(weights["encoder.embed_tokens.weight"], model.encoder.embed_tokens.weight)
    assert state["last_optimizer_state"] is None
    record = json.loads((tmp_path / "m" / "members.json").read_text())
    assert record["sites"]["encoder.layers.0.fc2"] == {"rate": 0.5, "units": 16}
    assert record["sites"]["encoder.layers.0.activation"] == {"rate": 0.2, "units": 24}
    assert [line.partition(":")[0] for line in record["not_folded"]] == [
        "encoder.embedding",
        "decoder.embedding",
    ]
    # Rows of the output that were dropped are gone, the others are scaled by 1/(1 - 0.5).
    name = "decoder.layers.1.encoder_attn.out_proj.weight"
    ratio = weights[name] / model.state_dict()[name]
    assert {float(r) for r in ratio[:, 0]} == {0.0, 2.0}


def test_attention_dropout_is_said_not_to_be_there(tmp_path: Path) -> None:
    model, args = build({"attention_dropout": 0.1})
    path = save(tmp_path / "teacher.pt", model, args)
    _, missing = find_sites(free_inputs(read_teacher(path)))
    assert missing == ["attention: its dropout (0.1) is of pairs of positions, not of units"]


def test_the_table_of_positions_is_fairseqs() -> None:
    for width in (16, 15):
        expected = SinusoidalPositionalEmbedding.get_embedding(40, width, 1)
        torch.testing.assert_close(sinusoids(40, width), expected, atol=0, rtol=0)


@pytest.mark.parametrize("form", ["post-norm, all shared", "pre-norm, nothing shared"])
def test_a_layer_member_is_the_model_with_layers_left_out(tmp_path: Path, form: str) -> None:
    model, args = build(FORMS[form])
    path = save(tmp_path / "teacher.pt", model, args)
    main(["members", "layers", str(path), "--drop", "0.4", "--count", "6", "--seed", "2",
          "--output", str(tmp_path / "m")])  # fmt: skip
    record = json.loads((tmp_path / "m" / "members.json").read_text())
    drawn = [(m["encoder_layers"], m["decoder_layers"]) for m in record["members"]]
    assert len({str(one) for one in drawn}) == 6
    sizes = set()
    for about in record["members"]:
        skipping, _ = build(FORMS[form])
        for side in ("encoder", "decoder"):
            for number, layer in enumerate(getattr(skipping, side).layers):
                if number not in about[f"{side}_layers"]:
                    layer.register_forward_hook(
                        lambda _, given, output: (
                            (given[0], *output[1:]) if isinstance(output, tuple) else given[0]
                        )
                    )
        member = load(tmp_path / "m" / about["file"])
        assert len(member.encoder.layers) == len(about["encoder_layers"])
        torch.testing.assert_close(member(**inputs())[0], skipping(**inputs())[0])
        sizes.add((tmp_path / "m" / about["file"]).stat().st_size)
    assert len(sizes) > 1


def test_programs_of_fairseq_take_members(corpus: Corpus, tmp_path: Path) -> None:
    # dropout of the tiny teacher is 0.1; it has one layer on each side, so there is one structure.
    teacher = corpus.teachers[0]
    folder = tmp_path / "members"
    made = run("seqdistill", "members", "dropout", teacher, "--count", "3", "--output", folder)
    assert made.returncode == 0, made.stderr
    paths = sorted(folder.glob("*.pt"))
    # Stock fairseq reads a list of them as an ensemble.
    done = run(
        "fairseq-generate", corpus.data, "--user-dir", USER_DIR, "--path",
        os.pathsep.join(map(str, paths)), "--cpu", "--beam", "2", "--max-tokens", "200",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Generate test with beam=2" in done.stdout
    trained = train(
        corpus, tmp_path / "student", "--ensemble-paths", folder / "*.pt", "--criterion",
        "mean_kl", "--max-update", "2",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    assert len(logged(trained.stdout + trained.stderr, "train_inner")) == 2


def test_members_of_a_model_of_speech(speech: SpeechCorpus, tmp_path: Path) -> None:
    from fairseq import checkpoint_utils

    teacher = str(speech.teachers[0])
    main(["members", "dropout", teacher, "--rate", "0.3", "--count", "1",
          "--output", str(tmp_path / "m")])  # fmt: skip
    overrides = {"data": str(speech.data)}
    paths = [str(tmp_path / "m" / "member1.pt"), teacher]
    with torch.random.fork_rng():
        models, _, _ = checkpoint_utils.load_model_ensemble_and_task(paths, overrides)
    member, masked = (model.eval() for model in models)
    sites, missing = find_sites(free_inputs(read_teacher(teacher)), rate=0.3)
    assert missing == [
        "encoder.embedding: speech: what is masked is the sum of frames and computed positions"
    ]
    mask_by_hooks(masked, draw_masks(sites, seed=1, member=1))
    generator = torch.Generator().manual_seed(0)
    size = masked.encoder.subsample.conv_layers[0].in_channels
    given = {
        "src_tokens": torch.randn(2, 40, size, generator=generator),
        "src_lengths": torch.tensor([40, 32]),
        "prev_output_tokens": torch.tensor([[2, 4, 5], [2, 6, 1]]),
    }
    torch.testing.assert_close(member(**given)[0], masked(**given)[0], atol=2e-5, rtol=2e-5)


def test_members_are_the_same_again(tmp_path: Path) -> None:
    model, args = build({})
    path = save(tmp_path / "teacher.pt", model, args)
    for folder, count in (("a", 1), ("b", 2)):
        main(["members", "dropout", str(path), "--count", str(count),
              "--output", str(tmp_path / folder)])  # fmt: skip
    a, b = (json.loads((tmp_path / f / "members.json").read_text())["members"] for f in "ab")
    assert a[0] == b[0]
    assert b[0]["sha256"] != b[1]["sha256"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["layers", "TEACHER"], "trained without LayerDrop"),
        (["layers", "TEACHER", "--drop", "1"], "in (0, 1), got 1"),
        (["layers", "TEACHER", "--drop", "0.5", "--count", "22"], "only 21 different structures"),
        (["layers", "TEACHER", "--drop", "0.001", "--count", "20"], "all but certain"),
        (["dropout", "TEACHER", "--rate", "1.5"], "from 0 to below 1, got 1.5"),
        (["dropout", "nowhere.pt"], "no such checkpoint"),
        (["dropout", "DAMAGED"], "not a checkpoint, or one of torch before 1.6"),
        (["dropout", "EMPTY"], "found none; one of --deepspeed is made"),
        (["dropout", "OTHER"], "no layers of its encoder"),
    ],
)
def test_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    model, args = build({})
    files = {
        "TEACHER": save(tmp_path / "teacher.pt", model, args),
        "DAMAGED": tmp_path / "damaged.pt",
        "EMPTY": tmp_path / "empty.pt",
        "OTHER": tmp_path / "other.pt",
    }
    files["DAMAGED"].write_bytes(b"no checkpoint")
    torch.save({"args": args, "model": {}}, files["EMPTY"])
    torch.save({"args": args, "model": {"lstm.weight": torch.ones(2)}}, files["OTHER"])
    given = [str(files.get(word, word)) for word in arguments]
    assert main(["members", *given, "--output", str(tmp_path / "m")]) == 1
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "m").glob("*.pt"))


def test_other_files_are_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, args = build({})
    path = save(tmp_path / "teacher.pt", model, args)
    arguments = ["members", "dropout", str(path), "--count", "1", "--output"]
    assert main([*arguments, str(tmp_path)]) == 1  # the teacher's own folder
    assert "holds other files" in capsys.readouterr().err
    assert main([*arguments, str(tmp_path / "m")]) == 0
    assert main([*arguments, str(tmp_path / "m")]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main([*arguments, str(tmp_path / "m"), "--overwrite"]) == 0


def test_dropout_that_was_none_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, args = build({"dropout": 0.0, "activation_dropout": 0.0})
    path = save(tmp_path / "teacher.pt", model, args)
    assert main(["members", "dropout", str(path), "--output", str(tmp_path / "m")]) == 1
    assert "give --rate P" in capsys.readouterr().err
