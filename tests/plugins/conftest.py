"""Fixtures of the plug-in tests."""

import pytest

from tests.plugins.corpus import Corpus, make_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A tiny binarised corpus with two random teachers."""
    return make_corpus(tmp_path_factory.mktemp("corpus"))
