import subprocess
import sys
from pathlib import Path

import pytest

import fairseq_plugins
import seqdistill
from seqdistill.cli import main as module
from seqdistill.cli.main import VERBS, main


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    for verb, (_, line) in VERBS.items():
        assert verb in printed
        assert line.split()[0] in printed
    assert "example:" in printed


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"seqdistill {seqdistill.__version__}\n"


@pytest.mark.parametrize("verb", ["ood", "report", "fairseq-user-dir"])
def test_help_of_a_verb_ends_in_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    printed = capsys.readouterr().out
    assert "example:" in printed[printed.index("options:") :]
    assert "(default: None)" not in printed


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["ood"], ["--nonsense"]])
def test_wrong_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert "usage: seqdistill" in captured.err
    assert captured.out == ""


def test_a_verb_that_cannot_be_imported_hurts_only_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(module.VERBS, "absent", ("seqdistill.cli.absent", "is not there"))
    assert main(["--help"]) == 0
    assert main(["absent"]) == 1
    assert "seqdistill absent: error: this verb is not usable here" in capsys.readouterr().err


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys; from seqdistill.cli.main import main; main(['--help']);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'fairseq', 'matplotlib')))"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


def test_fairseq_user_dir_is_found_without_importing_it() -> None:
    script = (
        "import sys; from seqdistill.cli.main import main; main(['fairseq-user-dir']);"
        "sys.exit('fairseq_plugins' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert Path(done.stdout.strip()) == Path(fairseq_plugins.__path__[0])


def test_a_reader_that_leaves_is_no_error(systems: Path) -> None:
    folder = systems / "ensemble"
    command = (
        f"{sys.executable} -m seqdistill.cli.main ood --json --bootstrap 0 "
        f"--in-domain {folder}/in_domain.jsonl --out-of-domain {folder}/news.jsonl | true"
    )
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
