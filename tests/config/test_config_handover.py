"""The configuration reaches every rank as it left the launcher, and DeepSpeed in its own words."""

import pytest

from neox.config.deepspeed import deepspeed_config
from neox.config.errors import ConfigError
from neox.config.handover import FILE_NAME, LONGEST_ARGUMENT, argument, config_from_argv, pack, unpack
from neox.config.read import config_from_values

BASE = {
    "num_layers": 4,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "train_micro_batch_size_per_gpu": 2,
    "train_iters": 10,
}


def test_round_trip():
    config = config_from_values(
        {
            **BASE,
            "optimizer": {"params": {"lr": 1 / 3, "betas": [0.9, 0.95]}},
            "attention_config": [[["global", "local"], "all"]],
            "prompt_end": "\n\u2603\n",
            "deepspeed_extra_args": {"a": [1, {"b": None}]},
        }
    )
    assert unpack(pack(config)) == config
    assert config_from_argv(["train.py", "--other", "--config", pack(config)]) == config
    assert set(pack(config)) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=")


def test_a_long_configuration_goes_by_file(tmp_path):
    config = config_from_values(BASE)
    assert argument(pack(config), tmp_path) == pack(config)
    paths = [f"/data/{index * 7919 % 1_000_003:06d}/{hash(str(index))}" for index in range(8_000)]
    long = config.model_copy(update={"data": config.data.model_copy(update={"train_data_paths": paths})})
    (tmp_path / FILE_NAME).write_text(pack(long))
    text = argument(pack(long), tmp_path)
    assert text.startswith("@")
    assert len(text) < 1000 < LONGEST_ARGUMENT < len(pack(long))
    assert unpack(text) == long


@pytest.mark.parametrize("text", ["", "x", "@/no/such/file", "eNoDAAAAAAE=", "\u2603", "eNqrrgUAAXUA-Q=="])
def test_damage_is_named(text):
    with pytest.raises(ConfigError, match="--config: this is no packed configuration"):
        unpack(text)


def test_a_script_started_by_hand_says_how_to_start_it():
    with pytest.raises(ConfigError, match=r"python deepy.py train.py CONFIG"):
        config_from_argv(["/somewhere/train.py"])


def test_deepspeed_settings():
    config = config_from_values(
        {
            **BASE,
            "num_gpus": 2,
            "fp16": {"initial_scale_power": 12},
            "zero_optimization": {"stage": 2, "overlap_comm": False},
            "gradient_clipping": 0.5,
            "deepspeed_extra_args": {"zero_optimization": {"sub_group_size": 10}, "comms_logger": {"enabled": True}},
        }
    )
    settings = deepspeed_config(config)
    assert settings["train_batch_size"] == 4
    assert settings["fp16"]["enabled"] is True
    assert settings["fp16"]["initial_scale_power"] == 12
    assert settings["zero_optimization"]["stage"] == 2
    assert settings["zero_optimization"]["overlap_comm"] is False
    assert settings["zero_optimization"]["sub_group_size"] == 10
    assert settings["comms_logger"] == {"enabled": True}
    assert settings["gradient_clipping"] == 0.5
    assert settings["wall_clock_breakdown"] is False
    assert settings["steps_per_print"] >= 1_000_000
    assert not {"bf16", "pipeline", "communication_data_type"} & set(settings)


def test_deepspeed_in_bf16_with_pipeline_and_sequence_parallel():
    layout = {"num_gpus": 4, "pipe_parallel_size": 2, "model_parallel_size": 2}
    settings = deepspeed_config(
        config_from_values({**BASE, **layout, "precision": "bf16", "sequence_parallel": True, "fp32_allreduce": True})
    )
    assert settings["bf16"] == {"enabled": True, "check_grad_overflow": False}  # that would wait for the device
    assert settings["pipeline"] == {"pipe_partitioned": False, "grad_partitioned": False}
    assert settings["communication_data_type"] == "fp32"
    assert "pipeline" not in deepspeed_config(config_from_values({**BASE, **layout}))


def test_deepspeed_adds_up_16_bit_gradients_in_fp32():
    def told(**keys) -> bool:
        settings = deepspeed_config(config_from_values({**BASE, "num_gpus": 2, **keys}))
        assert settings.get("data_types") in (None, {"grad_accum_dtype": "fp32"})
        return "data_types" in settings

    several = {"train_batch_size": 8, "train_micro_batch_size_per_gpu": 2, "precision": "bf16"}
    for stage in (1, 2, 3):
        zero = {"zero_optimization": {"stage": stage}}
        assert told(**several, **zero)
        assert not told(**{**several, "precision": "fp32"}, **zero)
        assert not told(**{**several, "train_batch_size": 4}, **zero), "there is nothing to add up"
    assert not told(**several), "at ZeRO 0 the masters are ours"
