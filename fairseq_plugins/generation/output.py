"""The JSONL file of everything that a task decodes: whole, or under another name."""

import atexit
import os
import sys
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

from fairseq_plugins.generation.conversion import TextDecoder, text_decoder, to_hypotheses
from seqdistill.errors import InputError
from seqdistill.uncertainty.measures import select_measures


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
        self._is_closed = False
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
            InputError: the file is closed, a chosen measure does not exist for this kind of model,
                or a number is not finite.
        """
        if self._is_closed:
            raise InputError(
                f"{self.path} was closed after {self.recorded} sentences and more came; "
                "use one output file for each run"
            )
        handle = self._open()
        source_text, target_text = self._decoders()
        ids = self._sentence_ids(sample, len(hypos))
        # fairseq-interactive makes a batch anew and leaves the names of its sources behind.
        names = getattr(self.task, "interactive_sources", None)
        if names and "utterances" not in sample:
            sample = {**sample, "utterances": [names[sentence] for sentence in ids]}
        for hypothesis in to_hypotheses(
            sample,
            hypos,
            ids,
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
        if self._handle is None or self._is_closed:
            return
        self._handle.flush()
        os.fsync(self._handle.fileno())
        self._handle.close()
        os.replace(self.part, self.path)
        self._is_closed = True

    def abandon(self) -> None:
        """Leave the file as ``PATH.part``: the run failed."""
        if self._handle is not None and not self._is_closed:
            self._handle.close()
            self._is_closed = True

    def _open(self) -> IO[str]:
        if self._handle is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = open(self.part, "w", encoding="utf-8")  # noqa: SIM115 (spans batches)
            atexit.register(self._at_exit)
        return self._handle

    def _at_exit(self) -> None:
        if self._is_closed:
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
