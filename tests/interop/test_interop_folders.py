"""Folders as users have them: tokenizers, shards, old pickles, and what is refused by name, with nothing left behind."""

import importlib.util
import json
import pickle
from pathlib import Path

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from support.families import CLASSES, saved
from support.models import small
from support.runs import ROOT, run
from transformers import AutoTokenizer

from neox.checkpoint.layout import CheckpointError
from neox.config.errors import ConfigError
from neox.interop import files
from neox.interop.huggingface import export_folder, import_folder
from neox.interop.keys import differences, read_model
from neox.interop.names import FAMILIES
from tools.convert_hf import MODEL_TYPES

KEYS = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 56,
    "max_position_embeddings": 64,
}
PROMPT = "the tide goes out"


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A small Llama as transformers saves it."""
    saved(tmp_path / "theirs", "llama", **KEYS)
    return tmp_path / "theirs"


def add_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer with fewer tokens than the model has rows."""
    engine = tokenizers.Tokenizer(tokenizers.models.BPE())
    engine.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=280, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    engine.train_from_iterator([PROMPT] * 10, trainer)
    engine.save(str(folder / "tokenizer.json"))
    facts = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))


def edit_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refused(source: Path, words: str) -> None:
    """The import is refused in these words, and leaves nothing."""
    with pytest.raises(ConfigError) as caught:
        import_folder(source, source.parent / "ours")
    assert words in str(caught.value)
    assert [path.name for path in source.parent.iterdir()] == [source.name]


def state(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "global_step0").glob("state_*")}


def tool(*arguments: str | Path) -> int:
    """Exit code of tools/convert_hf.py."""
    spec = importlib.util.spec_from_file_location("convert_hf", ROOT / "tools" / "convert_hf.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main(list(map(str, arguments)))


def test_the_tool_knows_every_family() -> None:
    assert list(FAMILIES) == list(MODEL_TYPES)


def test_import_then_generate_then_export(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The way of a user: the tool, generate.py with the config.yml that the import wrote, the tool again, transformers."""
    reference = saved(tmp_path / "theirs", "llama", block_std=0.6, **KEYS)
    add_tokenizer(tmp_path / "theirs")
    assert tool("import", "--hf", tmp_path / "theirs", "--output", tmp_path / "ours") == 0
    count = sum(parameter.numel() for parameter in reference.parameters())
    assert capsys.readouterr().out.endswith(f"ours: {count:,} parameters\n")
    (tmp_path / "prompts").write_text(PROMPT)
    written = run(
        "generate.py",
        tmp_path / "ours" / "config.yml",
        "--set",
        f"sample_input_file={tmp_path / 'prompts'}",
        f"sample_output_file={tmp_path / 'texts'}",
        "maximum_tokens=20",
    )
    (record,) = (json.loads(line) for line in (tmp_path / "texts").read_text().splitlines())
    assert tool("export", "--checkpoint", tmp_path / "ours" / "global_step0", "--output", tmp_path / "back") == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "back")
    again = CLASSES["llama"][1].from_pretrained(tmp_path / "back").eval()
    prompt = tokenizer(PROMPT, return_tensors="pt", add_special_tokens=False)
    ids = again.generate(**prompt, do_sample=False, max_new_tokens=20)[0, prompt["input_ids"].shape[1] :]
    assert record["text"] == tokenizer.decode(ids, clean_up_tokenization_spaces=False), written
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert (config["vocab_size"], config["bos_token_id"], config["eos_token_id"]) == (300, 1, 2)


def test_finetuning_takes_the_config_as_it_is(theirs: Path) -> None:
    add_tokenizer(theirs)
    import_folder(theirs, theirs.parent / "ours")
    config = theirs.parent / "ours" / "config.yml"
    keys = ("train_iters=3", "train_batch_size=4", "data_path=somewhere")
    plan = json.loads(run("train.py", config, "--set", *keys, "--dry-run", "--json").splitlines()[-1])
    assert plan["parameters"]["total_unpadded"] == sum(
        tensor.numel() for tensor in load_file(theirs / files.WEIGHT_FILES[0]).values()
    )
    assert plan["config"]["checkpoint"]["finetune"] is True
    assert Path(plan["config"]["checkpoint"]["load"]) == config.parent
    assert Path(plan["config"]["tokenizer"]["vocab_file"]) == config.parent / "tokenizer" / "tokenizer.json"


def test_all_forms_of_files_give_the_same_state(theirs: Path) -> None:
    import_folder(theirs, theirs.parent / "ours")
    expected = state(theirs.parent / "ours")
    weights = load_file(theirs / "model.safetensors")
    forms = {
        "pickle": {},
        "old pickle": {"_use_new_zipfile_serialization": False},
        "shards": None,
        "bare network": None,
    }
    for form, options in forms.items():
        folder = theirs.parent / form
        folder.mkdir()
        (folder / "config.json").write_bytes((theirs / "config.json").read_bytes())
        buffers = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
        if options is not None:
            torch.save(weights | buffers, folder / "pytorch_model.bin", **options)
        elif form == "shards":
            names = sorted(weights)
            halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
            for file, members in halves.items():
                save_file({name: weights[name] for name in members}, folder / file)
            weight_map = {name: file for file, members in halves.items() for name in members}
            (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        else:
            bare = {name.removeprefix("model."): weight for name, weight in weights.items()}
            save_file(bare, folder / "model.safetensors")
        import_folder(folder, theirs.parent / f"of {form}")
        assert state(theirs.parent / f"of {form}") == expected, form


def test_exports_in_shards_and_half_precision(theirs: Path) -> None:
    import_folder(theirs, theirs.parent / "ours")
    export_folder(theirs.parent / "ours", theirs.parent / "back", precision="bf16", shard_bytes=20_000)
    index = json.loads((theirs.parent / "back" / "model.safetensors.index.json").read_text())
    names = {path.name for path in (theirs.parent / "back").glob("model-*")}
    assert set(index["weight_map"].values()) == names
    assert len(names) > 2
    again = CLASSES["llama"][1].from_pretrained(theirs.parent / "back")
    assert again.dtype == torch.bfloat16
    for name, weight in load_file(theirs / "model.safetensors").items():
        assert torch.equal(again.state_dict()[name], weight.bfloat16()), name


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "bert"}, "model_type: 'bert' is not supported; known are gpt_neox, llama"),
        ({"head_dim": 16}, "head_dim: 16 is not supported; heads must be hidden_size / num_attention_heads = 8 wide"),
        ({"hidden_act": "quick_gelu"}, "hidden_act: 'quick_gelu' is not supported"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "rope_parameters: {'rope_type': 'longrope'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "llama": 1}}, "llama"),
        ({"quantization_config": {"bits": 4}}, "quantization_config: quantised weights are not supported"),
        ({"num_hidden_layers": 3}, "its weights lack model.layers.2"),
        ({"num_hidden_layers": 1}, "model.layers.1.input_layernorm.weight and 8 more have no place"),
        ({"intermediate_size": 57}, "the weights make [2, 56, 32], and the configuration asks for [2, 57, 32]"),
        ({"num_key_value_heads": 4}, "self_attn.k_proj.weight [16, 32], model.layers.0.self_attn.v_proj"),
        ({"num_hidden_layers": -1}, "does not describe a model that can be built"),
    ],
)
def test_refused_by_the_name_of_the_key(theirs: Path, changes: dict, words: str) -> None:
    edit_config(theirs, **changes)
    refused(theirs, words)


def test_a_pickle_that_runs_code_is_refused(theirs: Path) -> None:
    """FAULTS 25."""

    class Evil:
        def __reduce__(self):
            return (Path.touch, (theirs.parent / "harm",))

    (theirs / "model.safetensors").unlink()
    (theirs / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Evil()}))
    refused(theirs, "cannot be read as weights")


def test_damaged_folders_are_refused(theirs: Path) -> None:
    weights = theirs / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    refused(theirs, "cannot be read as weights")
    weights.unlink()
    refused(theirs, "holds no weights")
    index = theirs / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../b.safetensors"}}))
    refused(theirs, "is not a plain file name")
    index.write_text(json.dumps({"weight_map": {"a": "b.safetensors"}}))
    refused(theirs, "b.safetensors is not there: the download is not complete")
    (theirs / "config.json").write_text("{")
    refused(theirs, "is not JSON")


def test_the_tool_says_what_is_wrong_and_exits_with_2(theirs: Path, capsys: pytest.CaptureFixture) -> None:
    assert tool("import", "--hf", theirs, "--output", theirs) == 2
    assert "is there already: give a new or an empty folder" in capsys.readouterr().err
    edit_config(theirs, head_dim=16)
    assert tool("import", "--hf", theirs, "--output", theirs.parent / "ours") == 2
    assert "head_dim: 16" in capsys.readouterr().err
    assert tool("export", "--checkpoint", theirs, "--output", theirs.parent / "back") == 2
    assert "no checkpoint there" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_not_exported(theirs: Path) -> None:
    import_folder(theirs, theirs.parent / "ours")
    path = theirs.parent / "ours" / "global_step0" / "state_00001.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(CheckpointError, match="SHA-256"):
        export_folder(theirs.parent / "ours", theirs.parent / "back")
    assert not (theirs.parent / "back").exists()


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"pos_emb": "alibi"}, "pos_emb: alibi cannot be said there, only rotary"),
        ({"gpt_j_residual": True, "gpt_j_tied": True}, "gpt_j_tied: True cannot be said there, only False"),
        ({"use_qk_layernorm": True}, "use_qk_layernorm: True cannot be said there, only False"),
        ({"activation": "softsign"}, "activation: softsign cannot be said there, only gelu"),
        ({"num_kv_heads": 2}, "num_kv_heads: 2 cannot be said there, only 4"),
        ({"sliding_window_width": 3}, "attention_config: [4, 4] cannot be said there, only [None, None]"),
        ({"norm": "rmsnorm"}, "norm: rmsnorm cannot be said there, only layernorm"),
        ({"moe_num_experts": 4}, "moe_num_experts: 4 cannot be said there, only 1"),
        (
            {"use_mup": True, "mup_base_hidden_size": 16, "mup_base_num_attention_heads": 4},
            "use_mup: True cannot be said there, only False",
        ),
        ({"use_bias_in_mlp": False}, "use_bias_in_mlp: False cannot be said there, only True"),
    ],
)
def test_what_a_family_cannot_say_is_named(keys: dict, complaint: str) -> None:
    model = small(**{"pos_emb": "rotary", "no_weight_tying": True, **keys})
    assert complaint in differences(model, FAMILIES["gpt_neox"].table)


def test_any_checkpoint_finds_its_family() -> None:
    """What computes the same is said, however it is spelled in our keys."""
    neox = small(pos_emb="rotary", attention_config=["flash", "global"], intermediate_size=128, use_bias_in_qkv=True)
    assert differences(neox, FAMILIES["gpt_neox"].table) == []
    gpt2 = small(activation="gelu_new", seq_length=8, init_method="xavier_normal", window_size=3)
    assert [name for name in FAMILIES if not differences(gpt2, FAMILIES[name].table)] == ["gpt2"]
    llama = {"pos_emb": "rotary", "norm": "rmsnorm", "activation": "swiglu"}
    llama |= {"use_bias_in_attn_linear": False, "use_bias_in_mlp": False, "train_impl": "dpo"}
    mistral = small(**llama, sliding_window_width=4)
    assert [name for name in FAMILIES if not differences(mistral, FAMILIES[name].table)] == ["mistral"]
    mixtral = small(**llama, moe_num_experts=4, moe_top_k=2)
    assert [name for name in FAMILIES if not differences(mixtral, FAMILIES[name].table)] == ["mixtral"]


def test_a_single_expert_is_no_mixture_of_mixtral() -> None:
    table = FAMILIES["mixtral"].table
    with pytest.raises(ConfigError, match="num_experts_per_tok: 1 is not supported: a single expert counts as much as"):
        read_model({"num_experts_per_tok": 1}, table)
    with pytest.raises(ConfigError, match="num_local_experts: 1 is not supported"):
        read_model({"num_local_experts": 1}, table)
    llama = {
        "pos_emb": "rotary",
        "norm": "rmsnorm",
        "rms_norm_epsilon": 1e-5,
        "activation": "swiglu",
        "no_weight_tying": True,
    }
    llama |= {"use_bias_in_attn_linear": False, "use_bias_in_mlp": False}
    assert differences(small(**llama), table) == [
        "moe_num_experts: 1 cannot be said there, only 2",
        "moe_top_k: 1 cannot be said there, only 2",
    ]
    assert differences(small(**llama, moe_num_experts=4), table) == ["moe_top_k: 1 cannot be said there, only 2"]
