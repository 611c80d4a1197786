"""Distances of features, from the fit on binarised text to the hypotheses that carry them."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fairseq.models.lstm import LSTMModel

from fairseq_plugins.features import require_features
from fairseq_plugins.generation import (
    AlignedUncertaintySequenceGenerator,
    UncertaintyScorer,
    UncertaintySequenceGenerator,
)
from fairseq_plugins.generation.loading import load_models
from fairseq_plugins.target_cache.corpus import CorpusPlace
from seqdistill.cli.main import main
from seqdistill.errors import InputError
from seqdistill.uncertainty.densities import FeatureMoments, ModelDensity
from seqdistill.uncertainty.density_files import read_densities
from seqdistill.uncertainty.fitted_files import weight_sample
from tests.plugins.corpus import Corpus, run, save_teacher
from tests.plugins.tiny_models import collate, tiny_batch, tiny_dictionary, tiny_model
from tests.reference import densities as reference

pytestmark = [
    pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask"),
    pytest.mark.filterwarnings("ignore::UserWarning:hydra"),
]

DICTIONARY = tiny_dictionary()
PAD, EOS = DICTIONARY.pad(), DICTIONARY.eos()
LENGTHS = [1, 9, 3, 5, 2, 7]
MEASURES = [
    f"{kind}mahalanobis_{side}" for kind in ("", "relative_") for side in ("encoder", "decoder")
]


def hidden_means(model: Any, source: torch.Tensor, target: torch.Tensor) -> dict[str, Any]:
    """Mean encoder output and mean decoder feature of one pair, by itself, in float64."""
    hidden: list[torch.Tensor] = []
    handle = model.decoder.output_projection.register_forward_pre_hook(
        lambda _, given: hidden.append(given[0])
    )
    shifted = torch.cat([target[-1:], target[:-1]])
    with torch.no_grad():
        encoded = model.encoder(source[None], torch.tensor([len(source)]))["encoder_out"][0]
        model(source[None], torch.tensor([len(source)]), shifted[None])
    handle.remove()
    return {
        "encoder": encoded[:, 0].double().mean(dim=0).numpy(),
        "decoder": hidden[0][0].double().mean(dim=0).numpy(),
    }


def random_density(model: Any, seed: int) -> ModelDensity:
    """Gaussians near the model's features, but not fitted on them."""
    generator = torch.Generator().manual_seed(seed)
    sides: list[dict[str, Any]] = []
    for _ in range(2):
        of_sides = {}
        for side in ("encoder", "decoder"):
            moments = FeatureMoments()
            moments.add(torch.randn(80, 16, generator=generator, dtype=torch.float64))
            of_sides[side] = moments.density()
        sides.append(of_sides)
    return ModelDensity(f"{seed}.pt", weight_sample(model.parameters()), *sides)


def expected_distances(
    models: list[Any], densities: list[ModelDensity], source: torch.Tensor, target: torch.Tensor
) -> dict[str, float]:
    found: dict[str, list[float]] = {name: [] for name in MEASURES}
    for model, density in zip(models, densities, strict=True):
        means = hidden_means(model, source, target)
        for side, row in means.items():
            near, far = (
                reference.squared_distance(row, g.mean.numpy(), g.covariance.numpy(), g.shrinkage)
                for g in (density.in_domain[side], density.background[side])
            )
            found[f"mahalanobis_{side}"].append(near)
            found[f"relative_mahalanobis_{side}"].append(near - far)
    return {name: float(np.mean(values)) for name, values in found.items()}


def made(members: int) -> tuple[list[Any], list[ModelDensity]]:
    models = [tiny_model(seed, DICTIONARY) for seed in range(members)]
    return models, [random_density(model, seed) for seed, model in enumerate(models)]


def sources(sample: dict[str, Any]) -> list[torch.Tensor]:
    return [s[s != PAD] for s in sample["net_input"]["src_tokens"]]


def chosen(hypo: dict[str, Any]) -> dict[str, float]:
    return {name: hypo["uncertainty"][name] for name in MEASURES}


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("members", [1, 2])
def test_every_hypothesis_of_a_search(members: int, aligned: bool) -> None:
    models, densities = made(members)
    sample = tiny_batch(DICTIONARY, LENGTHS)
    kind = AlignedUncertaintySequenceGenerator if aligned else UncertaintySequenceGenerator
    settings: dict[str, Any] = {"beam_size": 3, "max_len_a": 1.2, "max_len_b": 5}
    if aligned:
        sample = tiny_batch(DICTIONARY, LENGTHS, with_target=True)
        settings["print_alignment"] = "hard"
    hypos = kind(models, DICTIONARY, densities=densities, **settings).generate(models, sample)
    plain = kind(models, DICTIONARY, **settings).generate(models, sample)
    for source, candidates, without in zip(sources(sample), hypos, plain, strict=True):
        assert len(candidates) == 3
        for hypo, same in zip(candidates, without, strict=True):
            expected = expected_distances(models, densities, source, hypo["tokens"])
            assert chosen(hypo) == pytest.approx(expected, rel=1e-4)
            # The search is not touched by it.
            assert hypo["tokens"].tolist() == same["tokens"].tolist()
            torch.testing.assert_close(hypo["score"], same["score"])
            kept = {n: v for n, v in hypo["uncertainty"].items() if n not in MEASURES}
            assert kept == pytest.approx(same["uncertainty"], rel=1e-5, abs=1e-6)


def test_behind_prefix_tokens() -> None:
    models, densities = made(2)
    sample = tiny_batch(DICTIONARY, LENGTHS)
    prefix = torch.full((len(LENGTHS), 3), PAD)
    prefix[:, 0], prefix[::2, 1], prefix[1, :] = 5, 7, torch.tensor([6, 8, 9])
    generator = UncertaintySequenceGenerator(
        models, DICTIONARY, densities=densities, beam_size=3, max_len_b=8
    )
    hypos = generator.generate(models, sample, prefix_tokens=prefix)
    for source, candidates in zip(sources(sample), hypos, strict=True):
        for hypo in candidates:
            expected = expected_distances(models, densities, source, hypo["tokens"])
            assert chosen(hypo) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("members", [1, 2])
def test_scored_targets_and_padding(members: int) -> None:
    models, densities = made(members)
    sample = tiny_batch(DICTIONARY, LENGTHS, with_target=True)
    scorer = UncertaintyScorer(DICTIONARY, densities=densities)
    together = [hypo for (hypo,) in scorer.generate(models, sample)]
    plain = UncertaintyScorer(DICTIONARY).generate(models, sample)
    for n, hypo in enumerate(together):
        source, target = sources(sample)[n], sample["target"][n]
        target = target[target != PAD]
        expected = expected_distances(models, densities, source, target)
        assert chosen(hypo) == pytest.approx(expected, rel=1e-4)
        ((alone,),) = scorer.generate(models, collate(DICTIONARY, [source], [target]))
        assert chosen(hypo) == pytest.approx(chosen(alone), rel=1e-4)
        torch.testing.assert_close(hypo["token_log_probs"], plain[n][0]["token_log_probs"])


def test_models_without_features(tmp_path: Path) -> None:
    class _Recurrent(torch.nn.Module):
        forward = LSTMModel.forward

    with pytest.raises(InputError, match="_Recurrent does not give its features"):
        require_features([_Recurrent()])


# --- the command lines ------------------------------------------------------------------------


def fit(corpus: Corpus, output: Path, *options: object, path: str | None = None) -> int:
    arguments = ["fit-features", corpus.data, "--path", path or corpus.ensemble_paths, "--cpu"]
    return main([str(a) for a in (*arguments, "--output", output, *options)])


def test_from_text_to_hypotheses(
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "both.density"
    background = ("--background", corpus.data, "--background-subset", "valid")
    assert fit(corpus, output, *background, "--max-tokens", 60) == 0
    shown = capsys.readouterr().err
    assert "teacher2.pt: background decoder, 8 sentences, 16 features, shrinkage" in shown
    first, _ = read_densities(output)
    assert first.in_domain["encoder"].count == 32

    # The fit by hand, sentence by sentence.
    loaded = load_models([str(p) for p in corpus.teachers], corpus.data, "en", "de")
    _, dataset = CorpusPlace(str(corpus.data), "en", "de", "train").load()
    pairs = [(dataset[n]["source"], dataset[n]["target"]) for n in range(32)]
    rows = [hidden_means(loaded.models[0], *pair) for pair in pairs]
    for side in ("encoder", "decoder"):
        mean, covariance = reference.sample_covariance(np.stack([row[side] for row in rows]))
        density = first.in_domain[side]
        np.testing.assert_allclose(density.mean, mean, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(density.covariance, covariance, rtol=1e-3, atol=1e-6)
        assert density.shrinkage == pytest.approx(reference.oas(covariance, 32), rel=1e-3)

    monkeypatch.setattr("sys.stdin", io.StringIO("w1 w2 w3\nw4\n"))
    models = ["--data", str(corpus.data), "-s", "en", "-t", "de", "--cpu", "--beam", "2"]
    alarm = ["--measure", "mahalanobis_encoder", "--threshold", "0"]
    density = ["--feature-density", str(output), "--uncertainty-measures", "entropy"]
    second = ["--path", str(corpus.teachers[1])]  # one of those that were fitted
    assert main(["translate", *second, *models, *density, *alarm]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["ood"] for record in records] == [True, True]
    assert all({"entropy", *MEASURES} == record["uncertainty"].keys() for record in records)

    # fairseq's own program, with a choice of measures, scoring what was translated.
    jsonl = tmp_path / "test.jsonl"
    done = run(
        "seqdistill-fairseq-generate", corpus.data, "--path", corpus.ensemble_paths, "--cpu",
        "--gen-subset", "test", "--beam", "2", "--nbest", "2", "--quiet",
        "--uncertainty-output", jsonl, "--feature-density", output,
        "--uncertainty-measures", "epkl",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in jsonl.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 16
    assert all({"epkl", *MEASURES} == line["uncertainty"].keys() for line in lines)
    one, two = lines[0]["uncertainty"], lines[1]["uncertainty"]
    assert one["mahalanobis_encoder"] == two["mahalanobis_encoder"]  # of one source
    assert one["mahalanobis_decoder"] != two["mahalanobis_decoder"]


def test_another_model_is_refused(
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "one.density"
    assert fit(corpus, output, "--max-sentences", 20, path=str(corpus.teachers[0])) == 0
    assert fit(corpus, output) == 1
    assert "pass --overwrite" in capsys.readouterr().err
    stranger = save_teacher(corpus.data, 9, "stranger.pt")
    monkeypatch.setattr("sys.stdin", io.StringIO("w1\n"))
    models = ["--path", str(stranger), "--data", str(corpus.data), "-s", "en", "-t", "de", "--cpu"]
    assert main(["translate", *models, "--feature-density", str(output)]) == 1
    assert "was fitted on teacher1.pt, whose weights are not" in capsys.readouterr().err
    assert main(["translate", *models, "--measure", "mahalanobis_decoder"]) == 2
    assert "mahalanobis_decoder needs --feature-density" in capsys.readouterr().err


def test_a_relative_measure_without_a_background(
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "one.density"
    teacher = str(corpus.teachers[0])
    assert fit(corpus, output, path=teacher) == 0
    monkeypatch.setattr("sys.stdin", io.StringIO("w1\n"))
    models = ["--path", teacher, "--data", str(corpus.data), "-s", "en", "-t", "de", "--cpu"]
    alarm = ["--measure", "relative_mahalanobis_encoder", "--threshold", "0"]
    assert main(["translate", *models, "--feature-density", str(output), *alarm]) == 1
    assert "fit the density with --background" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--max-sentences", 1), "at least 2 sentences, got 1"),
        (("--shrinkage", 2), "from 0 to 1, got 2"),
        (("--gen-subset", "nowhere"), "nowhere"),
        (("--shrinkage", 0, "--max-sentences", 10), "(train): the covariance of 10 sentences"),
    ],
)
def test_bad_input(
    corpus: Corpus,
    tmp_path: Path,
    options: tuple[object, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert fit(corpus, tmp_path / "x.density", *options, path=str(corpus.teachers[0])) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x.density").exists()


def test_the_draw_depends_on_the_seed_alone(corpus: Corpus, tmp_path: Path) -> None:
    means = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        output = tmp_path / f"{name}.density"
        options = ("--max-sentences", 12, "--seed", seed)
        assert fit(corpus, output, *options, path=str(corpus.teachers[0])) == 0
        (density,) = read_densities(output)
        assert density.in_domain["encoder"].count == 12
        means.append(density.in_domain["encoder"].mean)
    assert torch.equal(means[0], means[1])
    assert not torch.equal(means[0], means[2])
