"""Promise 2: the layout changes nothing but the speed. One table of real runs, each compared with the run of one process."""

from pathlib import Path

import pytest
import torch
from support.runs import curve, finish, start, weights, write_config

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
TIED = {"no_weight_tying": False, "pos_emb": "learned"}
TIED_ROWS = {
    "tied-dp2-zero1": (2, zero(1)),
    "tied-tp2-sequence-recompute": (2, {**TP2, **SEQUENCE, "checkpoint_activations": True}),
    "tied-pp2": (2, {**PP2, **zero(1), "gradient_accumulation_steps": 4}),
    "tied-tp2-pp2-sequence": (4, {**TP2, **PP2, **SEQUENCE, **zero(1), "gradient_accumulation_steps": 2}),
}


ALL_ROWS = {
    "untied": (1, {}),
    "tied": (1, TIED),
    **ROWS,
    **{name: (processes, {**TIED, **keys}) for name, (processes, keys) in TIED_ROWS.items()},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, char_data: Path):
    """The folder of a row's run. The rows of one number of processes share the processes of one launch."""
    root = tmp_path_factory.mktemp("rows")
    launched = {}

    def of(name: str) -> Path:
        processes = ALL_ROWS[name][0]
        if processes not in launched:
            configs = [
                write_config(root / row, char_data, num_gpus=processes, extra_save_iters=[0], **keys)
                for row, (count, keys) in ALL_ROWS.items()
                if count == processes
            ]
            rows = ":".join(map(str, configs))
            process = start("tests/support/rows.py", configs[0], NEOX_ROWS=rows)
            launched[processes] = finish(process, expect=None)
        error = root / name / "config.error"
        assert not error.exists(), error.read_text()
        assert (root / name / "checkpoints" / "latest").exists(), f"did not run:\n{launched[processes]}"
        return root / name

    return of


@pytest.mark.parametrize("name", [*ROWS, *TIED_ROWS])
def test_layout_changes_nothing(name: str, folders) -> None:
    row, reference = folders(name), folders("tied" if name in TIED_ROWS else "untied")
    initial, expected = weights(row, 0), weights(reference, 0)
    assert initial.keys() == expected.keys()
    for weight in expected:
        assert torch.equal(initial[weight], expected[weight]), f"initial {weight} differs"
    for metric in ("train/lm_loss", "train/grad_norm", "validation/lm_loss"):
        measured, wanted = curve(row, metric), curve(reference, metric)
        torch.testing.assert_close(torch.tensor(measured), torch.tensor(wanted), rtol=1e-5, atol=1e-5)
