"""A model of several checkpoints: mean weights that any program loads."""

from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.common.average import average, last_checkpoints, main
from seqdistill.errors import InputError


def checkpoint(folder: Path, epoch: int, weights: dict[str, Any], **more: Any) -> Path:
    path = folder / f"checkpoint{epoch}.pt"
    torch.save({"model": weights, "cfg": {"epoch": epoch}, **more}, path)
    return path


def test_weights_are_means(tmp_path: Path) -> None:
    for epoch, value in ((8, 100.0), (9, 1.0), (10, 2.0), (11, 6.0)):
        weights = {
            "w": torch.full((2, 3), value),
            "half": torch.tensor([value], dtype=torch.float16),
            "count": torch.tensor(epoch),
        }
        checkpoint(tmp_path, epoch, weights, last_optimizer_state={"w": torch.ones(2)})
    for other in ("checkpoint_best.pt", "checkpoint_last.pt", "checkpoint_3_7.pt"):
        (tmp_path / other).write_bytes(b"not read")
    assert main([str(tmp_path), "--last", "3", "--output", str(tmp_path / "averaged.pt")]) == 0
    state = torch.load(tmp_path / "averaged.pt", weights_only=True)
    assert state["model"]["w"].tolist() == [[3.0] * 3] * 2
    assert state["model"]["w"].dtype == torch.float32
    assert state["model"]["half"].dtype == torch.float16
    assert state["model"]["half"].item() == 3.0
    assert state["model"]["count"].item() == 11
    assert state["cfg"] == {"epoch": 11}
    assert "last_optimizer_state" not in state


def test_one_checkpoint_is_itself(tmp_path: Path) -> None:
    weights = {"w": torch.randn(5)}
    path = checkpoint(tmp_path, 1, weights)
    assert torch.equal(average([path])["model"]["w"], weights["w"])


def test_float32_is_summed_without_loss(tmp_path: Path) -> None:
    large, small = torch.tensor([2.0**24]), torch.tensor([1.0])
    paths = [checkpoint(tmp_path, n, {"w": w}) for n, w in enumerate([large, small, small, small])]
    # In float32 the small ones would vanish one by one: 2^24 + 1 = 2^24.
    # 4,194,304.75, rounded to the nearest half as float32 has them there.
    assert average(paths)["model"]["w"].item() == 4_194_305.0


def test_fewer_than_asked_are_averaged_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint(tmp_path, 2, {"w": torch.zeros(1)})
    checkpoint(tmp_path, 10, {"w": torch.ones(1)})
    assert [path.name for path in last_checkpoints(tmp_path, 1)] == ["checkpoint10.pt"]
    assert main([str(tmp_path), "--output", str(tmp_path / "a.pt")]) == 0
    told = capsys.readouterr().out
    assert "2 checkpoints (10 were asked for), checkpoint2.pt to checkpoint10.pt" in told


def test_what_cannot_be_averaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = ["--output", str(tmp_path / "a.pt")]
    (tmp_path / "checkpoint_best.pt").write_bytes(b"")
    assert main([str(tmp_path), *output]) == 1
    assert "expected checkpoints of epochs" in capsys.readouterr().err
    checkpoint(tmp_path, 1, {"w": torch.zeros(1)})
    second = checkpoint(tmp_path, 2, {"w": torch.zeros(2)})
    assert main([str(tmp_path), *output]) == 1
    assert "checkpoint2.pt: expected the weights of" in capsys.readouterr().err
    second.write_bytes(second.read_bytes()[:-40])
    with pytest.raises(InputError, match="truncated or damaged"):
        average([second])
    torch.save({"weights": 1}, second)
    with pytest.raises(InputError, match="it has no 'model'"):
        average([second])
    assert not (tmp_path / "a.pt").exists()
