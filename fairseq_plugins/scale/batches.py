"""The JSON's batch sizes, as fairseq's options say them."""

from typing import Any

from fairseq_plugins.scale.agreement import AUTO, Agreement
from seqdistill.errors import InputError


def batch_sizes(
    given: dict[str, Any], cfg: Any, world_size: int, agreement: Agreement
) -> dict[str, int]:
    """Return the engine's batch sizes.

    The engine only counts samples with them: fairseq makes the batches and ends the updates. With
    ``--max-tokens`` a batch has no fixed number of sentences; it is then counted as 1.

    Args:
        given: the JSON.
        cfg: fairseq's configuration.
        world_size: processes of the training.
        agreement: compares.

    Raises:
        InputError: a number is none, they do not multiply, or contradict fairseq's.
    """
    path = agreement.path
    numbers = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "train_batch_size")
    said = {key: given[key] for key in numbers if given.get(key) not in (None, AUTO)}
    for key, value in said.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{path}: {key!r}: expected a whole number from 1, got {value!r}")
    if len(said) == len(numbers):
        micro, steps, total = (said[key] for key in numbers)
        if micro * steps * world_size != total:
            raise InputError(
                f"{path}: 'train_batch_size' is {total}, but 'train_micro_batch_size_per_gpu' × "
                f"'gradient_accumulation_steps' × processes = {micro} × {steps} × {world_size} = "
                f"{micro * steps * world_size}"
            )
    update_freq = list(cfg.optimization.update_freq)
    steps = max(update_freq)
    if len(set(update_freq)) == 1:
        key = "gradient_accumulation_steps"
        agreement.agreed(key, said.get(key), "--update-freq", steps)
    elif "gradient_accumulation_steps" in said:
        raise InputError(
            f"{path}: 'gradient_accumulation_steps' is {said['gradient_accumulation_steps']}, but "
            f'fairseq\'s --update-freq changes ({update_freq}); write "auto" in the JSON'
        )
    sentences = cfg.dataset.batch_size
    if sentences is None or cfg.dataset.max_tokens is not None or len(set(update_freq)) > 1:
        for key in set(said) - {"gradient_accumulation_steps"}:
            limit = "--max-tokens" if cfg.dataset.max_tokens is not None else "--update-freq"
            raise InputError(
                f"{path}: {key!r} is {said[key]}, but with fairseq's {limit} batches have no one "
                'number of sentences; write "auto" in the JSON'
            )
    micro = sentences or 1
    key = "train_micro_batch_size_per_gpu"
    agreement.agreed(key, said.get(key), "--batch-size", micro)
    total = micro * steps * world_size
    product = f"--batch-size × --update-freq × processes, {micro} × {steps} × {world_size},"
    agreement.agreed("train_batch_size", said.get("train_batch_size"), product, total)
    return dict(zip(numbers, (micro, steps, total), strict=True))
