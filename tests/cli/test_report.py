import html.parser
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from seqdistill.cli.main import main
from seqdistill.errors import InputError
from seqdistill.hypotheses import write_hypotheses
from seqdistill.report import ReportInput, SystemInput, render_report
from tests.reference.hypothesis_sets import make_hypotheses
from tests.reference.sharpened import Sharpened

QUICK = ("--bootstrap", "10", "--examples", "2")


class Page(html.parser.HTMLParser):
    """What a test wants to know of a page: it is well-formed, and what it refers to."""

    _VOID = ("meta", "br", "hr", "img", "link", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.references: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self._VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in ("src", "href", "xlink:href", "data", "srcset"):
                self.references.append(str(value))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self._VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def folders(systems: Path) -> list[str]:
    return [
        *("--system", f"ensemble={systems / 'ensemble'}"),
        *("--system", f"student={systems / 'student'}"),
    ]


@pytest.fixture(scope="module")
def page(systems: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    output = tmp_path_factory.mktemp("report") / "report.html"
    command = [
        sys.executable, "-W", "error", "-m", "seqdistill.cli.main", "report", *folders(systems),
        *QUICK, "--title", "Teachers & <student>", "--setting", "commit=1a2b3c",
        "--output", str(output),
    ]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == ""
    assert f"wrote {output}" in done.stderr
    return output.read_text(encoding="utf-8")


def test_page_is_well_formed_and_self_contained(page: str) -> None:
    parsed = Page(page)
    assert len(parsed.ids) == len(set(parsed.ids))
    # Everything referred to is on the page itself.
    assert all(reference.startswith("#") for reference in parsed.references)
    assert {reference[1:] for reference in parsed.references} <= set(parsed.ids)
    assert set(re.findall(r"url\(#([^)]*)\)", page)) <= set(parsed.ids)
    assert not re.search(r"@import|<script[^>]*\bsrc|url\((?!#)", page)
    outside = set(re.findall(r'https?://[^"\s<]+', page))
    assert all(address.startswith("http://www.w3.org/") for address in outside)


def test_page_has_every_part(page: str) -> None:
    parsed = Page(page)
    parts = (
        "quality", "detection", "roc", "distributions", "rejection", "reliability",
        "explorer", "sentences", "measures", "settings",
    )  # fmt: skip
    assert set(parts) <= set(parsed.ids)
    for text in (
        "Teachers &amp; &lt;student&gt;", "1a2b3c", "mutual_information", "smooth:exp",
        "bs:10|rs:0", "ensemble of 5, product of expectations", "binning:equal_mass",
        "prefers-color-scheme: dark",
    ):  # fmt: skip
        assert text in page, text
    # ROC, histograms, rejection, retention, reliability; these systems share no source, so that
    # there is no fidelity
    assert page.count('<svg class="plot"') == 2 + 2 * 2 + 2 + 2 + 2
    assert "#0101" not in page  # no stand-in colour is left
    assert "#0102" not in page
    assert 'class="token"' in page
    assert page.count("<li>") == 2 * 3 * 2  # systems, sets, examples


def test_a_manifest_gives_the_same_numbers_and_pages_repeat(
    systems: Path, tmp_path: Path, page: str
) -> None:
    manifest = {
        "title": "Teachers & <student>",
        "settings": {"commit": "1a2b3c"},
        "system": [
            {
                "name": name,
                "in_domain": f"{name}/in_domain.jsonl",
                "forced": f"{name}/forced.jsonl",
                "out_of_domain": {
                    "news": f"{name}/news.jsonl", "permuted": f"{name}/permuted.jsonl"
                },
            }
            for name in ("ensemble", "student")
        ],
    }  # fmt: skip
    path = systems / "report.json"
    path.write_text(json.dumps(manifest), encoding="utf-8")
    output = tmp_path / "report.html"
    assert main(["report", "--manifest", str(path), *QUICK, "--output", str(output)]) == 0
    assert output.read_text(encoding="utf-8") == page


def test_toml_manifest_with_further_scores(systems: Path, tmp_path: Path) -> None:
    manifest = systems / "report.toml"
    manifest.write_text(
        '[[system]]\nname = "only"\nin_domain = "student/permuted.jsonl"\n'
        'scores = { "sentences/s" = 3.25 }\n',
        encoding="utf-8",
    )
    output = tmp_path / "r.html"
    assert main(["report", "--manifest", str(manifest), *QUICK, "--output", str(output)]) == 0
    text = output.read_text(encoding="utf-8")
    # Without references, sets and forced texts there is less to show, and nothing made up.
    assert "sentences/s" in text
    assert "3.25" in text
    assert not {"detection", "roc", "rejection", "reliability"} & set(Page(text).ids)
    assert "BLEU" not in text


def test_systems_may_differ_in_sets_and_measures() -> None:
    systems = [
        SystemInput("one", make_hypotheses(12), {"news": make_hypotheses(9, seed=1)}),
        SystemInput(
            "two",
            make_hypotheses(12, kind="softmax"),
            {"medical": make_hypotheses(9, kind="softmax", seed=2)},
        ),
    ]
    page = render_report(ReportInput(systems, resamples=0))
    Page(page)
    assert page.count('<td class="absent">') > 0
    assert ">news</th>" in page
    assert ">medical</th>" in page
    with pytest.raises(InputError, match="must have different names, got one, one"):
        render_report(ReportInput([systems[0], systems[0]]))
    with pytest.raises(InputError, match="at least one system"):
        render_report(ReportInput([]))
    mixed = SystemInput("odd", systems[0].in_domain, systems[1].out_of_domain)
    with pytest.raises(InputError, match="system 'odd': expected the output of one model"):
        render_report(ReportInput([mixed]))


def test_files_of_a_single_system(systems: Path, tmp_path: Path) -> None:
    folder, output = systems / "student", tmp_path / "r.html"
    arguments = [
        "report", "--in-domain", str(folder / "in_domain.jsonl"),
        "--out-of-domain", f"press={folder / 'news.jsonl'}", "--measures", "inverse_precision",
        *QUICK, "--output", str(output),
    ]  # fmt: skip
    assert main(arguments) == 0
    text = output.read_text(encoding="utf-8")
    assert ">press<" in text
    assert "mutual_information" not in text


def test_a_validation_set_gives_a_temperature(tmp_path: Path) -> None:
    """From a folder, a manifest and single files: the same table."""
    folder = tmp_path / "one"
    for number, name in enumerate(("forced_validation", "forced", "in_domain")):
        made = Sharpened(20, 1.5, seed=number, V=60).hypotheses()
        if name == "in_domain":
            made = [replace(h, forced=False, score=-1.0) for h in made]
        write_hypotheses(folder / f"{name}.jsonl", made)
    entry = {name: f"one/{name}.jsonl" for name in ("in_domain", "forced", "forced_validation")}
    manifest = tmp_path / "report.json"
    manifest.write_text(json.dumps({"system": [{"name": "one", **entry}]}), encoding="utf-8")
    single = ["--name", "one"]
    for name in entry:
        single += ["--" + name.replace("_", "-"), str(folder / f"{name}.jsonl")]
    pages = []
    for given in (["--system", f"one={folder}"], ["--manifest", str(manifest)], single):
        output = tmp_path / f"{len(pages)}.html"
        assert main(["report", *given, *QUICK, "--output", str(output)]) == 0
        pages.append(output.read_text(encoding="utf-8"))
    assert pages[0] == pages[1] == pages[2]
    assert "T fitted on a validation set" in pages[0]
    assert "fit:[nll;forced_validation.jsonl;n:160;sents:20]" in pages[0]


def test_validation_sets_that_do_not_fit(
    systems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inside, forced = (str(systems / "student" / f"{n}.jsonl") for n in ("in_domain", "forced"))
    for more, message in (
        ([], "there are no scored references to assess"),
        (["--forced", forced], "fitted on the set that is assessed"),
    ):
        given = ["--in-domain", inside, "--forced-validation", forced, *more]
        assert main(["report", *given, "--output", str(tmp_path / "r.html")]) == 1
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        ([], 2, "expected one of --system, --manifest and --in-domain"),
        (["--system", "a=x", "--manifest", "m.toml"], 2, "expected one of"),
        (["--system", "folder"], 2, "expected NAME=FOLDER"),
        (["--name", "x"], 2, "belong to an --in-domain"),
        (["--system", "a=/nowhere"], 1, "/nowhere: no such folder"),
        (["--system", "a=."], 1, "there is no in_domain.jsonl"),
        (["--manifest", "m.toml"], 1, "m.toml: no such file"),
        (["--system", "a={ensemble}", "--measures", "bald"], 1, "unknown measure 'bald'"),
        (["--system", "a={ensemble}", "--setting", "x"], 2, "expected NAME=VALUE"),
        (["--system", "a={ensemble}", "--examples", "-1"], 1, "examples must be 0 or more"),
    ],
)
def test_unusable_options(
    systems: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    status: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    more = [word.replace("{ensemble}", str(systems / "ensemble")) for word in more]
    assert main(["report", *more, "--output", "r.html"]) == status
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title = ", "m.toml: "),
        ('title = "x"', "expected at least one [[system]]"),
        (
            'colour = "x"',
            "unknown key colour; known are groups, settings, system, title, training_text",
        ),
        ('[[system]]\nname = "a"', "system 1: expected a text 'in_domain', got None"),
        ('[[system]]\nname = "a"\nin_domain = "x"\nood = 1', "system 1: unknown key ood"),
        ('[[system]]\nname = "a"\nin_domain = "x"\nscores = {b = "c"}', "'b' must be a number"),
        ('[[system]]\nname = "a"\nin_domain = "x"\nout_of_domain = "c"', "must be a table"),
        ('[[system]]\nname = "a"\nin_domain = "x"', "x: no such file"),
    ],
)
def test_unusable_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    manifest = tmp_path / "m.toml"
    manifest.write_text(text, encoding="utf-8")
    output = str(tmp_path / "r.html")
    assert main(["report", "--manifest", str(manifest), "--output", output]) == 1
    assert message in capsys.readouterr().err


def test_refuses_to_overwrite_before_working(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "r.html"
    output.write_text("mine")
    assert main(["report", "--system", "a=/nowhere", "--output", str(output)]) == 1
    assert "pass --overwrite" in capsys.readouterr().err
    assert output.read_text() == "mine"
