"""Decoding with uncertainty: generators, second readings, and the file of hypotheses."""

import os
from typing import Any

from fairseq.tasks.fairseq_task import FairseqTask

from fairseq_plugins.generation import (
    HypothesisRecorder,
    SecondSystem,
    build_uncertainty_generator,
    densities_for,
    load_second_system,
)
from fairseq_plugins.generation.calibration import with_calibration
from fairseq_plugins.generation.ensemble import estimator_of
from seqdistill.uncertainty.measures import select_measures
from seqdistill.uncertainty.options import UncertaintyOptions
from seqdistill.uncertainty.second_reading import read_temperatures


class UncertainDecoding(FairseqTask):
    """A class to stand before a task's own, with the options of ``DistillationOptions``."""

    cfg: Any

    def begin_decoding(self) -> None:
        """Take the options that ``self.cfg`` has for decoding."""
        self.bpe: Any = None
        self.tokenizer: Any = None
        self._measures = select_measures(self.cfg.uncertainty_measures)
        self._recorder: HypothesisRecorder | None = None
        self._is_interactive = False

    @property
    def in_training(self) -> bool:
        """Whether a model of this task is in training."""
        raise NotImplementedError

    @property
    def has_teachers(self) -> bool:
        """Whether teachers run beside it."""
        raise NotImplementedError

    def build_bpe(self, args: Any) -> Any:
        """Build the subword decoder, and keep it for the recorded texts."""
        self.bpe = super().build_bpe(args)
        return self.bpe

    def build_tokenizer(self, args: Any) -> Any:
        """Build the tokenizer, and keep it for the recorded texts."""
        self.tokenizer = super().build_tokenizer(args)
        return self.tokenizer

    def build_generator(
        self,
        models: list[Any],
        args: Any,
        seq_gen_cls: Any = None,
        extra_gen_cls_kwargs: dict[str, Any] | None = None,
        prefix_allowed_tokens_fn: Any = None,
    ) -> Any:
        """Build a generator whose hypotheses carry uncertainty (or fairseq's, if one is asked)."""
        if seq_gen_cls is not None:
            return FairseqTask.build_generator(
                self, models, args, seq_gen_cls, extra_gen_cls_kwargs, prefix_allowed_tokens_fn
            )
        options = self.uncertainty_options()
        densities = None
        if not self.in_training:
            options = with_calibration(options, self.cfg.calibration, models)
            # In training the head of the student may not be known yet, so nothing is said then.
            estimator_of(models, options)
            if self.cfg.feature_density is not None:
                densities = densities_for(self.cfg.feature_density, models)
        return build_uncertainty_generator(
            self,
            models,
            args,
            options,
            against=self._second_system(),
            temperatures=read_temperatures(self.cfg.score_temperatures),
            densities=densities,
            extra_gen_cls_kwargs=extra_gen_cls_kwargs,
            prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
        )

    def _second_system(self) -> SecondSystem | None:
        if self.cfg.score_against is None:
            return None
        predictive = self.cfg.score_against_predictive
        return load_second_system(
            [path for path in self.cfg.score_against.split(os.pathsep) if path],
            self,
            combination=str(self.cfg.score_against_combination),
            predictive=None if predictive is None else str(predictive),
        )

    def uncertainty_options(self) -> UncertaintyOptions:
        """Return which measures are computed, and how members are combined."""
        return UncertaintyOptions(
            self._measures,
            str(self.cfg.ensemble_combination),
            self.cfg.dirichlet_samples,
            self.cfg.dirichlet_seed,
        )

    def get_batch_iterator(self, *args: Any, **kwargs: Any) -> Any:
        """Return fairseq's iterator; the recorder learns from it how many sentences come."""
        iterator = super().get_batch_iterator(*args, **kwargs)
        recorder = self._uncertainty_recorder(
            kwargs.get("shard_id", 0), kwargs.get("num_shards", 1)
        )
        if recorder is not None:
            if self._is_interactive:
                recorder.expect_order(iterator.frozen_batches)
            else:
                recorder.expect(sum(len(batch) for batch in iterator.frozen_batches))
        return iterator

    def inference_step(
        self,
        generator: Any,
        models: list[Any],
        sample: Any,
        prefix_tokens: Any = None,
        constraints: Any = None,
    ) -> Any:
        """Decode a batch, and record it if ``--uncertainty-output`` asks for that."""
        recorder = self._uncertainty_recorder()
        try:
            hypotheses = super().inference_step(
                generator, models, sample, prefix_tokens, constraints
            )
        except Exception:
            if recorder is not None:
                recorder.abandon()
            raise
        if recorder is not None:
            recorder.record(sample, hypotheses, n_best=getattr(generator, "n_best", 1))
        return hypotheses

    def _uncertainty_recorder(
        self, shard_id: int = 0, num_shards: int = 1
    ) -> HypothesisRecorder | None:
        if self.cfg.uncertainty_output is None or self.has_teachers:
            return None
        if self._recorder is None:
            path = self.cfg.uncertainty_output
            if num_shards > 1:
                path = f"{path}.shard{shard_id}"
            self._recorder = HypothesisRecorder(path, self, self._measures)
        return self._recorder
