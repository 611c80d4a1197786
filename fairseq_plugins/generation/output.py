"""From fairseq's hypotheses to the JSONL that seqdistill's stages exchange."""

import atexit
import math
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.hypotheses import Hypothesis
from seqdistill.uncertainty.measures import measures_of, select_measures

#: Dictionary indices (without padding) → text
TextDecoder = Callable[[Tensor], str]


def text_decoder(dictionary: Any, bpe: Any = None, tokenizer: Any = None) -> TextDecoder:
    """Return a function that makes text of a sequence of dictionary indices.

    Args:
        dictionary: a fairseq dictionary.
        bpe: fairseq's encoder of ``--bpe``, which then undoes the segmentation. None:
            sentencepiece's ▁ or subword-nmt's @@ are undone if the dictionary's pieces carry them.
        tokenizer: fairseq's encoder of ``--tokenizer``, applied last; None for none.
    """
    marker = None if bpe is not None else _segmentation(dictionary)

    def decode(tokens: Tensor) -> str:
        text: str = dictionary.string(
            tokens.int().cpu(), marker, extra_symbols_to_ignore={dictionary.pad()}
        )
        for encoder in (bpe, tokenizer):
            if encoder is not None:
                text = encoder.decode(text)
        return text

    return decode


def to_hypotheses(
    sample: dict[str, Any],
    hypos: Sequence[Sequence[dict[str, Any]]],
    ids: Sequence[int],
    *,
    dictionary: Any,
    target_text: TextDecoder,
    source_text: TextDecoder | None = None,
    n_best: int = 1,
    measures: Sequence[str] | None = None,
) -> Iterator[Hypothesis]:
    """Turn what a generator or scorer of this package returned into hypotheses.

    Args:
        sample: fairseq's batch of B sentences.
        hypos: B lists of hypotheses, best first.
        ids: the sentences' numbers.
        dictionary: of the target side.
        target_text: makes text of target indices.
        source_text: likewise of source indices; None when the source is no text.
        n_best: how many of each list, at most.
        measures: names of the measures to keep; None keeps all.

    Raises:
        InputError: a chosen measure does not exist for this kind of model, or a number is not
            finite.
    """
    pad = dictionary.pad()
    sources = sample["net_input"].get("src_tokens") if source_text is not None else None
    references = sample.get("target")
    for row, (sentence, candidates) in enumerate(zip(ids, hypos, strict=True)):
        source = reference = None
        if source_text is not None and sources is not None:
            source = source_text(sources[row][sources[row] != pad])
        if references is not None:
            reference = target_text(references[row][references[row] != pad])
        for rank, hypo in enumerate(candidates[:n_best]):
            keep = _keep(measures, hypo)
            tokens = hypo["tokens"]
            token_log_probs = _numbers(hypo["token_log_probs"], "token_log_probs", sentence)
            forced = bool(hypo.get("forced", False))
            score = None if forced else float(hypo["score"])
            confidence = hypo.get("token_confidence")
            correct = hypo.get("token_correct")
            yield Hypothesis(
                id=sentence,
                rank=rank,
                source=source,
                reference=reference,
                text=target_text(tokens),
                tokens=tokens.tolist(),
                pieces=[dictionary[token] for token in tokens.tolist()],
                log_prob=math.fsum(token_log_probs),
                # A search under a length constraint ranks what violates it by −∞: no score.
                score=score if score is not None and math.isfinite(score) else None,
                token_log_probs=token_log_probs,
                token_uncertainty={
                    name: _numbers(values, name, sentence)
                    for name, values in hypo["token_uncertainty"].items()
                    if name in keep
                },
                uncertainty={
                    name: _finite(value, name, sentence)
                    for name, value in hypo["uncertainty"].items()
                    if name in keep
                },
                model=hypo["model"],
                forced=forced,
                token_confidence=(
                    None
                    if confidence is None
                    else _numbers(confidence, "token_confidence", sentence)
                ),
                token_correct=None if correct is None else correct.tolist(),
            )


class HypothesisRecorder:
    """Writes every hypothesis that a task decodes to a JSONL file.

    The file is ``PATH.part`` until it is whole. With a known number of sentences (:meth:`expect`)
    it becomes ``PATH`` when they have come; without, as in interactive use, when Python exits
    normally, that is, not by an exception. fairseq's own output is left alone.

    Args:
        path: the file.
        task: fairseq's task; its ``target_dictionary``, ``source_dictionary`` (or None) and, where
            they exist, ``bpe`` and ``tokenizer`` (what ``build_bpe`` and ``build_tokenizer`` made).
        measures: the measures to write, names or a string of names with commas; None: all.

    Raises:
        InputError: a measure is unknown.
    """

    def __init__(
        self, path: str | Path, task: Any, measures: str | Iterable[str] | None = None
    ) -> None:
        self.path = Path(path)
        self.part = self.path.with_name(self.path.name + ".part")
        self.task = task
        self.measures = select_measures(measures)
        self.expected: int | None = None
        self.recorded = 0
        self._handle: IO[str] | None = None
        self._is_complete = False
        self._ids: deque[int] = deque()
        self._next_id = 0
        self._text_decoders: tuple[TextDecoder | None, TextDecoder] | None = None

    def expect(self, num_sentences: int) -> None:
        """Say how many sentences will come; the file is complete with the last of them."""
        self.expected = num_sentences

    def expect_order(self, batches: Iterable[Sequence[int]]) -> None:
        """Say in which order sentences without ``sample["id"]`` will come (interactive use).

        fairseq-interactive sorts each buffer of lines by length and does not tell the task which is
        which; the batch iterator made for the buffer does.

        Args:
            batches: the iterator's ``frozen_batches``: positions 0 … n − 1 of the buffer. The next
                buffer's sentences are numbered from where this one's end.
        """
        positions = [int(position) for batch in batches for position in batch]
        self._ids.extend(self._next_id + position for position in positions)
        self._next_id += max(positions, default=-1) + 1

    def record(
        self, sample: dict[str, Any], hypos: Sequence[Sequence[dict[str, Any]]], n_best: int = 1
    ) -> None:
        """Append a batch.

        Args:
            sample: fairseq's batch.
            hypos: what the generator returned for it, before fairseq prints (and changes) it.
            n_best: how many hypotheses of each sentence to write, at most.

        Raises:
            InputError: the file is complete already, or see :func:`to_hypotheses`.
        """
        if self._is_complete:
            raise InputError(
                f"{self.path} was complete with {self.recorded} sentences and more came; "
                "use one output file for each run"
            )
        handle = self._open()
        source_text, target_text = self._decoders()
        for hypothesis in to_hypotheses(
            sample,
            hypos,
            self._sentence_ids(sample, len(hypos)),
            dictionary=self.task.target_dictionary,
            target_text=target_text,
            source_text=source_text,
            n_best=n_best,
            measures=self.measures,
        ):
            handle.write(hypothesis.to_json() + "\n")
        handle.flush()
        self.recorded += len(hypos)
        if self.expected is not None and self.recorded >= self.expected:
            self.complete()

    def complete(self) -> None:
        """Give the file its name; nothing can be recorded afterwards."""
        if self._handle is None or self._is_complete:
            return
        self._handle.flush()
        os.fsync(self._handle.fileno())
        self._handle.close()
        os.replace(self.part, self.path)
        self._is_complete = True

    def abandon(self) -> None:
        """Leave the file as ``PATH.part``: the run failed."""
        if self._handle is not None and not self._is_complete:
            self._handle.close()
            self._is_complete = True

    def _open(self) -> IO[str]:
        if self._handle is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = open(self.part, "w", encoding="utf-8")  # noqa: SIM115 (spans batches)
            atexit.register(self._at_exit)
        return self._handle

    def _at_exit(self) -> None:
        if self._is_complete:
            return
        failed = getattr(sys, "last_type", None) is not None  # an exception ended the program
        if self.expected is None and not failed:
            self.complete()
        else:
            of_expected = "" if self.expected is None else f" of {self.expected}"
            print(
                f"{self.part} holds {self.recorded}{of_expected} sentences: the run did not finish",
                file=sys.stderr,
            )

    def _sentence_ids(self, sample: dict[str, Any], count: int) -> list[int]:
        if sample.get("id") is not None:
            return [int(sentence) for sentence in sample["id"]]
        if not self._ids:
            # Nobody told the order: sentences are numbered as they come.
            self._ids.extend(range(self._next_id, self._next_id + count))
            self._next_id += count
        return [self._ids.popleft() for _ in range(count)]

    def _decoders(self) -> tuple[TextDecoder | None, TextDecoder]:
        """Return what makes text of the source (None if it is none) and of the target."""
        # Made late: fairseq builds --bpe and --tokenizer after the task.
        if self._text_decoders is None:
            encoders = (getattr(self.task, "bpe", None), getattr(self.task, "tokenizer", None))
            source = self.task.source_dictionary
            self._text_decoders = (
                None if source is None else text_decoder(source, *encoders),
                text_decoder(self.task.target_dictionary, *encoders),
            )
        return self._text_decoders


def _segmentation(dictionary: Any) -> str | None:
    """Return fairseq's name of the segmentation that a dictionary's pieces show, None for words."""
    pieces = dictionary.symbols[dictionary.nspecial :]
    if any(piece.startswith("▁") for piece in pieces):
        return "sentencepiece"
    if any(piece.endswith("@@") for piece in pieces):
        return "subword_nmt"
    return None


def _keep(measures: Sequence[str] | None, hypo: dict[str, Any]) -> Sequence[str]:
    """Return the measures to write of a hypothesis."""
    available = measures_of(hypo["model"].kind)
    missing = [name for name in measures or () if name not in available]
    if missing:
        raise InputError(
            f"a model of kind {hypo['model'].kind} has no {', '.join(missing)}; "
            f"it has {', '.join(available)}"
        )
    return available if measures is None else measures


def _numbers(values: Tensor, name: str, sentence: int) -> list[float]:
    """Return a token measure as numbers of 7 digits: all that float32 has."""
    return [float(f"{_finite(value, name, sentence):.7g}") for value in values.tolist()]


def _finite(value: float, name: str, sentence: int) -> float:
    if not math.isfinite(value):
        raise InputError(
            f"sentence {sentence}: {name} is {value}; check the checkpoint and its dtype "
            "(float16 overflows where bfloat16 and float32 do not)"
        )
    return value
