"""Who works with text loads nothing of speech; who lacks it is told what to install."""

import subprocess
import sys

from tests.plugins.speech_corpus import SpeechCorpus

_TEXT = """
import sys
import fairseq_plugins
from fairseq_plugins.generation.translator import Translator
from fairseq_plugins.target_cache.run import Caching
print([name for name in ("torchaudio", "soundfile", "jiwer") if name in sys.modules])
"""

_WITHOUT = """
import sys
sys.modules[{missing!r}] = None  # as if it were not installed
from seqdistill.cli.main import main
sys.exit(main({arguments!r}))
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_translation_loads_nothing_of_speech() -> None:
    result = python(_TEXT)
    assert result.stdout.splitlines()[-1] == "[]", result.stderr


def test_transcribing_without_the_extra_says_what_to_install(speech: SpeechCorpus) -> None:
    audio = str(speech.data / "audio" / "test-1.wav")
    arguments = ["transcribe", audio, "--path", str(speech.teachers[0]), "--data", str(speech.data)]
    for missing in ("soundfile", "torchaudio"):
        result = python(_WITHOUT.format(missing=missing, arguments=[*arguments, "--cpu"]))
        assert result.returncode == 1
        assert f"{missing}, which is not installed here" in result.stderr
        assert 'pip install "seqdistill[speech]"' in result.stderr
