"""Fixtures of the plug-in tests."""

import pytest

from tests.plugins.corpus import Corpus, make_corpus
from tests.plugins.speech_corpus import SpeechCorpus, make_speech_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A tiny binarised corpus with two random teachers."""
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def speech(tmp_path_factory: pytest.TempPathFactory) -> SpeechCorpus:
    """A tiny corpus of tones with two random teachers of speech."""
    return make_speech_corpus(tmp_path_factory.mktemp("speech"))
