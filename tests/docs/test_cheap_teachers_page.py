"""The page on cheap teachers has every option, with its default."""

from dataclasses import fields

import pytest
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterionConfig

from fairseq_plugins.criterions.gated_cross_entropy import GatedCrossEntropyConfig
from fairseq_plugins.sampling.optimizer import SgldConfig
from fairseq_plugins.sampling.schedule import CyclicalConfig
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "cheap-teachers.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("config", [SgldConfig, CyclicalConfig, GatedCrossEntropyConfig])
def test_every_option_is_on_the_page(config: type) -> None:
    stock = {field.name for field in fields(LabelSmoothedCrossEntropyCriterionConfig)}
    own = [
        field
        for field in fields(config)
        if field.name not in stock
        and not field.name.startswith("_")
        and not str(field.default).startswith("${")  # taken from another group of options
    ]
    assert own
    for field in own:
        option = "--" + field.name.replace("_", "-")
        if option in ("--sgld-data-size", "--cycle-updates"):
            shown = "must be given"
        else:
            shown = f"{field.default}".replace("1e-05", "1e-5").removesuffix(".0")
        assert f"| `{option}` | {shown} |" in PAGE or f"| `{option}` | `{shown}` |" in PAGE, (
            f"{option} {shown}"
        )
