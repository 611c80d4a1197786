"""From fairseq's hypotheses to seqdistill's: text, pieces and numbers."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.hypotheses import Against, Hypothesis, Tempered
from seqdistill.uncertainty.measures import MEASURES, resolve_measures

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
        sample: fairseq's batch of B sentences; ``utterances``, names of B sources that are no text,
            and ``transcripts``, B references as they were written, or None, are used where there.
        hypos: B lists of hypotheses, best first.
        ids: the sentences' numbers.
        dictionary: of the target side.
        target_text: makes text of target indices.
        source_text: likewise of source indices; None when the source is no text.
        n_best: how many of each list, at most.
        measures: the measures to keep, of those that the generator was made for; None keeps all.

    Raises:
        InputError: a chosen measure does not exist for this kind of model, or a number is not
            finite.
    """
    pad = dictionary.pad()
    sources = sample["net_input"].get("src_tokens") if source_text is not None else None
    references = sample.get("target")
    names, transcripts = sample.get("utterances"), sample.get("transcripts")
    for row, (sentence, candidates) in enumerate(zip(ids, hypos, strict=True)):
        source = reference = None
        if source_text is not None and sources is not None:
            source = source_text(sources[row][sources[row] != pad])
        elif names is not None:
            source = names[row]
        if transcripts is not None:
            reference = transcripts[row]
        elif references is not None:
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
                against=_against(hypo, sentence),
                tempered=_tempered(hypo, sentence),
            )


def _against(hypo: dict[str, Any], sentence: int) -> Against | None:
    if "against_model" not in hypo:
        return None
    divergence = _numbers(hypo["token_kl_divergence"], "token_kl_divergence", sentence)
    return Against(hypo["against_model"], divergence, hypo["token_top1_agreement"].tolist())


def _tempered(hypo: dict[str, Any], sentence: int) -> Tempered | None:
    if "temperatures" not in hypo:
        return None
    rows = hypo["token_log_partitions"]
    return Tempered(
        list(hypo["temperatures"]),
        [_numbers(row, "token_log_partitions", sentence) for row in rows],
    )


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
    found: dict[str, Any] = hypo["uncertainty"]
    if measures is None:
        return list(found)
    has_samples = hypo["model"].kind == "dirichlet" and any(n.endswith("_ep") for n in found)
    wanted = resolve_measures(measures, hypo["model"].kind, samples=has_samples)
    if hypo["model"].kind == "expectations":
        # What such a student has depends on what it learnt; a word for many stands for those.
        wanted = tuple(name for name in wanted if name in found or name in measures)
    missing = [name for name in wanted if name not in found]
    if missing:
        raise InputError(
            f"{', '.join(missing)} were not computed; make the generator with the same measures"
        )
    # What is added by an option of its own is there because that option was given.
    return [*wanted, *(name for name in found if name in MEASURES and MEASURES[name].added_by)]


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
