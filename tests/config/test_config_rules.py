"""One failing case for each rule between keys, and the surroundings of a run."""

import hashlib
import json
import os

import pytest

from neox.config import mends
from neox.config.errors import ConfigError
from neox.config.load import load_text
from neox.config.mends import ROOT, tool
from neox.config.read import config_from_values, resolved
from neox.config.resolve import Surroundings
from neox.config.rules import GENERATION_RULES, RULES, TRAINING_RULES, TRAINING_WARNINGS
from neox.config.rules.layout import vocabulary_fits
from neox.config.surroundings import notes_on_wandb

BASE = {
    "num_layers": 4,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "train_micro_batch_size_per_gpu": 1,
    "train_iters": 10,
}
CHARACTERS = {"tokenizer_type": "CharLevelTokenizer"}
MUP = {"use_mup": True, "mup_base_hidden_size": 32, "mup_base_num_attention_heads": 4}
PAIRS = {
    **CHARACTERS,
    "train_impl": "dpo",
    "dpo_reference_free": True,
    "pos_train_data_paths": ["a"],
    "neg_train_data_paths": ["b"],
    "pack_impl": "unpacked",
    "eval_iters": 0,
}

# rule -> keys that break it, the key that is complained about, words of the sentence
CASES = {
    "heads_divide_hidden": ({"num_attention_heads": 5}, "num_attention_heads", "5 heads do not divide hidden_size 64"),
    "heads_divide_by_tensor_parallel": (
        {"model_parallel_size": 8, "num_gpus": 8},
        "model_parallel_size",
        "8 processes cannot share 4 heads evenly",
    ),
    "kv_heads_divide_heads": (
        {"num_kv_heads": 3},
        "num_kv_heads",
        "4 heads cannot share 3 heads of keys and values evenly",
    ),
    "mlp_divides_by_tensor_parallel": (
        {"model_parallel_size": 2, "num_gpus": 2, "ffn_hidden_size": 99},
        "model_parallel_size",
        "2 processes cannot share the MLP's inner width 99 evenly",
    ),
    "stages_have_blocks": (
        {"pipe_parallel_size": 5, "num_gpus": 5},
        "pipe_parallel_size",
        "5 stages need a block each, but num_layers is 4",
    ),
    "torchrun_has_a_meeting_point": (
        {"launcher": "torchrun", "num_nodes": 2, "num_gpus": 1, "master_addr": "node-0"},
        "master_port",
        "is missing: the machines of torchrun meet at it, the same on each",
    ),
    "zero_needs_plain_pipeline": (
        {"pipe_parallel_size": 2, "num_gpus": 2, "zero_optimization": {"stage": 2}},
        "zero_optimization.stage",
        "stage 2 does not work with pipe_parallel_size 2: use stage 1, or one pipeline stage",
    ),
    "offloading_needs_zero": (
        {"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}},
        "zero_optimization.offload_param",
        "works from stage 3 on, and zero_optimization.stage is 2",
    ),
    "compiled_blocks_hold_their_weights": (
        {"zero_optimization": {"stage": 3}, "compile_blocks": True},
        "compile_blocks",
        "does not work with zero_optimization.stage 3, which gathers weights while a block runs: use stage 2",
    ),
    "sequence_parallel_needs_tensor_parallel": (
        {"sequence_parallel": True},
        "sequence_parallel",
        "give model_parallel_size > 1, or false",
    ),
    "tokens_have_enough_experts": (
        {"moe_num_experts": 4, "moe_top_k": 5},
        "moe_top_k",
        "5 experts for each token are more than moe_num_experts 4",
    ),
    "experts_are_shared_evenly": (
        {"moe_num_experts": 6, "moe_expert_parallel_size": 4, "num_gpus": 4},
        "moe_expert_parallel_size",
        "4 replicas cannot share the experts of moe_num_experts 6 evenly",
    ),
    "mixtures_need_whole_sequences_and_weights": (
        {"moe_num_experts": 4, "zero_optimization": {"stage": 3}},
        "zero_optimization.stage",
        "stage 3 does not work with a mixture of experts",
    ),
    "adapters_stand_beside_whole_weights": (
        {"lora_rank": 4, "pipe_parallel_size": 2, "num_gpus": 2},
        "lora_rank",
        "adapters do not work with pipeline stages",
    ),
    "expert_parallel_needs_scattered_gradients": (
        {"moe_num_experts": 4, "moe_expert_parallel_size": 2, "num_gpus": 2}
        | {"zero_optimization": {"stage": 1, "reduce_scatter": False}},
        "zero_optimization.reduce_scatter",
        "DeepSpeed reduces the gradients of experts only where this is true",
    ),
    "mup_knows_its_base": (
        {"use_mup": True, "mup_base_num_attention_heads": 4},
        "use_mup",
        "mup_base_hidden_size is missing: give the width and heads of the model that was tuned",
    ),
    "mup_knows_every_part": (
        {**MUP, "optimizer": {"type": "SGD"}},
        "optimizer.type",
        "the learning rates of use_mup are those of Adam and AdamW",
    ),
    "attention_pattern_fits": (
        {"attention_config": [[["global", "local"], 3]]},
        "attention_config",
        "names the attention of 6 layers, but num_layers is 4",
    ),
    "rotary_dimensions_are_even": (
        {"pos_emb": "rotary", "rotary_pct": 0.2},
        "rotary_pct",
        "0.2 of the 16 dimensions of a head is 3",
    ),
    "rotary_scaling_is_whole": (
        {"rope_scaling": {"rope_type": "linear", "factor": 2}},
        "rope_scaling",
        "stretches rotary positions, and pos_emb is learned",
    ),
    "relative_positions_have_buckets": (
        {"pos_emb": "rpe", "rpe_num_buckets": 8, "rpe_max_distance": 4},
        "rpe_num_buckets",
        "rpe_max_distance 4 must be above that half",
    ),
    "sinusoids_come_in_pairs": (
        {"pos_emb": "sinusoidal", "hidden_size": 63, "num_attention_heads": 3},
        "hidden_size",
        "63 is odd",
    ),
    "tied_norm_is_for_parallel_residual": ({"gpt_j_tied": True}, "gpt_j_tied", "give gpt_j_residual: true too"),
    "sequence_fits_positions": ({"seq_length": 64}, "seq_length", "64 tokens are more than max_position_embeddings 32"),
    "one_mlp_width": (
        {"intermediate_size": 256, "ffn_hidden_size": 256},
        "ffn_hidden_size",
        "give one of them",
    ),
    "recomputed_blocks_fit": (
        {"checkpoint_activations": True, "checkpoint_num_layers": 5},
        "checkpoint_num_layers",
        "5 blocks cannot be recomputed together where num_layers is 4",
    ),
    "rates_are_in_order": ({"min_lr": 1.0}, "min_lr", "1 is above the peak rate optimizer.params.lr 0.001"),
    "momentum_is_for_sgd": (
        {"optimizer": {"params": {"momentum": 0.9}}},
        "optimizer.params.momentum",
        "is a setting of SGD, and optimizer.type is Adam",
    ),
    "finetuning_needs_weights": ({"finetune": True}, "finetune", "starts from the weights of load, which is not given"),
    "weights_fit_paths": (
        {**CHARACTERS, "train_data_paths": ["a", "b"], "valid_data_paths": ["c"], "train_data_weights": [1.0]},
        "train_data_weights",
        "1 weights for 2 train_data_paths",
    ),
    "labels_fit_paths": (
        {**CHARACTERS, "train_data_paths": ["a", "b"], "valid_data_paths": ["c"], "train_label_data_paths": ["d"]},
        "train_label_data_paths",
        "1 prefixes for 2 train_data_paths",
    ),
    "labels_stay_beside_their_tokens": (
        {
            **CHARACTERS,
            "train_data_paths": ["a"],
            "valid_data_paths": ["c"],
            "train_label_data_paths": ["b"],
            "fim_rate": 0.5,
        },
        "fim_rate",
        "moves tokens away from their labels, and train_label_data_paths is given",
    ),
    "masked_tokens_are_seen_from_both_sides": (
        {"train_impl": "mlm", "pos_emb": "alibi"},
        "pos_emb",
        "alibi knows distances backwards only",
    ),
    "preferences_need_the_whole_model": (
        {**PAIRS, "pipe_parallel_size": 2, "num_gpus": 2},
        "train_impl",
        "dpo does not work with pipe_parallel_size 2: use one stage",
    ),
    "chopping_is_for_whole_documents": (
        {"allow_chopped": False},
        "allow_chopped",
        "give pack_impl: unpacked or pack_until_overflow too",
    ),
    "fill_in_has_a_rate": ({"fim_no_prefix": "#"}, "fim_no_prefix", "has no effect: fim_rate is 0"),
    "split_is_three_shares": ({"split": "90, 10"}, "split", "is not three shares"),
    "tokenizer_has_its_files": (
        {"data_path": "a", "tokenizer_type": "HFTokenizer"},
        "tokenizer_type",
        "is missing: HFTokenizer needs it",
    ),
    "checkpoint_urls_are_plain": (
        {"save": "s", "checkpoint_factor": 5, "checkpoint_upload": "s3://key:secret@bucket/run"},
        "checkpoint_upload",
        "has a password in it",
    ),
    "extra_settings_are_extra": (
        {"deepspeed_extra_args": {"zero_optimization": {"stage": 2}}},
        "deepspeed_extra_args",
        "zero_optimization.stage is set by the key zero_optimization.stage already",
    ),
    "training_has_an_end": ({"train_iters": None}, "train_iters", "train.py needs the number of optimizer steps"),
    "saved_steps_are_within_the_run": (
        {"save": "s", "extra_save_iters": [5, 11]},
        "extra_save_iters",
        "step 11 is beyond train_iters 10",
    ),
    "profiles_have_steps_and_a_place": (
        {"profile": True, "log_dir": "logs", "profile_step_start": 12},
        "profile_step_start",
        "no step is recorded: 12 is the first that is not, and 12 the first that is",
    ),
    "restarts_have_checkpoints": (
        {"max_restarts": 2},
        "max_restarts",
        "a restart goes on from a checkpoint: give save",
    ),
    "rollbacks_have_checkpoints": (
        {"on_nonfinite": "rollback"},
        "on_nonfinite",
        "a rollback goes back to a checkpoint: give save",
    ),
    "data_is_given_one_way": (
        {**CHARACTERS, "data_path": "a", "train_data_paths": ["b"], "valid_data_paths": ["c"]},
        "data_path",
        "train_data_paths is given too",
    ),
    "evaluation_has_data": (
        {**CHARACTERS, "train_data_paths": ["b"]},
        "train_data_paths",
        "give it beside train_data_paths, or eval_iters: 0",
    ),
    "preferences_are_pairs": (
        {"train_impl": "dpo", "pack_impl": "unpacked", "dpo_reference_free": True},
        "train_impl",
        "give pos_train_data_paths and neg_train_data_paths",
    ),
    "references_are_kept": (
        {**PAIRS, "dpo_reference_free": False, "load": "l"},
        "train_impl",
        "dpo compares with the weights that it begins with: give load and finetune: true",
    ),
    "generation_has_weights": ({}, "load", "the weights come from the folder of a checkpoint"),
    "generation_goes_forward": ({"load": "l", "train_impl": "mlm"}, "train_impl", "cannot continue texts"),
    "generation_has_prompts": (
        {"load": "l", "text_gen_type": "input-file"},
        "sample_input_file",
        "is missing: text_gen_type is input-file",
    ),
}
FURTHER_CASES = [
    (
        {"checkpoint_activations": True, "checkpoint_num_layers": 2, "recompute_num_layers": 1},
        "1 blocks are recomputed: at least checkpoint_num_layers (2), and at most num_layers (4)",
    ),
    ({"recompute_num_layers": 2}, "nothing is recomputed: give checkpoint_activations: true too"),
    ({"model_parallel_size": 2, "num_gpus": 2, "sequence_parallel": True, "seq_length": 31}, "multiple of model_para"),
    (
        {"moe_num_experts": 4, "moe_expert_parallel_size": 4, "num_gpus": 2},
        "groups of 4 replicas, which 2 replicas do not make evenly",
    ),
    ({"moe_expert_parallel_size": 2, "num_gpus": 2}, "cannot share the experts of moe_num_experts 1 evenly"),
    ({"moe_num_experts": 4, "pipe_parallel_size": 2, "num_gpus": 2}, "does not work with pipeline stages"),
    ({**MUP, "mup_base_num_attention_heads": 5}, "5 heads do not divide mup_base_hidden_size 32"),
    ({**MUP, "moe_num_experts": 4}, "use_mup has no rule for the router"),
    ({**MUP, "output_layer_init_method": "scaled_orthogonal"}, "scaled_orthogonal sets a scale by itself"),
    (
        {"moe_num_experts": 4, "model_parallel_size": 2, "num_gpus": 2, "sequence_parallel": True},
        "sequence_parallel: a mixture of experts routes whole sequences",
    ),
    ({"lora_rank": 4, "moe_num_experts": 4}, "adapters do not work with a mixture of experts"),
    ({"lora_rank": 4, "zero_optimization": {"stage": 3}}, "adapters do not work at stage 3"),
    (
        {"lora_rank": 4, "zero_optimization": {"stage": 1, "offload_optimizer": {"device": "cpu"}}},
        "leave offloading out",
    ),
    ({"attention_config": [[["global"], 5]]}, '5 is not a count between 1 and num_layers (4), nor "all"'),
    ({"attention_config": ["global", "locale", "global", "global"]}, "'locale' is no kind of attention here"),
    ({"attention_config": ["global", 3]}, "'global' is not a pair of words and a count"),
    ({"attention_config": [[[3], 4]]}, "[3] is not a list of words"),
    ({"attention_config": [[["mamba"], "all"]]}, "the kinds are global, flash, local"),
    ({"pos_emb": "rotary", "rotary_pct": 0.0}, "0 of the 16 dimensions of a head is 0"),
    ({"num_kv_heads": 1, "model_parallel_size": 2, "num_gpus": 2}, "2 processes cannot share 1 heads of keys"),
    ({"pos_emb": "rotary", "rope_scaling": {"factor": 2}}, "factor: has no effect with rope_type default"),
    (
        {"pos_emb": "rotary", "rope_scaling": {"rope_type": "llama3", "factor": 2, "low_freq_factor": 4}},
        "4 must be above low_freq_factor 4",
    ),
    (
        {"pos_emb": "rotary", "rotary_pct": 0.125, "rope_scaling": {"rope_type": "dynamic", "factor": 2}},
        "dynamic needs more than 2 dimensions",
    ),
    ({"train_impl": "mlm", "sliding_window_width": 8}, "mlm has no windows"),
    ({"train_impl": "mlm", "attention_config": [[["global"], 5]]}, "5 is not a count between 1 and num_layers"),
    ({"train_impl": "mlm", "fim_rate": 0.5}, "fim_rate: is for a model that predicts the next token"),
    ({"train_impl": "mlm", "pack_impl": "unpacked"}, "give reset_attention_mask: true too"),
    ({"train_impl": "mlm", "mlm_same_token_prob": 0.6, "mlm_random_token_prob": 0.6}, "are more than 1 together"),
    (
        {**CHARACTERS, "train_data_paths": ["a"], "valid_data_paths": ["a"], "train_label_data_paths": ["b"]}
        | {"train_impl": "mlm"},
        "mlm makes its own labels",
    ),
    ({**PAIRS, "moe_num_experts": 4}, "dpo does not work with a mixture of experts"),
    ({**PAIRS, "train_impl": "normal"}, "pos_train_data_paths: is for train_impl: dpo, and it is normal"),
    ({**PAIRS, "data_path": "a"}, "data_path: dpo reads pos_train_data_paths and neg_train_data_paths: leave it out"),
    ({**PAIRS, "valid_data_paths": ["a"]}, "valid_data_paths: dpo reads"),
    ({**PAIRS, "neg_train_data_paths": None}, "neg_train_data_paths: 0 prefixes for 1 pos_train_data_paths"),
    ({**PAIRS, "neg_valid_data_paths": ["b"]}, "neg_valid_data_paths: 1 prefixes for 0 pos_valid_data_paths"),
    ({**PAIRS, "pack_impl": "packed"}, "pack_impl: dpo compares whole answers: give unpacked, not packed"),
    ({**PAIRS, "fim_rate": 0.5}, "fim_rate: is for a model that predicts the next token, and train_impl is dpo"),
    ({**PAIRS, "eval_iters": 1}, "give it beside pos_train_data_paths, or eval_iters: 0"),
    ({**PAIRS, "train_data_weights": [1, 2]}, "train_data_weights: 2 weights for 1 pos_train_data_paths"),
    ({**PAIRS, "neg_train_label_data_paths": ["c", "d"]}, "2 prefixes for 1 neg_train_data_paths"),
    ({"train_impl": "kto"}, "use dpo, which learns from pairs of answers"),
    ({"split": "0, 50, 50"}, "leaves nothing for training"),
    ({"split": "0, 0, 0"}, "is not three shares"),
    ({"split": "a, b, c"}, "is not three shares"),
    ({"split": "nan, 1, 1"}, "is not three shares"),
    ({"split": "90, -5, 1"}, "is not three shares"),
    ({**CHARACTERS, "valid_data_paths": ["c"]}, "train_data_paths is missing"),
    ({**CHARACTERS, "train_data_paths": [], "valid_data_paths": ["c"]}, "is an empty list"),
    ({"train_data_weights": [1.0]}, "has no train_data_paths to weigh"),
    ({**CHARACTERS, "train_data_paths": ["a"], "valid_data_paths": ["a"], "train_data_weights": [0]}, "weights are 0"),
    (
        {**CHARACTERS, "train_data_paths": ["a"], "valid_data_paths": ["a"], "train_data_weights": [1]}
        | {"weight_by_num_documents": True},
        "weight_by_num_documents is given too",
    ),
    ({"weight_by_num_documents": True}, "weight_by_num_documents: has no train_data_paths to weigh"),
    ({"valid_label_data_paths": ["a"]}, "has no valid_data_paths to label"),
    ({"data_path": "a"}, "merge_file: is missing: GPT2BPETokenizer needs it"),
    ({"deepspeed_extra_args": {"train_batch_size": 4}}, "train_batch_size is set by the key train_batch_size already"),
    ({"deepspeed_extra_args": {"steps_per_print": 4}}, "steps_per_print is set by the engine"),
    ({"deepspeed_extra_args": {"fp16": {"enabled": True}}}, "fp16.enabled is a key of its own"),
    ({"deepspeed_extra_args": {"optimizer": {"type": "Lion"}}}, "the optimizer is built here, not by DeepSpeed"),
    ({"deepspeed_extra_args": {"seed": 1}}, "seed is a key of its own"),
]


def complaints_of(values, script="train.py"):
    with pytest.raises(ConfigError) as caught:
        config_from_values(values, script)
    return caught.value.complaints


def test_the_base_keeps_every_rule():
    config_from_values(BASE)
    config_from_values({**BASE, "load": "there"}, script="generate.py")


def test_every_rule_has_a_failing_case():
    assert sorted(CASES) == sorted(rule.__name__ for rule in [*RULES, *TRAINING_RULES, *GENERATION_RULES])


@pytest.mark.parametrize("rule", CASES)
def test_rule(rule):
    keys, key, words = CASES[rule]
    (complaint,) = complaints_of({**BASE, **keys}, "generate.py" if "generation" in rule else "train.py")
    place, found, sentence = complaint.split(": ", 2) if key in keys or "." in key else ("", *complaint.split(": ", 1))
    assert found == key
    assert words in sentence


@pytest.mark.parametrize(("keys", "words"), FURTHER_CASES)
def test_further_cases(keys, words):
    assert any(words in complaint for complaint in complaints_of({**BASE, **keys}))


def test_rules_run_beside_broken_keys():
    """A key of the wrong type stops the rules that read it, and no other."""
    complaints = complaints_of(
        {**BASE, "num_attention_heads": "many", "seq_length": 64, "min_lr": 1.0, "model_parallel_size": 0}
    )
    keys = [complaint.split(": ")[1] for complaint in complaints]
    assert sorted(keys) == ["min_lr", "model_parallel_size", "num_attention_heads", "seq_length"]


def test_settings_of_deepspeed_pass():
    extra = {"zero_optimization": {"sub_group_size": 1000}, "comms_logger": {"enabled": True}}
    assert config_from_values({**BASE, "deepspeed_extra_args": extra}).run.deepspeed_extra_args == extra


def test_the_vocabulary_is_shared_evenly():
    config = config_from_values({**BASE, "model_parallel_size": 2, "num_gpus": 2, "make_vocab_size_divisible_by": 1})
    assert list(vocabulary_fits(config, 32_000)) == []
    ((keys, sentence),) = vocabulary_fits(config, 50_257)
    assert "2 processes cannot share a vocabulary of 50,257" in sentence
    padded = config_from_values({**BASE, "vocab_size": 50_304})
    assert list(vocabulary_fits(padded, 50_277)) == []
    ((keys, sentence),) = vocabulary_fits(padded, 50_305)
    assert (keys, sentence[:38]) == ("vocab_size", "50,304 rows are fewer than the tokeniz")


def test_warnings_are_notes():
    text = "".join(f"{key}: {value}\n" for key, value in BASE.items())
    notes = resolved(
        load_text(text + "checkpoint_factor: 5\nmlp_multiple_of: 8\nmup_attn_temp: 2\n"), Surroundings(dry_run=True)
    ).notes
    assert any("checkpoint_factor: has no effect: save is not given" in note for note in notes)
    assert any("mlp_multiple_of: has no effect" in note for note in notes)
    assert any("mup_attn_temp: has no effect: use_mup is false" in note for note in notes)
    names = {"nothing_is_saved", "multiple_is_for_gated_mlps", "mup_numbers_are_for_mup"}
    assert {rule.__name__ for rule in TRAINING_WARNINGS} == names


# The world around a run


def around(keys, **surroundings):
    text = "".join(f"{key}: {value}\n" for key, value in {**BASE, **keys}.items())
    return resolved(load_text(text), Surroundings(**surroundings))


def refusals(keys, **surroundings):
    with pytest.raises(ConfigError) as caught:
        around(keys, **surroundings)
    return caught.value.complaints


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_missing_sample_files_are_one_line_with_the_command(folder, monkeypatch):
    monkeypatch.setattr(mends, "ROOT", folder / "software")
    (complaint,) = refusals({})
    assert complaint.endswith("make it with: python software/tools/prepare_data.py shakespeare")
    assert "data/shakespeare_text_document.idx" in complaint
    assert "data/gpt2-vocab.json" in complaint
    assert any(complaint in note for note in around({}, dry_run=True).notes), "in a dry run it is a note"
    (folder / "software/data").mkdir(parents=True)
    (folder / "software/data/gpt2-vocab.json").touch()
    assert refusals({})[0].endswith(f"start from {folder}/software: it is there")


def test_missing_data_and_tokenizer(folder):
    keys = {"data_path": "mine_text_document", "tokenizer_type": "HFTokenizer", "vocab_file": "t.json"}
    complaints = refusals(keys)
    assert len(complaints) == 2
    assert complaints[0].endswith(
        f"make them with: python {ROOT}/tools/preprocess_data.py --input FILE --output-prefix mine --tokenizer-type HFTokenizer "
        "--vocab-file t.json --append-eod"
    )
    assert complaints[1].endswith("vocab_file: t.json is not there; correct the path")
    for name in ("mine_text_document.bin", "mine_text_document.idx", "t.json"):
        (folder / name).touch()
    around(keys)
    (complaint,) = refusals({**keys, "data_path": "mine_text_document.bin"})
    assert "leave out .bin" in complaint
    (complaint,) = refusals({**keys, "data_path": "mine"})
    assert complaint.endswith("mine.bin and mine.idx not found; did you mean mine_text_document?")
    (folder / "other.jsonl").touch()
    (complaint,) = refusals({**keys, "data_path": "other.jsonl"})
    assert "--input other.jsonl --output-prefix other --tokenizer-type" in complaint
    assert complaint.endswith("and give other_text_document")


@pytest.mark.usefixtures("folder")
def test_missing_chats_are_made_from_chats():
    keys = {**CHARACTERS, "train_data_paths": ["c_messages_document"], "eval_iters": 0}
    keys["train_label_data_paths"] = ["c_messages_label_document"]
    for complaint in refusals(keys):
        assert "--output-prefix c --chat-key messages --tokenizer-type CharLevelTokenizer" in complaint


def test_the_commands_are_for_the_folder_that_the_user_is_in(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert tool("doctor.py") == "python tools/doctor.py"
    monkeypatch.chdir(ROOT.parent)
    assert tool("doctor.py") == f"python {ROOT.name}/tools/doctor.py"


def test_a_checkpoint_to_begin_with(folder):
    for name in ("d.bin", "d.idx"):
        (folder / name).touch()
    keys = {**CHARACTERS, "data_path": "d", "load": "there"}
    for path, words in (
        ("elsewhere", "there is no folder there"),
        ("there/config.json", "is a folder of transformers; import it first with: "),
        ("there/manifest.json", "is one step of a run: give the folder that it is in"),
        ("there/global_step5/layer_00-model_00-model_states.pt", "--checkpoint there/global_step5 --config"),
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
        (complaint,) = refusals(keys)
        assert words in complaint
        (complaint,) = refusals({**CHARACTERS, "load": "there"}, script="generate.py")
        assert words in complaint
    assert any(words in note for note in around(keys, dry_run=True).notes), "in a dry run it is a note"
    (folder / "there/global_step6").mkdir()
    (folder / "there/global_step6/manifest.json").touch()
    around(keys)


def test_a_checkpoint_of_another_shape_is_told_before_the_start(folder):
    for name in ("d.bin", "d.idx"):
        (folder / name).touch()
    keys = {**CHARACTERS, "data_path": "d", "save": "s"}
    (folder / "s/global_step9").mkdir(parents=True)
    (folder / "s/global_step10").mkdir()
    text = b"num_layers: 4\nhidden_size: 64\nnum_attention_heads: 8\n"
    files = {"config.yml": [len(text), hashlib.sha256(text).hexdigest()]}
    (folder / "s/global_step10/manifest.json").write_text(json.dumps({"files": files}))
    (folder / "s/global_step10/config.yml").write_bytes(text)
    (complaint,) = refusals(keys)
    assert complaint.endswith(
        "save: s/global_step10 is of another model: num_attention_heads is 8 there and 4 here; give another folder, or the keys of "
        "that model"
    )
    around({**keys, "num_attention_heads": 8})
    (folder / "s/global_step10/config.yml").write_bytes(text.replace(b"8", b"9"))
    around(keys)  # damaged: the run passes over it


def test_load_is_not_asked_where_save_has_a_checkpoint(folder):
    for name in ("d.bin", "d.idx"):
        (folder / name).touch()
    keys = {**CHARACTERS, "data_path": "d", "load": "gone", "save": "s"}
    assert len(refusals(keys)) == 1
    (folder / "s/global_step1").mkdir(parents=True)
    (folder / "s/global_step1/manifest.json").touch()
    around(keys)
    for load in ("new", "./new/", f"{folder}/new"):
        around({**keys, "load": load, "save": "new"})
    (complaint,) = refusals({**CHARACTERS, "save": "new"}, script="generate.py")
    assert complaint.endswith("save: there is no folder new: train first, or correct the path")


def test_a_folder_to_save_in(folder, monkeypatch):
    """FAULTS 10."""
    (folder / "file").touch()
    data = {**CHARACTERS, "data_path": "d"}
    for name in ("d.bin", "d.idx"):
        (folder / name).touch()
    around({**data, "save": "new/folders/below"})
    (complaint,) = refusals({**data, "save": "file/below"})
    assert complaint.endswith("file is a file, not a folder")
    monkeypatch.setattr(os, "access", lambda _, mode: mode & os.W_OK == 0)  # root may write everywhere
    (complaint,) = refusals({**data, "save": "locked/below"})
    assert complaint.endswith("cannot be written to")


def test_more_processes_than_devices(folder):
    for name in ("d.bin", "d.idx"):
        (folder / name).touch()
    keys = {**CHARACTERS, "data_path": "d", "num_gpus": 4}
    (complaint,) = refusals(keys, devices=2)
    assert "4 processes, but this machine shows 2 CUDA devices" in complaint
    around(keys, devices=0)
    around(keys, devices=4)
    around({**keys, "distributed_backend": "gloo"}, devices=2)


def test_wandb_online_without_a_key_is_a_note():
    config = config_from_values({**BASE, "use_wandb": True, "wandb_mode": "online"})
    (note,) = notes_on_wandb(config, {})
    assert "WANDB_API_KEY" in note
    assert list(notes_on_wandb(config, {"WANDB_API_KEY": "k"})) == []
