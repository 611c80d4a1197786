"""Parts of a student that are left as they are, and trainings in stages, by the real programs."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fairseq_plugins.freezing import freeze_parts, parameters_of
from seqdistill.errors import InputError
from tests.plugins.corpus import Corpus, train


def tied() -> nn.ModuleDict:
    """Two parts; ``b`` projects with the embedding of ``a``."""
    model = nn.ModuleDict({"a": nn.Embedding(5, 3), "b": nn.Linear(3, 5)})
    model["b"].weight = model["a"].weight
    return model


def trained_names(model: nn.Module, **options: str) -> set[str]:
    freeze_parts(model, SimpleNamespace(**{"freeze": None, "train_only": None, **options}))
    named = model.named_parameters(remove_duplicate=False)
    return {name for name, parameter in named if parameter.requires_grad}


def test_patterns_choose_and_shared_parameters_have_both_names() -> None:
    assert trained_names(tied()) == {"a.weight", "b.weight", "b.bias"}
    assert trained_names(tied(), freeze="a.*") == {"b.bias"}
    assert trained_names(tied(), freeze="b.bias") == {"a.weight", "b.weight"}
    assert trained_names(tied(), train_only="b.weight") == {"a.weight", "b.weight"}
    assert trained_names(tied(), train_only="b.bias, a.*") == {"a.weight", "b.weight", "b.bias"}
    assert [tuple(one.shape) for one in parameters_of(tied(), ["*.weight"])] == [(5, 3)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"freeze": "c.*"}, r"--freeze c\.\*: no parameter has such a name; they begin with a\.w"),
        ({"train_only": "b"}, r"--train-only b: no parameter has such a name"),
        ({"freeze": "*"}, "nothing is left to be trained"),
        ({"freeze": "a.*", "train_only": "b.*"}, "give one of them"),
    ],
)
def test_bad_patterns(options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        trained_names(tied(), **options)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model"]


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, weight in before.items() if not torch.equal(weight, after[name])}


def test_frozen_parts_of_a_real_training_stay_and_the_others_move(
    corpus: Corpus, tmp_path: Path
) -> None:
    """The fused loss, too, whose projection may be frozen; then a stage that frees all of it."""
    first = train(
        corpus, tmp_path / "first", "--criterion", "proxy_dirichlet", "--max-update", 3,
        "--student-init", 1, "--freeze", "encoder.*,decoder.embed_tokens.*,*.output_projection.*",
    )  # fmt: skip
    assert first.returncode == 0, first.stderr
    assert "parameters are trained" in first.stdout + first.stderr
    teacher = weights(corpus.teachers[0])
    once = weights(tmp_path / "first" / "checkpoint_last.pt")
    moved = changed(teacher, once)
    assert moved
    assert all(name.startswith("decoder.layers.") for name in moved)
    second = train(
        corpus, tmp_path / "second", "--criterion", "mean_kl", "--max-update", 3,
        "--student-init", tmp_path / "first" / "checkpoint_last.pt", "--train-only", "encoder.*",
    )  # fmt: skip
    assert second.returncode == 0, second.stderr
    twice = weights(tmp_path / "second" / "checkpoint_last.pt")
    moved = changed(once, twice)
    assert any(name.startswith("encoder.layers.") for name in moved)
    assert not any(name.startswith("decoder.layers.") for name in moved)
