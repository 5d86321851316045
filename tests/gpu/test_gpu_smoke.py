"""What only a GPU shows: training in bf16 and fp16 under every ZeRO stage, without waiting for the device, attention equal to the
CPU's, and generation.

One process; small models; no files and no network.
"""

from collections.abc import Iterator

import pytest
import torch

from neox.config.read import config_from_values
from neox.config.sections import ModelConfig, ParallelConfig
from neox.data.batches import Batch, ahead
from neox.inference import decoding
from neox.inference.generator import Generator
from neox.inference.sampling import Sampling
from neox.model.attention import Attention
from neox.model.gpt import GPT
from neox.model.initializers import initialize_weights
from neox.model.linear import Sharding
from neox.parallel import topology as parallel
from neox.parallel.topology import Topology
from neox.training.engine import Engine
from neox.training.profile import Profile

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

VOCAB, SEQ, ROWS = 500, 64, 4
SHAPE = {
    "num_layers": 2,
    "hidden_size": 128,
    "num_attention_heads": 2,
    "max_position_embeddings": SEQ,
    "pos_emb": "rotary",
}


@pytest.fixture(scope="module")
def topology() -> Iterator[Topology]:
    """One process with NCCL."""
    joined = parallel.initialize(ParallelConfig(global_num_gpus=1))
    assert (joined.backend, joined.device.type) == ("nccl", "cuda")
    yield joined
    parallel.shutdown()


def same_batch() -> Iterator[Batch]:
    """A batch that comes again and again."""
    tokens = torch.randint(VOCAB, (ROWS, SEQ + 1), generator=torch.Generator().manual_seed(1))
    while True:
        yield Batch(tokens[:, :-1], tokens[:, 1:], torch.ones(ROWS, SEQ))


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_loss_falls(topology: Topology, precision: str, zero_stage: int) -> None:
    keys = {
        **SHAPE,
        "tokenizer_type": "CharLevelTokenizer",
        "train_batch_size": ROWS,
        "train_iters": 10,
        "precision": precision,
        "zero_optimization": {"stage": zero_stage},
    }
    if precision == "fp16":
        keys["fp16"] = {"initial_scale_power": 8}
    engine = Engine(config_from_values(keys), topology, VOCAB)
    batches = same_batch()
    steps = [engine.train_step(batches, learning_rate=3e-3) for _ in range(10)]
    losses = [float(step.loss) for step in steps]
    assert losses[0] == pytest.approx(6.2, abs=0.3), "ln 500, the loss of a model that knows nothing"
    assert losses[-1] < losses[0] - 1
    assert all(0 < float(step.grad_norm) < 100 for step in steps)
    assert not any(step.skipped for step in steps)


def test_a_profile_counts_what_the_device_does(topology: Topology, tmp_path, capfd: pytest.CaptureFixture) -> None:
    keys = {
        **SHAPE,
        "tokenizer_type": "CharLevelTokenizer",
        "train_batch_size": ROWS,
        "train_iters": 3,
        "precision": "bf16",
        "log_dir": str(tmp_path),
        "profile": True,
        "profile_step_start": 2,
        "profile_step_stop": 4,
    }
    config = config_from_values(keys)
    engine, profile, batches = Engine(config, topology, VOCAB), Profile(config.monitor, topology), same_batch()
    for step in range(1, 5):
        profile.before(step)
        engine.train_step(batches, learning_rate=1e-3)
    assert (tmp_path / "profile" / "rank0.json.gz").stat().st_size > 0
    table = capfd.readouterr().err
    assert all(kind in table for kind in ("matrix products", "attention", "optimizer", "Python and waiting"))
    times = engine.timers.take()
    assert set(times) == {"timers/data", "timers/forward", "timers/backward", "timers/optimizer"}
    assert all(seconds > 0 for seconds in times.values())


LOCAL = {"attention_config": [[["global", "local"], 1]], "window_size": 16}


@pytest.mark.parametrize(
    "keys", [{}, LOCAL, {**LOCAL, "checkpoint_activations": True, "recompute_num_layers": 1}], ids=str
)
@pytest.mark.parametrize("compiled", [False, True])
def test_steps_do_not_wait_for_the_device(topology: Topology, compiled: bool, keys: dict) -> None:
    values = {
        **SHAPE,
        **keys,
        "tokenizer_type": "CharLevelTokenizer",
        "train_batch_size": 2 * ROWS,
        "train_micro_batch_size_per_gpu": ROWS,
        "train_iters": 4,
        "precision": "bf16",
        "compile_blocks": compiled,
    }
    engine = Engine(config_from_values(values), topology, VOCAB)
    batches = ahead(same_batch(), topology.device)
    losses = [engine.train_step(batches, learning_rate=3e-3).loss for _ in range(2)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses += [engine.train_step(batches, learning_rate=3e-3).loss for _ in range(2)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert float(losses[-1]) < float(losses[0])


def test_batches_are_pinned(topology: Topology) -> None:
    first = next(ahead(same_batch(), topology.device))
    assert all(part.is_pinned() for part in (first.tokens, first.labels, first.loss_mask))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 16])
@pytest.mark.parametrize("keys", [{}, {"num_kv_heads": 1}, {"pos_emb": "alibi"}, {"pos_emb": "rpe", "num_kv_heads": 1}])
def test_attention_equals_the_cpu(topology: Topology, keys: dict, window: int | None, dtype: torch.dtype) -> None:
    model = ModelConfig(**{**SHAPE, **keys}, init_method_std=0.1)
    results = []
    for device, kept in (("cpu", torch.float32), (topology.device, dtype)):
        attention = Attention(model, layer=0, window=window, sharding=Sharding(topology))
        initialize_weights([(1, attention)], model=model, seed=0, topology=topology)
        attention.to(device, kept)
        hidden = torch.randn(SEQ, ROWS, 128, generator=torch.Generator().manual_seed(2)).to(device, kept)
        hidden.requires_grad_()
        mixed = attention(hidden)
        mixed.float().square().sum().backward()
        results.append((mixed.detach(), hidden.grad, attention.query_key_value.weight.grad))
    for on_cpu, on_gpu in zip(*results):
        error = (on_gpu.cpu().float() - on_cpu).norm() / on_cpu.norm()
        assert error < (1e-3 if dtype == torch.float32 else 3e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_generation_goes_on_as_without_a_cache(topology: Topology, dtype: torch.dtype) -> None:
    model = ModelConfig(**SHAPE, init_method_std=0.2)
    gpt = GPT(model, vocab_size=VOCAB, topology=topology, seed=3).to(topology.device, dtype).eval()
    generator = Generator(decoding.Batch(gpt, vocab_size=VOCAB, max_positions=SEQ, eod=None))
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8]]
    completions = generator.generate(prompts, maximum_tokens=12, sampling=Sampling(), seeds=[0, 1])
    for prompt, completion in zip(prompts, completions):
        assert len(completion.ids) == 12
        with torch.no_grad():
            logits = gpt(torch.tensor([prompt + completion.ids], device=topology.device))[:, 0, :VOCAB].float()
        for place, token in enumerate(completion.ids, start=len(prompt) - 1):
            # the likeliest, up to what rounding decides
            best = logits[place].max()
            assert logits[place, token] >= best - (1e-3 if dtype == torch.float32 else 0.05 * best.abs())
