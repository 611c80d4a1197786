"""Preparing a data folder: list, verify, compute, and write what speech models are trained from.

The order is that of what may go wrong: names and settings, then the layout, then each file, then
the pieces. What takes long (shards of features) is kept whatever goes wrong after it.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from seqdistill.errors import InputError
from seqdistill.files import json_to_bytes, locked, read_json, remove_parts, write_whole
from seqdistill.records import describe_environment
from seqdistill.speech.configuration import (
    CONFIG,
    DICTIONARY,
    PIECE_MODEL,
    config_yaml,
)
from seqdistill.speech.extras import need
from seqdistill.speech.feature_zips import join
from seqdistill.speech.layout import Listing, list_set
from seqdistill.speech.manifest import write_manifest
from seqdistill.speech.plan import (
    FORMAT,
    PLAN,
    PROBLEMS,
    RECORD,
    TRAIN,
    VERSION,
    WORK,
    Options,
    State,
    check_sets,
    check_settings,
    clear,
    describe_set,
    features_name,
    read_state,
)
from seqdistill.speech.problems import (
    Problem,
    Tolerance,
    count_kinds,
    counts_text,
    read_problems,
    write_problems,
)
from seqdistill.speech.sets import SetWork
from seqdistill.speech.shards import ShardPlace, ShardWork
from seqdistill.speech.training_set import (
    count_unknown,
    make_pieces,
    pieces_of,
    write_statistics,
)
from seqdistill.workers import do_units


class Progress(Protocol):
    """Shows how far a piece of work is."""

    def __call__(self, what: str, done: int, total: int, steps: Iterator[int]) -> None:
        """Take all steps; ``done`` of ``total`` utterances were there before."""
        ...


class Preparation:
    """Makes a prepared folder, goes on with one, or adds sets to one.

    Args:
        options: what is wanted.
        say: takes lines for the user.

    Raises:
        InputError: a given file is missing, or the folder holds something else.
    """

    def __init__(self, options: Options, say: Callable[[str], None]) -> None:
        self.options = options
        self.say = say
        self.folder = options.output.absolute()
        self.settings = options.settings()
        for module, what_for in (
            ("soundfile", "reading audio"),
            ("torchaudio.compliance.kaldi", "computing filterbanks"),
            ("sentencepiece", "cutting transcripts into pieces"),
            ("yaml", "writing the configuration"),
        ):
            need(module, what_for)  # now rather than after hours of work
        self.state = State() if options.overwrite else self._checked_state()

    def list_sets(self) -> dict[str, Listing]:
        """List the sets that the command names.

        Raises:
            InputError: a folder is missing or has another layout, or a set differs from the one
                that was begun.
        """
        self._check_train()
        listings = {
            name: list_set(name, folders) for name, folders in self._folders(self.options).items()
        }
        described = self._describe(listings)
        check_sets(self.folder, self.state, described)
        if TRAIN in listings and not listings[TRAIN].has_transcripts:
            raise InputError(
                f"set {TRAIN}: expected transcripts (*.trans.txt), found none in "
                f"{', '.join(described[TRAIN]['folders'])}; only other sets may lack them"
            )
        return listings

    def run(self, progress: Progress) -> dict[str, Any]:
        """Make the folder.

        Returns:
            What ``prepare.json`` says.

        Raises:
            InputError: too many files of a set cannot be used, or a set has none that can; or the
                pieces cannot be made, or the disk is full. What is finished is kept.
        """
        with locked(self.folder):
            if self.options.overwrite:
                clear(self.folder)
            else:
                self.state = self._checked_state()  # another process may have gone on with it
            listings = self.list_sets()
            sets = [
                SetWork(
                    name,
                    listing,
                    self.folder / WORK / name,
                    self.folder / features_name(name),
                    self.options.audio == "zip",
                )
                for name, listing in {**self._unfinished(), **listings}.items()
                if name not in self.state.finished
            ]
            remove_parts(self.folder)
            planned = dict(self.state.sets) | self._describe(
                {one.name: one.listing for one in sets}
            )
            if sets:
                (self.folder / WORK).mkdir(exist_ok=True)
                plan = self._record(planned)
                write_whole(self.folder / WORK / PLAN, json_to_bytes(plan))
                listed = {one.name: one.listing.problems for one in sets}
                self._check_problems(listed, sets, Tolerance(None, 100.0))
                self._verify(sets, progress)
                found = {one.name: one.problems() for one in sets}
                self._write_problems(found)
                self._check_problems(found, sets, self.options.max_problems)
                results = self._write(sets, planned, progress)
                finished = {**self.state.finished, **results}
                record = self._record({name: finished[name] for name in planned})
                record["environment"] = describe_environment() | _versions()
                write_whole(self.folder / RECORD, json_to_bytes(record))
            (self.folder / WORK / PLAN).unlink(missing_ok=True)
            if (self.folder / WORK).exists():
                shutil.rmtree(self.folder / WORK)
        return self._report(sets)

    def _checked_state(self) -> State:
        state = read_state(self.folder)
        check_settings(self.folder, state, self.settings)
        return state

    def _folders(self, options: Options) -> dict[str, list[str]]:
        return {
            name: [str(Path(folder).absolute()) for folder in folders]
            for name, folders in options.splits.items()
        }

    def _unfinished(self) -> dict[str, Listing]:
        """Sets of an interrupted run that the command does not name."""
        return {
            name: list_set(name, one["folders"])
            for name, one in self.state.sets.items()
            if name not in self.state.finished and name not in self.options.splits
        }

    def _describe(self, listings: dict[str, Listing]) -> dict[str, dict[str, Any]]:
        known = {name: one["folders"] for name, one in self.state.sets.items()}
        folders = known | self._folders(self.options)
        return {name: describe_set(folders[name], listing) for name, listing in listings.items()}

    def _record(self, sets: Any) -> dict[str, Any]:
        return {"format": FORMAT, "version": VERSION, "settings": self.settings, "sets": sets}

    def _check_train(self) -> None:
        if TRAIN in {**self.state.sets, **self.options.splits}:
            return
        if self.options.piece_model is None:
            raise InputError(
                f"no set is called {TRAIN}, and there is no other to train pieces on: give --split "
                f"{TRAIN}=FOLDER, or --piece-model"
            )
        if self.options.cmvn == "global":
            raise InputError(
                f"--cmvn global is that of the training set: give --split {TRAIN}=FOLDER, or use "
                "--cmvn utterance"
            )

    def _verify(self, sets: Sequence[SetWork], progress: Progress) -> None:
        """Do the shards of all sets that are not done."""
        places: list[ShardPlace] = []
        units: list[int] = []
        for one in sets:
            one.write_lists(self.options.demands(one.name))
            units += [len(places) + index for index in one.missing()]
            places += one.places
        total = sum(len(one.listing.recordings) for one in sets)
        sizes = [len(one.recordings(place)) for one in sets for place in one.places]
        done = total - sum(sizes[unit] for unit in units)
        steps = do_units(ShardWork(places), units, self.options.workers)
        progress("audio", done, total, steps)

    def _write_problems(self, found: dict[str, list[Problem]]) -> None:
        before = read_problems(self.folder / PROBLEMS)
        kept = [one for one in before if one.set in self.state.finished and one.set not in found]
        new = [one for problems in found.values() for one in problems]
        write_problems(self.folder / PROBLEMS, [*kept, *new])

    def _check_problems(
        self, found: dict[str, list[Problem]], sets: Sequence[SetWork], tolerance: Tolerance
    ) -> None:
        """Raise an :class:`InputError` if a set has too many problems, or nothing else."""
        wrong = []
        for one in sets:
            problems, files = found[one.name], one.listing.files
            counts = counts_text(list(count_kinds(problems).items()))
            folders = ", ".join(self._describe({one.name: one.listing})[one.name]["folders"])
            left = len(one.listing.recordings) - (len(problems) - len(one.listing.problems))
            if not left:
                wrong.append(
                    f"set {one.name}: expected utterances in {folders}, found none that can be "
                    f"used ({counts or 'no audio files'})"
                )
            elif not tolerance.allows(len(problems), files):
                wrong.append(
                    f"set {one.name}: {len(problems):,} of {files:,} files cannot be used "
                    f"({counts}), more than --max-problems {tolerance} allows"
                )
        if wrong:
            self._write_problems(found)
            raise InputError(
                "\n".join(wrong) + f"\n{self.folder / PROBLEMS} lists them. Mend or remove these "
                "files, or allow more (--max-problems), and repeat the command: what is done is "
                "kept"
            )

    def _write(
        self, sets: Sequence[SetWork], planned: dict[str, Any], progress: Progress
    ) -> dict[str, Any]:
        """Write everything but the record; return the sets' results."""
        train = next((one for one in sets if one.name == TRAIN), None)
        if train is None and self.state.finished:
            found = pieces_of(self.folder)
        else:
            found = make_pieces(self.options, [] if train is None else train.texts(), self.say)
        unknown = {one.name: count_unknown(one, found, self.say) for one in sets}
        results = {}
        for one in sets:
            utterances = one.utterances()
            files = [f"{one.name}.tsv"]
            if one.keep_features:
                files.append(one.target.name)
                steps = join(one.folder, one.places, one.notes, one.entries, one.target)
                progress(one.target.name, 0, len(utterances), steps)
            write_manifest(self.folder / files[0], utterances)
            count, samples, frames = one.count()
            results[one.name] = planned[one.name] | {
                "utterances": count,
                "seconds": samples / self.options.rate,
                "frames": frames,
                "has_transcripts": one.listing.has_transcripts,
                "unknown_pieces": unknown[one.name],
                "left_out": count_kinds(one.problems()),
                "files": files,
            }
        if self.options.cmvn == "global" and train is not None:
            write_statistics(self.folder, train, self.options.bins)
        write_whole(self.folder / PIECE_MODEL, found.model)
        write_whole(self.folder / DICTIONARY, found.dictionary.encode())
        config = config_yaml(
            self.folder,
            rate=self.options.rate,
            bins=self.options.bins,
            cmvn=self.options.cmvn,
            specaugment=self.settings["specaugment"],
        )
        write_whole(self.folder / CONFIG, config.encode())
        return results

    def _report(self, sets: Sequence[SetWork]) -> dict[str, Any]:
        record: dict[str, Any] = read_json(self.folder / RECORD)
        record["made_now"] = [one.name for one in sets]
        return record


def _versions() -> dict[str, str]:
    modules = ("torchaudio", "soundfile", "sentencepiece")
    return {name: str(need(name, "preparing speech").__version__) for name in modules}
