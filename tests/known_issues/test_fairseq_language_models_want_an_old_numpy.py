"""fairseq asks numpy 2 for ``compat.long`` where each sample of a language model is a sentence."""

import torch
from fairseq.data import TokenBlockDataset

import fairseq_plugins  # noqa: F401 (mends it)


def test_samples_are_sentences() -> None:
    sentences = [torch.tensor(ids) for ids in ([5, 6, 2], [7, 2], [8, 9, 10, 2])]
    sizes = [len(sentence) for sentence in sentences]
    blocks = TokenBlockDataset(
        sentences, sizes, 512, pad=1, eos=2, break_mode="eos", include_targets=True
    )
    for index, sentence in enumerate(sentences):
        source, target, _ = blocks[index]
        assert target.tolist() == sentence.tolist()
        assert source.tolist() == [2, *sentence.tolist()[:-1]]  # it begins as what is drawn does
