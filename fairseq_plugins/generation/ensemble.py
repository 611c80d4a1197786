"""The models behind a beam search: they decode, and keep what they said for its measures."""

from collections.abc import Sequence
from typing import Any

import torch
from fairseq.sequence_generator import EnsembleModel, EnsembleModelWithAlignment
from torch import Tensor

from fairseq_plugins.features import pooled_encoder_output, step_projection
from fairseq_plugins.generation.distances import FeatureSums
from fairseq_plugins.generation.history import BeamHistory
from fairseq_plugins.outputs import rows_of_student, student_outputs
from seqdistill.errors import InputError
from seqdistill.uncertainty.densities import ModelDensity
from seqdistill.uncertainty.estimators import Estimator, UncertaintyOptions, estimator_for
from seqdistill.uncertainty.outputs import KeptRows, MemberRows, ProjectedRows


def estimator_of(models: Any, options: UncertaintyOptions | None = None) -> Estimator:
    """Return the estimator of fairseq models; ``model.student_head`` says how logits are read.

    Raises:
        InputError: a Dirichlet student beside other models, or options that do not fit the models.
    """
    return estimator_for([getattr(model, "student_head", None) for model in models], options)


def member_output(model: Any, net_output: Any, estimator: Estimator) -> Tensor:
    """Return what the estimator reads of a model's output: raw logits or log-probabilities.

    Args:
        model: a fairseq model.
        net_output: what its decoder returned, logits (..., V) first.
        estimator: says which of the two it wants.
    """
    if estimator.wants_logits:
        logits: Tensor = net_output[0]
        return logits if logits.dtype == torch.float64 else logits.float()
    log_probs: Tensor = model.get_normalized_probs(net_output, log_probs=True, sample=None)
    return log_probs


class UncertaintyEnsembleModel(EnsembleModel):
    """fairseq's wrapper of one or several models, with a history of their measures.

    A step of the search sees the members' outputs once, in :meth:`forward_decoder`; there they are
    read one after another, and of most models only features are kept: no memory of (M, rows, V).
    Between steps :meth:`reorder_incremental_state` tells which beams went on; the history follows.

    Args:
        models: fairseq models.
        options: measures and combination of the members; None: the defaults, PE.
        densities: of the models' features, if distances from them are wanted.
    """

    def __init__(
        self,
        models: Any,
        options: UncertaintyOptions | None = None,
        densities: Sequence[ModelDensity] | None = None,
    ) -> None:
        super().__init__(models)
        self.options = options
        self.densities = densities
        self.history: BeamHistory
        self.encoded: list[Tensor] = []  # M × (sentences, D) pooled, where there are densities
        self._projections: list[torch.nn.Linear | None]

    def forward_encoder(self, net_input: dict[str, Tensor]) -> Any:
        """Encode a batch; a new search begins."""
        # Looked up again for each batch: in training, fairseq builds the generator for validation
        # before the task has told the model what its head is.
        estimator = estimator_of(self.models, self.options)
        sums = None if self.densities is None else FeatureSums()
        self.history = BeamHistory(estimator, sums)
        self._projections = [
            None
            if estimator.needs_logits or student_outputs(model) is not None
            else step_projection(model)
            for model in self.models
        ]
        encoder_outs = super().forward_encoder(net_input)
        if self.densities is not None:
            self.encoded = [pooled_encoder_output(out) for out in encoder_outs]
        return encoder_outs

    def forward_decoder(
        self, tokens: Tensor, encoder_outs: Any, incremental_states: Any, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor | None]:
        """Decode one step, read the members' outputs and remember them.

        Args:
            tokens: (rows, step + 1) the rows so far; the last column was chosen by the search.
            encoder_outs: one per member.
            incremental_states: one per member.
            temperature: of the distribution searched; measures are those at 1.

        Returns:
            (rows, V) log-probabilities to search with and (rows, S) attention averaged over the
            members, None if they give none.

        Raises:
            InputError: a member gave NaN (step and member are named).
        """
        history = self.history
        history.choose(tokens[:, -1])
        outputs: list[MemberRows] = []
        features: list[Tensor] = []
        attentions: list[Tensor] = []

        for m, model in enumerate(self.models):
            encoder_out = encoder_outs[m] if self.has_encoder() else None
            projection = self._projections[m]
            has_outputs = student_outputs(model) is not None
            features_only = projection is not None or has_outputs or self.densities is not None
            net_output = self._step(
                model, tokens, encoder_out, incremental_states[m], features_only
            )
            newest = net_output[0][:, -1:, :]
            if self.densities is not None:
                features.append(newest[:, -1, :])
            # What is kept until the step's tokens are known: features, where the model has them.
            if has_outputs:
                outputs += rows_of_student(model, newest[:, -1, :])
            elif projection is not None:
                outputs.append(ProjectedRows(newest[:, -1, :], projection.weight, projection.bias))
            else:
                if features_only:
                    newest = model.decoder.output_layer(newest)
                given = member_output(model, (newest, *net_output[1:]), history.estimator)
                outputs.append(KeptRows(given[:, -1, :]))
            attention = _attention(net_output)
            if attention is not None:
                attentions.append(attention)
        try:
            reading = history.estimator.read(outputs, temperature, history.prefix)
        except InputError as error:
            raise InputError(f"at decoding step {history.steps + 1}: {error}") from error
        history.append(reading, outputs, features)
        return reading.log_probs, _mean(attentions)

    def reorder_incremental_state(self, incremental_states: Any, new_order: Tensor) -> None:
        """Continue each row i from row ``new_order[i]``: decoder states and histories."""
        self.history.reorder(new_order)
        super().reorder_incremental_state(incremental_states, new_order)

    def _step(
        self,
        model: Any,
        tokens: Tensor,
        encoder_out: Any,
        incremental_state: Any,
        features_only: bool,
    ) -> Any:
        """Return a member's decoder output (logits or features first) for the tokens so far."""
        if not hasattr(model, "decoder"):
            return model.forward(tokens)
        given = {"encoder_out": encoder_out}
        if self.has_incremental_states():
            given["incremental_state"] = incremental_state
        if features_only:
            given["features_only"] = True
        return model.decoder.forward(tokens, **given)


class AlignedUncertaintyEnsembleModel(UncertaintyEnsembleModel, EnsembleModelWithAlignment):
    """The same for ``--print-alignment``, which asks the models for attention once more."""


def _attention(net_output: Any) -> Tensor | None:
    """Return (rows, S) attention of the newest position, if the decoder gave any."""
    extra = net_output[1] if len(net_output) > 1 else None
    attention = extra.get("attn") if isinstance(extra, dict) else extra
    if isinstance(attention, list | tuple):
        attention = attention[0] if attention else None
    return None if attention is None else attention[:, -1, :]


def _mean(tensors: list[Tensor]) -> Tensor | None:
    """Return the mean of tensors of one shape, None of none."""
    return sum(tensors[1:], start=tensors[0]) / len(tensors) if tensors else None
