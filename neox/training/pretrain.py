"""A training run on one rank: builds each part from its own section of the config, and hands them to the loop."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from neox.checkpoint import state as checkpoint
from neox.checkpoint.alone import alone_in
from neox.checkpoint.layout import CheckpointError, step_name
from neox.checkpoint.newest import newest
from neox.checkpoint.publish import Progress
from neox.checkpoint.saver import Saver
from neox.checkpoint.source import Source
from neox.checkpoint.upload import Store, Uploader
from neox.config.errors import ConfigError
from neox.config.flat import flat_values, to_yaml
from neox.config.sections import CheckpointConfig, Config
from neox.config.shapes import tokens_per_sample
from neox.config.sizes import flops_per_token, true_vocab_size
from neox.config.surroundings import begins_elsewhere
from neox.data.batches import ahead, batches
from neox.data.datasets import build_datasets, orders
from neox.data.files import write_durably
from neox.data.fingerprint import Fact, changes, fingerprint
from neox.monitor.gpus import peak_tflops
from neox.monitor.metrics import Throughput, validation_metrics
from neox.monitor.reporters import build_reporters
from neox.parallel import topology as parallel
from neox.parallel.agreement import together
from neox.parallel.seeding import seed_everything
from neox.parallel.topology import Topology
from neox.tokenizer.tokenizer import Tokenizer, build_tokenizer
from neox.training.engine import Engine
from neox.training.evaluate import validation_means
from neox.training.guard import Guard
from neox.training.loop import Outcome, train
from neox.training.preflight import preflight
from neox.training.profile import Profile
from neox.training.reference import read_reference
from neox.training.signals import Signals
from neox.training.watchdog import Watchdog


def pretrain(config: Config) -> Outcome:
    """Train as the config says, and tell how it ended.

    Every rank calls this with the same config. Raises ConfigError, MissingRanks, CheckpointError or NonFiniteLoss.
    """
    run = config.run
    topology = parallel.initialize(config.parallel, run.distributed_backend, run.start_timeout_seconds)
    signals = Signals(topology)
    seed_everything(run.seed, topology)
    tokenizer = build_tokenizer(config.tokenizer)
    vocab_size = true_vocab_size(config.model, tokenizer.vocab_size)
    if run.preflight:
        watchdog = Watchdog(run.start_timeout_seconds)
        watchdog.heard()
        preflight(config, vocab_size, topology)
        watchdog.off()
    with alone_in(config.checkpoint.save, topology):
        return _train(config, topology, signals, tokenizer, vocab_size)


def _train(config: Config, topology: Topology, signals: Signals, tokenizer: Tokenizer, vocab_size: int) -> Outcome:
    """Train, on machines that are fit for it, with a folder of checkpoints that is ours."""
    run = config.run
    datasets = build_datasets(
        config.data,
        config.model.seq_length,
        samples_needed(config),
        tokenizer,
        run.seed,
        topology,
        config.model.train_impl,
    )
    load = config.checkpoint.load
    with Source("load", load, topology) if load else nullcontext() as source:
        reference = read_reference(config, vocab_size, source, topology)
        beginning = find_beginning(config.checkpoint, source, topology)
        engine = Engine(
            config, topology, vocab_size, reference and reference.model, from_checkpoint=beginning is not None
        )
        data = data_fingerprint(config, topology) + orders(datasets.train) + ([reference.fact] if reference else [])
        progress = resume(engine, beginning, data, config.checkpoint, topology) if beginning else Progress()
        progress = replace(progress, data=[asdict(fact) for fact in data])
    if progress.iteration >= config.batch.train_iters:
        _say(
            topology,
            f"train_iters {config.batch.train_iters:,} are done: raise them to go on, or give another save to start anew",
        )
    config_text = to_yaml(config)
    reporters = build_reporters(
        config.monitor,
        config_dict=flat_values(config),
        total_iterations=config.batch.train_iters,
        is_main=topology.is_main,
        wandb_run_id=progress.wandb_run_id,
    )
    if topology.is_main and config.monitor.log_dir is not None:
        write_durably(Path(config.monitor.log_dir) / "config.yml", config_text.encode())
    throughput = Throughput(
        samples_per_step=config.batch.train_batch_size,
        tokens_per_sample=tokens_per_sample(config.model),
        flops_per_token=flops_per_token(config.model, vocab_size),
        processes=topology.world_size,
        peak_tflops=peak_tflops(config.monitor.peak_theoretical_tflops, topology.device, config.precision.precision),
    )

    optimization = config.optimization
    guarded = optimization.on_nonfinite != "stop" or optimization.loss_spike_factor is not None
    watchdog = Watchdog(run.hang_timeout_seconds)
    uploader = start_uploader(config.checkpoint, progress.iteration, topology)
    saving = nullcontext()
    if config.checkpoint.save:
        saving = Saver(engine.state, config.checkpoint, config_text, on_failure=signals.ask_to_stop, uploader=uploader)

    def save(progress: Progress) -> None:
        saver.save(replace(progress, wandb_run_id=reporters.wandb_run_id))

    def rollback() -> Progress:
        saver.wait()
        folder, warnings = newest(Path(config.checkpoint.save), topology)
        _say(topology, *warnings)
        if folder is None:
            raise CheckpointError(f"{config.checkpoint.save} holds no checkpoint yet that a rollback could go to")
        _say(topology, f"went back to {folder}")
        return replace(checkpoint.restore(engine.state, folder), data=progress.data)

    def evaluate() -> dict[str, float]:
        means = validation_means(engine, datasets.valid, config.batch, config.evaluation.eval_iters, topology)
        return validation_metrics(means, of_tokens=config.model.train_impl != "dpo")

    try:
        with saving as saver:
            outcome = train(
                config,
                engine=engine,
                batches=ahead(
                    batches(datasets.train, progress.consumed_samples, config.batch, topology), topology.device
                ),
                evaluate=evaluate if datasets.valid is not None and config.evaluation.eval_iters > 0 else None,
                save=save if saver else None,
                guard=Guard(optimization, topology, progress.usual_loss) if guarded else None,
                rollback=rollback,
                progress=progress,
                reporters=reporters,
                throughput=throughput,
                profile=Profile(config.monitor, topology) if config.monitor.profile else None,
                signals=signals,
                watchdog=watchdog,
            )
        if outcome.interrupted and not outcome.saved:
            _say(topology, "stopped by a signal; nothing was saved: the config has no save key")
        parallel.shutdown()
    finally:
        watchdog.off()
        reporters.close()
        if uploader:
            uploader.close()
    return outcome


def start_uploader(config: CheckpointConfig, iteration: int, topology: Topology) -> Uploader | None:
    """The thread that copies checkpoints to `checkpoint_upload`, on the rank that publishes them. Raises ConfigError on every rank.

    It begins with the one that the run goes on from, where that is ours: the store may have been away when it was published.
    """
    url = config.checkpoint_upload
    if config.save is None or url is None:
        return None
    store = Store("checkpoint_upload", url)
    if not topology.is_main:
        return None
    uploader = Uploader(store, config.checkpoint_upload_timeout_seconds)
    begun_from = Path(config.save) / step_name(iteration)
    if begun_from.is_dir():
        uploader.offer(begun_from)
    return uploader


def samples_needed(config: Config) -> tuple[int, int, int]:
    """Training, validation and test samples that a run reads: each evaluation reads the same validation samples."""
    batch = config.batch.train_batch_size
    return config.batch.train_iters * batch, config.evaluation.eval_iters * batch, 0


def data_fingerprint(config: Config, topology: Topology) -> list[Fact]:
    """What the run reads, as the first rank sees it. Every rank calls this; all of them raise ConfigError together."""

    def take() -> list[Fact]:
        return fingerprint(config.data, config.model.seq_length, config.run.seed, config.tokenizer)

    return together(lambda: take() if topology.is_main else [], ConfigError)[0]


@dataclass(frozen=True)
class Beginning:
    """The checkpoint that a run goes on from."""

    folder: Path
    name: str  # for people
    own: bool  # the run has written it, to `save`
    weights_only: bool


def find_beginning(config: CheckpointConfig, source: Source | None, topology: Topology) -> Beginning | None:
    """The newest checkpoint in `save`, else that of `load`, which is the source; None for a run that begins with new weights.

    Every rank calls this. Raises CheckpointError where checkpoints exist but none is good, or where `load` holds none.
    """
    if config.save:
        folder, warnings = newest(Path(config.save), topology)
        _say(topology, *warnings)
        if folder is not None:
            return Beginning(folder, str(folder), own=True, weights_only=False)
    if source and begins_elsewhere(config):
        return Beginning(source.checkpoint, source.name, own=False, weights_only=config.finetune)
    return None


def resume(
    engine: Engine, beginning: Beginning, data: list[Fact], config: CheckpointConfig, topology: Topology
) -> Progress:
    """Go on from a checkpoint. Raises ConfigError where that would be with other data than before."""
    progress = checkpoint.restore(engine.state, beginning.folder, beginning.weights_only)
    if beginning.own:
        _say(topology, f"resumed from {beginning.name} at iteration {progress.iteration:,}")
    else:
        _say(topology, f"loaded {'the weights of ' if beginning.weights_only else ''}{beginning.name}")
    _check_data(progress, data, beginning.name, config, topology)
    return progress


def _check_data(progress: Progress, data: list[Fact], name: str, config: CheckpointConfig, topology: Topology) -> None:
    """A position in the data means something only in the same data."""
    if progress.data is None:  # imported weights, or weights alone
        return
    differences = changes([Fact(**fact) for fact in progress.data], data)
    if not differences:
        return
    if not config.allow_data_change:
        raise ConfigError(
            [
                f"{name} was trained on other data; allow_data_change: true goes on with the new ones, at sample "
                f"{progress.consumed_samples:,}:",
                *differences,
            ]
        )
    _say(topology, "the data are not those of the checkpoint (allow_data_change):", *differences)


def _say(topology: Topology, *lines: str) -> None:
    if topology.is_main:
        for line in lines:
            print(line, file=sys.stderr, flush=True)
