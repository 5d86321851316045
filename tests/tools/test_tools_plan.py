"""tools/plan.py from outside."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIG = {
    "num_layers": 8,
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "max_position_embeddings": 1024,
    "train_batch_size": 64,
    "train_micro_batch_size_per_gpu": 1,
    "train_iters": 10,
    "precision": "bf16",
}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "a.yml"
    path.write_text(json.dumps(CONFIG))
    return path


def plan(*arguments):
    command = [sys.executable, str(ROOT / "tools" / "plan.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)


def test_json_ranks_what_fits(config):
    done = plan(config, "--gpus", 8, "--gpu", "a100-40gb", "--top", 3, "--json", "--set", "seq_length=512")
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    assert len(result["layouts"]) == 3 <= result["fitting"] <= result["tried"]
    speeds = [layout["tokens_per_second"] for layout in result["layouts"]]
    assert speeds == sorted(speeds, reverse=True) and speeds[0] >= result["own"]["tokens_per_second"]
    for layout in result["layouts"]:
        keys = layout["keys"]
        assert layout["fits"] and layout["memory"]["per_gpu_bytes"] <= result["gpu_memory_bytes"]
        assert keys["model_parallel_size"] * keys["pipe_parallel_size"] * layout["data_parallel_size"] == 8
        micro, steps = keys["train_micro_batch_size_per_gpu"], keys["gradient_accumulation_steps"]
        assert micro * steps * layout["data_parallel_size"] == 64


def test_the_table_ends_with_the_keys_to_set(config):
    done = plan(config, "--gpus", 4, "--gpu", "h100-80gb", "--top", 2)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].endswith("matrix products at 45% of the peak, 25 GB/s between machines")
    assert [line.split()[0] for line in lines[2:5]] == ["1", "2", "as"]
    assert "the first of them: --set model_parallel_size=" in done.stdout


def test_where_nothing_fits_the_smallest_is_shown(config):
    done = plan(config, "--gpus", 2, "--gpu", "t4", "--set", "num_layers=200", "hidden_size=8192")
    assert done.returncode == 1
    assert "smallest" in done.stdout and "no layout fits" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--gpus", 8, "--gpu", "h100-80"), "did you mean h100-80gb?"),
        (("--gpus", 8, "--gpu", "zzz"), "the known ones are b200"),
        (("--gpus", 0, "--gpu", "t4"), "0 is not at least 1"),
        (("--gpus", 8, "--gpu", "t4", "--efficiency", "1.5"), "1.5 is not a share above 0 and up to 1"),
        (("--gpus", 8, "--gpu", "t4", "--set", "hiden_size=3"), "did you mean hidden_size?"),
        (("--gpus", 9, "--gpu", "t4", "--set", "model_parallel_size=2"), "--set train_batch_size=N"),
    ],
)
def test_wrong_input_exits_2(config, arguments, words):
    done = plan(config, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_no_torch_on_the_login_node(config):
    program = textwrap.dedent(
        f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        from tools.plan import main
        assert main([{str(config)!r}, "--gpus", "2", "--gpu", "t4"]) == 0
        heavy = {{"torch", "deepspeed", "megatron", "transformers", "numpy"}} & set(sys.modules)
        assert not heavy, heavy
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
