"""The JSON of --deepspeed against fairseq's options."""

import functools
import itertools
import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

from fairseq_plugins.scale.agreement import read_json
from fairseq_plugins.scale.configuration import EngineConfiguration, engine_configuration
from fairseq_plugins.scale.keys import COMPARED, FIXED, PASSED, REFUSED, known_keys
from fairseq_plugins.scale.launch import check_accelerator, launcher_options, take_option, train
from seqdistill.errors import InputError

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "deepspeed.json"
BASE = [
    "data", "--arch", "transformer", "--task", "translation", "--criterion", "cross_entropy",
    "--optimizer", "adam", "--lr", "0.0005", "--adam-betas", "(0.9, 0.98)", "--batch-size", "4",
]  # fmt: skip


def settings(*arguments: object) -> Any:
    parser = options.get_training_parser()
    base = BASE
    if "sgd" in arguments or "sgld" in arguments:  # which have no betas
        base = [a for a in BASE if a not in ("--adam-betas", "(0.9, 0.98)")]
    given = options.parse_args_and_arch(parser, [*base, *map(str, arguments)])
    return convert_namespace_to_omegaconf(given)


def resolved(values: dict[str, Any], *arguments: object, processes: int = 2) -> EngineConfiguration:
    return engine_configuration(values, settings(*arguments), processes, "ds.json")


def test_an_empty_json_says_what_fairseq_says() -> None:
    stage = {"zero_optimization": {"stage": 1}}
    given = resolved(stage, "--update-freq", 3, "--clip-norm", 0.5, "--bf16").values
    assert given["train_micro_batch_size_per_gpu"] == 4
    assert given["gradient_accumulation_steps"] == 3
    assert given["train_batch_size"] == 4 * 3 * 2
    assert given["gradient_clipping"] == 0.5
    assert given["bf16"]["enabled"] is True
    assert given["fp16"]["enabled"] is False
    assert given["managed_gradient_accumulation"] is False
    assert resolved({}).values["zero_optimization"] == {"stage": 0}
    assert "optimizer" not in given


def test_auto_is_fairseqs_everywhere() -> None:
    values = {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto", "initial_scale_power": "auto", "loss_scale_window": "auto"},
        "optimizer": {
            "type": "AdamW",
            "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"},
        },
        "zero_optimization": {"stage": 2},
    }
    fp16 = ["--fp16", "--fp16-init-scale", 64, "--weight-decay", 0.01]
    given = resolved(values, *fp16, "--update-freq", 2).values
    assert given["optimizer"]["params"] == {
        "lr": 0.0005, "betas": [0.9, 0.98], "eps": 1e-8, "weight_decay": 0.01
    }  # fmt: skip
    # fairseq's default window: 2^14 updates / processes / update_freq.
    expected = {"enabled": True, "initial_scale_power": 6, "loss_scale_window": 2**14 // 4}
    assert given["fp16"] == expected | {"loss_scale": 0, "hysteresis": 1, "min_loss_scale": 1}
    assert given["train_batch_size"] == 16
    # Saying the same is no contradiction, as 1 and 1.0 are not.
    values["gradient_clipping"] = 0
    values["optimizer"]["params"]["betas"] = [0.9, 0.98]
    assert resolved(values, *fp16).values["gradient_clipping"] == 0.0


@pytest.mark.parametrize(
    ("values", "arguments", "said"),
    [
        ({"gradient_clipping": 1.0}, [], ["gradient_clipping", "1.0", "--clip-norm", "0.0"]),
        ({"gradient_accumulation_steps": 4}, ["--update-freq", 2], ["4", "--update-freq", "2"]),
        (
            {"gradient_accumulation_steps": 4},
            ["--update-freq", "4,2"],
            ["gradient_accumulation_steps", "--update-freq changes ([4, 2])"],
        ),
        ({"train_micro_batch_size_per_gpu": 8}, [], ["8", "--batch-size", "4"]),
        (
            {"train_batch_size": 64},
            ["--update-freq", 2],
            ["64", "--batch-size × --update-freq × processes, 4 × 2 × 2", "16"],
        ),
        (
            {
                "train_batch_size": 64,
                "train_micro_batch_size_per_gpu": 4,
                "gradient_accumulation_steps": 4,
            },
            ["--update-freq", 4],
            ["64", "4 × 4 × 2 = 32"],
        ),
        ({"train_batch_size": 64}, ["--max-tokens", 4000], ["64", "--max-tokens"]),
        ({"train_batch_size": 1.5}, [], ["train_batch_size", "whole number", "1.5"]),
        ({"fp16": {"enabled": True}}, [], ["fp16.enabled", "True", "--fp16", "False"]),
        ({"bf16": {"enabled": False}}, ["--bf16"], ["bf16.enabled", "--bf16", "True"]),
        (
            {"fp16": {"initial_scale_power": 16}, "zero_optimization": {"stage": 1}},
            ["--fp16"],
            ["fp16.initial_scale_power", "16", "--fp16-init-scale 128", "7"],
        ),
        (
            {"fp16": {"loss_scale": 1024}, "zero_optimization": {"stage": 1}},
            ["--fp16"],
            ["fp16.loss_scale", "1024", "dynamic"],
        ),
        (
            {"fp16": {"loss_scale_window": 10}, "zero_optimization": {"stage": 1}},
            ["--fp16", "--fp16-scale-window", 20],
            ["fp16.loss_scale_window", "10", "--fp16-scale-window", "20"],
        ),
        (
            {"fp16": {"hysteresis": 2}, "zero_optimization": {"stage": 1}},
            ["--fp16"],
            ["fp16.hysteresis", "2", "--fp16-scale-tolerance"],
        ),
        (
            {"fp16": {"min_loss_scale": 4}, "zero_optimization": {"stage": 1}},
            ["--fp16", "--min-loss-scale", 2],
            ["fp16.min_loss_scale", "4", "--min-loss-scale", "2"],
        ),
        ({}, ["--fp16"], ["--fp16", "zero_optimization.stage"]),
        ({}, ["--bf16"], ["--bf16", "zero_optimization.stage"]),
        (
            {"zero_optimization": {"stage": 1}},
            ["--fp16", "--fp16-init-scale", 100],
            ["--fp16-init-scale 100", "power of 2"],
        ),
        (
            {"zero_optimization": {"stage": 1}},
            ["--fp16", "--fp16-scale-tolerance", 0.1],
            ["--fp16-scale-tolerance 0.1", "fp16.hysteresis"],
        ),
        ({"optimizer": {"type": "Lamb"}}, [], ["optimizer.type", "Lamb", "--optimizer", "adam"]),
        (
            {"optimizer": {"type": "Adam"}},
            ["--optimizer", "sgd"],
            ["optimizer.type", "Adam", "--optimizer", "sgd"],
        ),
        (
            {"optimizer": {"type": "Adam", "params": {"lr": 0.1}}},
            [],
            ["optimizer.params.lr", "0.1", "--lr", "0.0005"],
        ),
        (
            {"optimizer": {"type": "Adam", "params": {"betas": [0.9, 0.999]}}},
            [],
            ["optimizer.params.betas", "0.999", "--adam-betas", "0.98"],
        ),
        (
            {"optimizer": {"type": "Adam", "params": {"eps": 1e-6}}},
            [],
            ["optimizer.params.eps", "1e-06", "--adam-eps", "1e-08"],
        ),
        (
            {"optimizer": {"type": "Adam", "params": {"weight_decay": 0.1}}},
            [],
            ["optimizer.params.weight_decay", "0.1", "--weight-decay", "0.0"],
        ),
        (
            {"optimizer": {"type": "Adam", "params": {"adam_w_mode": False}}},
            ["--weight-decay", 0.1],
            ["optimizer.params.adam_w_mode", "--weight-decay 0.1"],
        ),
        (
            {"scheduler": {"type": "WarmupLR"}},
            [],
            ["'scheduler' cannot be used", "--lr-scheduler"],
        ),
        (
            {"activation_checkpointing": {"partition_activations": True}},
            [],
            ["activation_checkpointing.partition_activations", "--checkpoint-activations"],
        ),
        ({"torch_autocast": {"enabled": True}}, [], ["torch_autocast", "--bf16"]),
        ({"managed_gradient_accumulation": True}, [], ["managed_gradient_accumulation", "False"]),
        ({"gradient_allreduce_op": "sum"}, [], ["gradient_allreduce_op", "mean"]),
        (
            {"zero_optimization": {"stage": 3}},
            ["--eval-bleu"],
            ["--eval-bleu", "zero_optimization.stage"],
        ),
        ({"zero_optimization": {"stage": 4}}, [], ["zero_optimization.stage", "0 to 3", "4"]),
        (
            {"zero_optimization": {"stage": 1, "overlap_comm": True}},
            [],
            ["overlap_comm", "stage 2 or 3", "1"],
        ),
        (
            {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}},
            [],
            ["offload_optimizer", "needs stage 1", "0"],
        ),
        (
            {"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}},
            [],
            ["offload_param", "needs stage 3", "2"],
        ),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}},
            ["--optimizer", "sgd"],
            ["offload_optimizer", "--optimizer adam", "sgd"],
        ),
        (
            {"zero_optimization": {"stage": 2, "reduce_bucket_size": "many"}},
            [],
            ["zero_optimization", "reduce_bucket_size", "many"],
        ),
        (
            {"zero_optimization": {"stage": 3, "stage3_prefetch_bucket_size": "auto"}},
            [],
            ["zero_optimization.stage3_prefetch_bucket_size", "auto", "no option"],
        ),
        ({"zero_optimization": 3}, [], ["zero_optimization", "expected an object", "3"]),
        ({}, ["--amp"], ["--amp", "--fp16 or --bf16"]),
        ({}, ["--ddp-backend", "fully_sharded"], ["--ddp-backend fully_sharded"]),
        ({}, ["--use-bmuf"], ["--use-bmuf"]),
        ({}, ["--zero-sharding", "os"], ["--zero-sharding", "zero_optimization"]),
        ({}, ["--store-ema"], ["--store-ema"]),
        ({}, ["--optimizer", "sgld"], ["--optimizer sgld cannot", "--deepspeed"]),
    ],
)
def test_contradictions_name_both_sides(
    values: dict[str, Any], arguments: list[object], said: list[str]
) -> None:
    with pytest.raises(InputError) as raised:
        resolved(values, *arguments)
    for part in said:
        assert part in str(raised.value), raised.value


@pytest.mark.parametrize(
    ("values", "key", "nearest"),
    [
        ({"zero_optimisation": {"stage": 2}}, "zero_optimisation", "zero_optimization"),
        ({"zero_optimization": {"stag": 2}}, "zero_optimization.stag", "stage"),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"devise": "cpu"}}},
            "zero_optimization.offload_optimizer.devise",
            "device",
        ),
        ({"fp16": {"initial_scale": 8}}, "fp16.initial_scale", "initial_scale_power"),
        ({"bf16": {"enable": True}}, "bf16.enable", "enabled"),
        ({"optimizer": {"type": "Adam", "params": {"beta": 1}}}, "optimizer.params.beta", "betas"),
        ({"grad_clipping": 1.0}, "grad_clipping", "gradient_clipping"),
    ],
)
def test_an_unknown_key_is_told_the_nearest(values: dict[str, Any], key: str, nearest: str) -> None:
    with pytest.raises(InputError, match=f"unknown key '{key}'.* is '{nearest}'"):
        resolved(values)


def test_offload_takes_deepspeeds_adam_with_fairseqs_settings() -> None:
    offload = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}
    given = resolved(offload).values
    assert given["optimizer"]["type"] == "AdamW"
    assert given["optimizer"]["params"]["betas"] == [0.9, 0.98]


def test_decoding_in_validation_goes_with_zero_2() -> None:
    assert resolved({"zero_optimization": {"stage": 2}}, "--eval-bleu").stage == 2


def test_what_a_spawned_process_runs_can_be_sent_to_it() -> None:
    sent = pickle.loads(pickle.dumps(functools.partial(train, path="ds.json", bf16=True)))
    assert sent.func is train
    assert sent.keywords == {"path": "ds.json", "bf16": True}


def test_a_bad_file_says_where(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    with pytest.raises(InputError, match="no such file"):
        read_json(str(path))
    path.write_text('{"fp16": {},\n "bf16" {}}')
    with pytest.raises(InputError, match="line 2: not JSON"):
        read_json(str(path))
    path.write_text("[1]")
    with pytest.raises(InputError, match="expected a JSON object, got a list"):
        read_json(str(path))
    path.write_text('{"steps_per_print": 1, "steps_per_print": 2}')
    with pytest.raises(InputError, match="'steps_per_print' is there twice"):
        read_json(str(path))


def test_the_example_is_accepted_and_every_kind_of_key_is_described() -> None:
    given = resolved(read_json(str(EXAMPLE)), "--bf16", "--max-tokens", 4000)
    assert given.stage == 2
    page = (EXAMPLE.parents[1] / "deepspeed.md").read_text()
    for key in (*COMPARED, *PASSED, *FIXED, *REFUSED, "activation_checkpointing"):
        assert f"`{key}`" in page, key
    assert json.loads(EXAMPLE.read_text()) == json.loads(_first_json(page))


def _first_json(page: str) -> str:
    found = re.search(r"```json\n(.*?)```", page, re.DOTALL)
    assert found is not None
    return found[1]


def test_known_keys_are_those_of_the_installed_deepspeed() -> None:
    known = known_keys()
    assert {"stage", "overlap_comm", "stage3_param_persistence_threshold"} <= set(
        known["zero_optimization"]
    )
    # What DeepSpeed has removed is refused, or unknown.
    from deepspeed.runtime.config import _REMOVED_TOP_LEVEL_CONFIG_KEYS

    assert not set(_REMOVED_TOP_LEVEL_CONFIG_KEYS) & {*COMPARED, *PASSED, *FIXED}


def test_the_option_is_split_from_fairseqs() -> None:
    assert take_option(["data", "--deepspeed", "a.json", "--cpu"]) == ("a.json", ["data", "--cpu"])
    assert take_option(["--deepspeed=a.json"]) == ("a.json", [])
    for arguments in (["--deepspeed"], ["--deepspeed", "--cpu"]):
        with pytest.raises(InputError, match="expected a JSON file"):
            take_option(arguments)
    with pytest.raises(InputError, match="expected one JSON file, got 2"):
        take_option(["--deepspeed", "a", "--deepspeed", "b"])


def test_a_launchers_variables_become_fairseqs_options() -> None:
    environment = {
        "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"
    }  # fmt: skip
    given = launcher_options(environment, ["--cpu"], use_cpu=True)
    pairs = dict(itertools.pairwise(given))
    assert pairs["--distributed-init-method"] == "env://"
    assert pairs["--distributed-world-size"] == "4"
    assert pairs["--distributed-rank"] == "3"
    assert pairs["--device-id"] == "1"
    assert pairs["--distributed-backend"] == "gloo"
    # The deepspeed launcher says the local rank itself; without a launcher fairseq decides.
    assert "--device-id" not in launcher_options(environment, ["--local_rank=1"], use_cpu=False)
    assert launcher_options({"RANK": "0"}, [], use_cpu=False) == []
    with pytest.raises(InputError, match="RANK 3 of WORLD_SIZE 4"):
        launcher_options(environment, ["--distributed-world-size", "8"], use_cpu=False)


def test_another_accelerator_than_fairseqs_is_refused() -> None:
    check_accelerator({}, use_cpu=True)
    check_accelerator({"DS_ACCELERATOR": "cpu"}, use_cpu=True)
    with pytest.raises(InputError, match="DS_ACCELERATOR is 'cuda'"):
        check_accelerator({"DS_ACCELERATOR": "cuda"}, use_cpu=True)
