"""Promise 2: the layout changes nothing but the speed. One table of real runs, each compared with the run of one process."""

from pathlib import Path

import numpy
import pytest
import torch
from support.runs import curve, run_rows, weights

from neox.data.store import StoreWriter, read_lengths

TP2 = {"model_parallel_size": 2}
PP2 = {"pipe_parallel_size": 2}
SEQUENCE = {"sequence_parallel": True}
CPU = {"device": "cpu"}


def zero(stage: int) -> dict:
    return {"zero_optimization": {"stage": stage}}


# each row: processes, and the keys that differ from the run of one process
ROWS = {
    "accumulation": (1, {"train_micro_batch_size_per_gpu": 2}),
    "zero1": (1, zero(1)),
    "recompute": (1, {"checkpoint_activations": True}),
    "dp2-zero0": (2, zero(0)),
    "dp2-zero1": (2, zero(1)),
    "dp2-zero2": (2, zero(2)),
    "dp2-zero3": (2, zero(3)),
    "dp2-zero2-offload": (2, {"zero_optimization": {"stage": 2, "offload_optimizer": CPU}}),
    "dp2-zero3-offload": (2, {"zero_optimization": {"stage": 3, "offload_optimizer": CPU, "offload_param": CPU}}),
    "tp2": (2, TP2),
    "tp2-sequence": (2, {**TP2, **SEQUENCE}),
    "tp2-zero1": (2, {**TP2, **zero(1)}),
    "pp2": (2, {**PP2, **zero(1), "gradient_accumulation_steps": 4}),
    "pp2-recompute": (2, {**PP2, **zero(1), "gradient_accumulation_steps": 4, "checkpoint_activations": True}),
    "pp4": (4, {"pipe_parallel_size": 4, **zero(1), "gradient_accumulation_steps": 4}),
    "pp2-dp2": (4, {**PP2, **zero(1), "gradient_accumulation_steps": 2}),
    "tp2-pp2": (4, {**TP2, **PP2, **zero(1), "gradient_accumulation_steps": 2}),
    "tp2-pp2-sequence": (4, {**TP2, **PP2, **SEQUENCE, **zero(1), "gradient_accumulation_steps": 2}),
    "tp2-dp2-zero1": (4, {**TP2, **zero(1)}),
    "tp2-dp2-zero2": (4, {**TP2, **zero(2)}),
    "tp2-dp2-zero3": (4, {**TP2, **zero(3)}),
}
# further models, by name: keys that differ from the run above, and rows of their own
TIED = {"no_weight_tying": False, "pos_emb": "learned"}
GROUPED = {
    "num_kv_heads": 2,
    "use_qk_layernorm": True,
    "norm": "rmsnorm",
    "activation": "swiglu",
    "ffn_hidden_size": 96,
    "use_bias_in_qkv": False,
    "sliding_window_width": 8,
    "rope_scaling": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 16},
}
RELATIVE = {
    "pos_emb": "rpe",
    "norm": "scalenorm",
    "gpt_j_residual": True,
    "gpt_j_tied": True,
    "activation": "glu",
    "ffn_hidden_size": 96,
    "init_method": "orthogonal",
    "scale_attention": False,
}
LINEAR = {
    "pos_emb": "alibi",
    "norm": "non_parametric_layernorm",
    "activation": "geglu",
    "ffn_hidden_size": 96,
    "attention_config": [[["global", "local"], 2]],
    "window_size": 5,
    "use_bias_in_attn_linear": False,
}
SINUSOIDAL = {"pos_emb": "sinusoidal", "num_kv_heads": 1, "activation": "mish", "use_bias_in_mlp": False}
MODELS = {
    "tied": (
        TIED,
        {
            "dp2-zero1": (2, zero(1)),
            "tp2-sequence-recompute": (2, {**TP2, **SEQUENCE, "checkpoint_activations": True}),
            "pp2": (2, {**PP2, **zero(1), "gradient_accumulation_steps": 4}),
            "tp2-pp2-sequence": (4, {**TP2, **PP2, **SEQUENCE, **zero(1), "gradient_accumulation_steps": 2}),
        },
    ),
    "grouped": (
        GROUPED,
        {
            "tp2-sequence": (2, {**TP2, **SEQUENCE}),
            "tp2-pp2": (4, {**TP2, **PP2, **zero(1), "gradient_accumulation_steps": 2}),
        },
    ),
    "relative": (
        RELATIVE,
        {
            "tp2": (2, TP2),
            "pp2-recompute": (2, {**PP2, **zero(1), "gradient_accumulation_steps": 4, "checkpoint_activations": True}),
            "tp2-dp2-zero3": (4, {**TP2, **zero(3)}),
        },
    ),
    "linear": (
        LINEAR,
        {
            "dp2-zero3": (2, zero(3)),
            "tp2-pp2-sequence": (4, {**TP2, **PP2, **SEQUENCE, **zero(1), "gradient_accumulation_steps": 2}),
        },
    ),
    "sinusoidal": (
        SINUSOIDAL,
        {
            "dp2-zero3": (2, zero(3)),
            "pp2": (2, {**PP2, **zero(1), "gradient_accumulation_steps": 4}),
        },
    ),
    # learning rates by group, and factors in the forward pass; the inner stages of four have no embedding and no head
    "mup": (
        {"use_mup": True, "mup_base_hidden_size": 32, "mup_base_num_attention_heads": 4, "mup_output_temp": 0.5},
        {
            "dp2-zero2": (2, zero(2)),
            "dp2-zero3": (2, zero(3)),
            "tp2": (2, TP2),
            "pp4": (4, {"pipe_parallel_size": 4, **zero(1), "gradient_accumulation_steps": 4}),
        },
    ),
    # label data, see the fixture: how many tokens count differs from sample to sample
    "labelled": (
        {"data_path": None},
        {
            "dp2": (2, {"train_micro_batch_size_per_gpu": 2}),
            "pp2": (2, {**PP2, **zero(1), "gradient_accumulation_steps": 4}),
        },
    ),
    # short documents, see the fixture, that do not see one another: every stage must know where each lies
    "documents": (
        {"pos_emb": "learned", "reset_attention_mask": True, "reset_position_ids": True},
        {
            "dp2-zero3": (2, zero(3)),
            "pp2-recompute": (2, {**PP2, **zero(1), "gradient_accumulation_steps": 4, "checkpoint_activations": True}),
            "tp2-pp2-sequence": (4, {**TP2, **PP2, **SEQUENCE, **zero(1), "gradient_accumulation_steps": 2}),
        },
    ),
}
# without positions, the functions of the MLP that no model above has
MODELS |= {
    activation: (
        {"pos_emb": "none", "activation": activation, "ffn_hidden_size": 96},
        {"tp2-sequence": (2, {**TP2, **SEQUENCE})},
    )
    for activation in ("gelu_new", "relu", "silu", "softsign", "reglu", "bilinear")
}

ALL_ROWS = {
    "untied": (1, {}),
    **{name: (1, keys) for name, (keys, _) in MODELS.items()},
    **ROWS,
    **{
        f"{name}-{row}": (processes, {**model, **keys})
        for name, (model, rows) in MODELS.items()
        for row, (processes, keys) in rows.items()
    },
}
REFERENCES = dict.fromkeys(ROWS, "untied") | {
    f"{name}-{row}": name for name, (_, rows) in MODELS.items() for row in rows
}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, char_data: Path) -> dict:
    """Data keys with labels: in each document only what follows its first so many tokens is learned."""
    tokens = numpy.fromfile(f"{char_data}.bin", dtype=numpy.uint16).astype(numpy.int32)
    lengths = numpy.concatenate([*read_lengths(char_data)])
    starts = numpy.repeat(numpy.cumsum(lengths) - lengths, lengths)
    prompts = numpy.repeat(numpy.arange(lengths.size) * 23 % lengths, lengths)
    prefix = tmp_path_factory.mktemp("labels") / "harbour_label_document"
    with StoreWriter(prefix, numpy.int32) as store:
        learned = numpy.arange(tokens.size) - starts >= prompts
        store.add(numpy.where(learned, tokens, numpy.int32(-100)), lengths)
        store.finish()
    paths = {f"{use}_data_paths": [str(char_data)] for use in ("train", "valid")}
    return paths | {f"{use}_label_data_paths": [str(prefix)] for use in ("train", "valid")}


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory, char_data: Path) -> dict:
    """Data keys of documents so short that a sample has several."""
    prefix = tmp_path_factory.mktemp("short") / "harbour_text_document"
    tokens = numpy.fromfile(f"{char_data}.bin", dtype=numpy.uint16)
    with StoreWriter(prefix, tokens.dtype) as store:
        for number in range(300):
            document = tokens[number * 20 :][: 5 + number * 7 % 20].copy()
            document[-1] = 0
            store.add(document, numpy.array([document.size]))
        store.finish()
    return {"data_path": str(prefix)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, char_data: Path, labelled: dict, short: dict):
    """The folder of a row's run. The rows of one number of processes share the processes of one launch."""
    root = tmp_path_factory.mktemp("rows")
    launched = {}

    def of(name: str) -> Path:
        processes = ALL_ROWS[name][0]
        if processes not in launched:
            rows = {
                row: {
                    "num_gpus": processes,
                    "extra_save_iters": [0],
                    **keys,
                    **(labelled if row.startswith("labelled") else {}),
                    **(short if row.startswith("documents") else {}),
                }
                for row, (count, keys) in ALL_ROWS.items()
                if count == processes
            }
            # in new Pythons, whose sets have another order in each: nothing that ranks do together may follow it
            launched[processes] = run_rows(root, char_data, rows, expect=None, fresh=True)
        error = root / name / "config.error"
        assert not error.exists(), error.read_text()
        assert (root / name / "checkpoints" / "latest").exists(), f"did not run:\n{launched[processes]}"
        return root / name

    return of


@pytest.mark.parametrize("name", REFERENCES)
def test_layout_changes_nothing(name: str, folders) -> None:
    row, reference = folders(name), folders(REFERENCES[name])
    initial, expected = weights(row, 0), weights(reference, 0)
    assert initial.keys() == expected.keys()
    for weight in expected:
        assert torch.equal(initial[weight], expected[weight]), f"initial {weight} differs"
    for metric in ("train/lm_loss", "train/grad_norm", "validation/lm_loss"):
        measured, wanted = curve(row, metric), curve(reference, metric)
        torch.testing.assert_close(torch.tensor(measured), torch.tensor(wanted), rtol=1e-5, atol=1e-5)


def test_loss_is_the_mean_over_the_tokens_that_are_learned(folders) -> None:
    """At the start every token is about as unlikely as any other, so leaving some out changes the mean little."""
    (labelled, *_), (every, *_) = curve(folders("labelled"), "train/lm_loss"), curve(folders("untied"), "train/lm_loss")
    assert labelled != every
    assert labelled == pytest.approx(every, rel=0.02)
