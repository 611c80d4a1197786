"""The report in a real browser: sorted, filtered and walked through by keyboard, without a network.

Skipped where there is no Chromium.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seqdistill.hypotheses import Hypothesis
from seqdistill.report import ReportInput, SystemInput, write_report
from tests.cli.browser import Browser, find_browser
from tests.reference.hypothesis_sets import make_hypotheses

EXECUTABLE = find_browser()
pytestmark = pytest.mark.skipif(EXECUTABLE is None, reason="there is no Chromium")

MANY = 10_000
SIZE_LIMIT = 15_000_000  # bytes of a report of MANY sentences
HOSTILE = '</script><img src="http://example.org/x" onerror="window.broken = 1"> & "quotes"'


def make_systems(count: int) -> list[SystemInput]:
    systems = []
    for kind in ("ensemble", "dirichlet"):
        inside = make_hypotheses(count, kind=kind)
        inside = [
            replace(h, source=f"{HOSTILE if h.id == 3 else 'Sentence'} {h.id}") for h in inside
        ]
        outside = make_hypotheses(count // 2, kind=kind, difficulty=0.7, seed=1, references=False)
        systems.append(SystemInput(kind, inside, {"news": outside}))
    return systems


def longer(hypothesis: Hypothesis) -> Hypothesis:
    """The same four times over: about 26 tokens, as in news."""
    return replace(
        hypothesis,
        text=" ".join([hypothesis.text] * 4),
        source=" ".join([f"{hypothesis.source} {hypothesis.id}"] * 4),
        reference=hypothesis.reference and " ".join([hypothesis.reference] * 4),
        tokens=hypothesis.tokens * 4,
        pieces=hypothesis.pieces * 4,
        token_log_probs=hypothesis.token_log_probs * 4,
        token_uncertainty={m: v * 4 for m, v in hypothesis.token_uncertainty.items()},
    )


@pytest.fixture(scope="module")
def systems() -> list[SystemInput]:
    return make_systems(120)


@pytest.fixture(scope="module")
def report(systems: list[SystemInput], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("browser") / "report.html"
    write_report(ReportInput(systems, resamples=0, examples=2), path)
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert EXECUTABLE is not None
    with Browser(EXECUTABLE, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, report: Path) -> Browser:
    """The page as it is after loading."""
    browser.open(report)
    return browser


def rows(page: Browser) -> list[list[str]]:
    """The cells of the rows drawn, in the order of the list."""
    found: list[list[str]] = json.loads(
        page.run(
            "JSON.stringify([...document.querySelectorAll('#explorer-space [role=row]')]"
            ".map((row) => [...row.children].map((cell) => cell.textContent)))"
        )
    )
    return found


def selected(page: Browser) -> int:
    """The place of the row that aria-activedescendant names; it is there and marked as selected."""
    place: int = page.run(
        "(() => { const row = document.getElementById("
        "document.getElementById('explorer-grid').getAttribute('aria-activedescendant'));"
        "return row.getAttribute('aria-selected') === 'true' ? Number(row.dataset.place) : -1; })()"
    )
    return place


def sorted_by(page: Browser) -> dict[str, str]:
    found: dict[str, str] = json.loads(
        page.run(
            "JSON.stringify(Object.fromEntries([...document.querySelectorAll('[data-key]')]"
            ".map((head) => [head.dataset.key, head.getAttribute('aria-sort')])))"
        )
    )
    return found


def choose(page: Browser, control: str, value: object) -> None:
    page.run(
        f"(() => {{ const control = document.getElementById('explorer-{control}');"
        f"control.value = {json.dumps(value)}; control.dispatchEvent(new Event('change')); }})()"
    )


def everything(system: SystemInput) -> list[tuple[str, Hypothesis]]:
    sets = {"in-domain": system.in_domain, **system.out_of_domain}
    return [(name, row) for name, found in sets.items() for row in found]


def test_nothing_is_asked_of_the_network_and_nothing_fails(page: Browser) -> None:
    asked = [
        event["params"]["request"]["url"]
        for event in page.events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert asked
    assert all(address.startswith("file:") for address in asked)
    assert not [e for e in page.events if e["method"] == "Runtime.exceptionThrown"]
    assert not [e for e in page.events if e["method"] == "Log.entryAdded"]
    assert page.run("window.broken") is None  # what a sentence says stays a text


@pytest.mark.parametrize("measure", ["total_uncertainty", "joint_reverse_mutual_information_pe"])
def test_any_measure_sorts(page: Browser, systems: list[SystemInput], measure: str) -> None:
    choose(page, "measure", measure)
    wanted = sorted(everything(systems[0]), key=lambda pair: -pair[1].uncertainty[measure])
    shown = rows(page)
    assert 10 < len(shown) < 40  # those in sight, and no more
    for cells, (name, row) in zip(shown, wanted, strict=False):
        assert cells[:2] == [str(row.id), name]
        assert float(cells[2]) == pytest.approx(row.uncertainty[measure], rel=6e-3)
        assert cells[5].split() == [*row.text.split(), "⏎"]
    assert sorted_by(page) == {
        "id": "none", "set": "none", "value": "descending", "quality": "none", "length": "none"
    }  # fmt: skip


def test_tokens_are_shaded_by_their_own_uncertainty(
    page: Browser, systems: list[SystemInput]
) -> None:
    choose(page, "measure", "epkl")
    _, row = max(everything(systems[0]), key=lambda pair: pair[1].uncertainty["epkl"])
    tokens = json.loads(
        page.run(
            "JSON.stringify([...document.querySelector('#explorer-space [data-place=\"0\"]')"
            ".querySelectorAll('.token')].map((t) => [t.style.getPropertyValue('--s'), t.title]))"
        )
    )
    values = row.token_uncertainty["epkl"]
    assert [float(title.split()[1]) for _, title in tokens] == pytest.approx(values, rel=1e-2)
    shades = [float(shade) for shade, _ in tokens]
    assert len(set(shades)) > 1
    full = json.loads(page.run("document.getElementById('explorer-data').textContent"))
    limit = full["systems"][0]["tokens"]["epkl"]["scale"][4]
    assert shades == pytest.approx([min(1.0, v / limit) for v in values], abs=0.011)
    # A measure of whole sequences has no tokens to shade, and the page says so.
    choose(page, "measure", "joint_total_uncertainty_pe")
    assert "no token values" in page.run("document.getElementById('explorer-scale').textContent")


def test_filters(page: Browser, systems: list[SystemInput]) -> None:
    choose(page, "set", 1)
    assert {cells[1] for cells in rows(page)} == {"news"}
    assert page.run("document.getElementById('explorer-count').textContent") == "60 sentences"
    choose(page, "system", 1)
    best = max(
        systems[1].out_of_domain["news"], key=lambda row: row.uncertainty["mutual_information"]
    )
    assert rows(page)[0][0] == str(best.id)
    choose(page, "set", -1)
    page.run(
        "(() => { const find = document.getElementById('explorer-find'); find.value = 'ONERROR';"
        "find.dispatchEvent(new Event('input'));"
        "return new Promise((done) => setTimeout(done, 400)); })()"
    )
    assert page.run("document.getElementById('explorer-count').textContent") == "1 sentence"
    detail = page.run("document.getElementById('explorer-detail').textContent")
    assert page.run("document.querySelectorAll('#fidelity svg').length") == 2
    assert HOSTILE in detail
    assert "ensemble" in detail  # every system's translation stands side by side
    assert "dirichlet" in detail


def test_the_list_is_walked_by_keys(page: Browser) -> None:
    total = 120 + 60
    page.run("document.getElementById('explorer-find').focus()")
    page.press("Tab")
    assert page.run("document.activeElement.id") == "explorer-grid"
    assert page.run("document.activeElement.matches(':focus-visible')")
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert selected(page) == 0
    page.press("ArrowDown", 3)
    page.press("ArrowUp")
    assert selected(page) == 2
    heading = page.run("document.querySelector('#explorer-detail h3').textContent")
    number, name = rows(page)[2][:2]
    assert heading == f"Sentence {number}, {name}"
    page.press("PageDown")
    assert 8 < selected(page) < 14
    page.press("End")
    assert selected(page) == total - 1
    in_sight = page.run(
        "(() => { const body = document.getElementById('explorer-body').getBoundingClientRect(),"
        "row = document.querySelector('[aria-selected=true]').getBoundingClientRect();"
        "return row.top >= body.top - 1 && row.bottom <= body.bottom + 1; })()"
    )
    assert in_sight
    assert int(page.run("document.getElementById('explorer-grid').ariaRowCount")) == total + 1
    page.press("ArrowDown")
    assert selected(page) == total - 1
    page.press("Home")
    assert selected(page) == 0


def test_all_measures_of_a_sentence_side_by_side(page: Browser, systems: list[SystemInput]) -> None:
    choose(page, "set", 0)  # where both systems translated the same sources
    assert page.run("document.querySelectorAll('#explorer-detail td').length") == 0
    page.run("document.querySelector('#explorer-detail summary').click()")
    page.run("new Promise((done) => setTimeout(done, 100))")
    number, name = rows(page)[0][:2]
    cells = json.loads(
        page.run(
            "JSON.stringify([...document.querySelectorAll('#explorer-detail tbody tr')]"
            ".map((row) => [...row.children].map((cell) => cell.textContent)))"
        )
    )
    assert len(cells) == len({m for s in systems for m in s.in_domain[0].uncertainty})
    found = {row[0]: row[1:] for row in cells}["MI"]
    for text, system in zip(found, systems, strict=True):
        chosen = {"in-domain": system.in_domain, **system.out_of_domain}[name][int(number)]
        expected = chosen.uncertainty["mutual_information"]
        assert float(text) == pytest.approx(expected, rel=6e-3)
    page.run("document.getElementById('explorer-grid').focus()")
    page.press("ArrowDown")  # stays open, for the next sentence
    assert page.run("document.querySelectorAll('#explorer-detail td').length") > 0


def test_heads_sort_by_keys(page: Browser) -> None:
    page.run("document.getElementById('explorer-grid').focus()")
    page.press("Tab", 4)  # sentence, set, value, quality
    assert page.run("document.activeElement.textContent") == "chrF"
    page.press("Enter")
    assert sorted_by(page)["quality"] == "ascending"  # the worst first
    assert sorted_by(page)["value"] == "none"
    values = [float(cells[3]) for cells in rows(page)]
    assert values == sorted(values)
    page.press(" ")
    assert sorted_by(page)["quality"] == "descending"
    values = [float(cells[3]) for cells in rows(page)]
    assert values == sorted(values, reverse=True)
    # Sentences without a reference have no quality and stand last either way.
    page.run("document.getElementById('explorer-grid').focus()")
    page.press("End")
    assert rows(page)[-1][3] == "–"


def background(page: Browser) -> str:
    colour: str = page.run("getComputedStyle(document.body).backgroundColor")
    return colour


def test_light_dark_and_print(page: Browser) -> None:
    def emulate(media: str, scheme: str) -> None:
        features: list[Any] = [{"name": "prefers-color-scheme", "value": scheme}]
        page.call("Emulation.setEmulatedMedia", media=media, features=features)

    try:
        emulate("screen", "light")
        assert background(page) == "rgb(255, 255, 255)"
        emulate("screen", "dark")
        assert background(page) == "rgb(20, 23, 28)"
        emulate("print", "dark")  # paper is white
        assert background(page) == "rgb(255, 255, 255)"
        hidden = "getComputedStyle(document.getElementById('explorer')).display"
        assert page.run(hidden) == "none"
        assert page.run("document.querySelectorAll('.sentences li').length") == 2 * 2 * 2
        page.call(
            "Emulation.setDeviceMetricsOverride",
            width=700,
            height=1000,
            deviceScaleFactor=1,
            mobile=False,
        )  # A4 less its margins
        overflow = page.run("document.documentElement.scrollWidth - innerWidth")
        assert overflow <= 0
        printed = page.call("Page.printToPDF", printBackground=False)
        assert len(printed["data"]) > 10_000
    finally:
        page.call("Emulation.setEmulatedMedia", media="", features=[])
        page.call("Emulation.clearDeviceMetricsOverride")


def many(systems: int) -> list[SystemInput]:
    """Systems that translated the same MANY sentences."""
    count, found = MANY * 2 // 3, []
    originals: dict[str, list[Hypothesis]] = {}
    for number in range(systems):
        kind = "ensemble" if number == 1 else "dirichlet"
        sets = {}
        for name, size, difficulty in (("in", count, 0.0), ("news", MANY - count, 0.7)):
            made = make_hypotheses(size, kind=kind, difficulty=difficulty, seed=number)
            first = originals.setdefault(name, made)
            sets[name] = [
                longer(replace(h, source=o.source, reference=o.reference))
                for h, o in zip(made, first, strict=True)
            ]
        found.append(SystemInput(f"system {number}", sets["in"], {"news": sets["news"]}))
    return found


@pytest.mark.parametrize("systems", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_ten_thousand_sentences_are_small_and_quick(tmp_path: Path, systems: int) -> None:
    output = tmp_path / "report.html"
    write_report(ReportInput(many(systems), resamples=0), output)
    assert output.stat().st_size < SIZE_LIMIT
    assert EXECUTABLE is not None
    with Browser(EXECUTABLE, tmp_path / "profile") as browser:
        assert browser.open(output) < 20
        count = browser.run("document.getElementById('explorer-count').textContent")
        kept = int(count.split()[0].replace(",", ""))
        note = browser.run("document.getElementById('explorer-scale').textContent")
        if systems == 1:
            assert kept == MANY
            assert "The page holds" not in note
        else:
            assert MANY // 2 < kept < MANY
            assert f"The page holds {kept:,} of 10,000 sentences: half of them" in note
            assert "Numbers and curves above are of all." in note
        assert "Shades of" in note  # there is room for them
        assert len(rows(browser)) < 40
        browser.run("document.getElementById('explorer-grid').focus()")
        # Milliseconds the page itself takes, generous for a busy machine.
        timed = (
            "((work) => { const start = performance.now(); work(); document.body.offsetHeight;"
            "return performance.now() - start; })"
        )
        head = "document.querySelector('[data-key=quality] button')"
        assert browser.run(f"{timed}(() => {head}.click())") < 1000
        for select in ("system", "measure"):
            element = f"document.getElementById('explorer-{select}')"
            change = (
                f"{{ {element}.selectedIndex = {element}.length - 1;"
                f"{element}.dispatchEvent(new Event('change')); }}"
            )
            assert browser.run(f"{timed}(() => {change})") < 1000
        opened = "document.querySelector('#explorer-detail details').open = true"
        assert browser.run(f"{timed}(() => {opened})") < 300
        key = "new KeyboardEvent('keydown', {key: 'PageDown', bubbles: true})"
        grid = "document.getElementById('explorer-grid')"
        assert browser.run(f"{timed}(() => {grid}.dispatchEvent({key}))") < 300
        browser.press("End")
        assert selected(browser) == kept - 1
