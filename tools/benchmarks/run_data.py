"""One contestant of `bench data`: turns JSON lines into token files (or only into ids), and prints what it took as a JSON object.

    neox         our preprocessing
    megatron-lm  the loop of Megatron-LM's tools/preprocess_data.py: Pool.imap over lines, 32 at a time; `encode` for each document;
                 lists of ids come back pickled; IndexedDatasetBuilder.add_document for each
    gpt-neox     the loop of gpt-neox's tools/datasets/preprocess_data.py: a process reads and sends the texts through a queue;
                 Pool.imap over them, 25 at a time, with a semaphore; add_item and end_document for each
    tokenizers   encode_batch_fast alone on the same number of threads: no file is read or written
    engine       our tokenizer alone in the same number of processes: no file is read or written

The peers' loops are written from their public sources; tokenizer (`tokenizers`) and writer (megatron-core) are the real ones.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from neox.config.sections import TokenizerConfig
from neox.data.preprocess import PreprocessJob, preprocess
from neox.tokenizer.tokenizer import build_tokenizer

KEY = "text"


class LineEncoder:
    """Megatron-LM's Encoder: one line to lists of ids."""

    def __init__(self, config: TokenizerConfig):
        self.config = config

    def start(self) -> None:
        """Runs once in each process."""
        LineEncoder.tokenizer = build_tokenizer(self.config)

    def encode(self, line: str) -> tuple[dict[str, list[int]], dict[str, list[int]], int]:
        """The ids and lengths of a document by key, and the length of its line."""
        ids = list(self.tokenizer.engine.encode(json.loads(line)[KEY], add_special_tokens=False).ids)
        if ids:
            ids.append(self.tokenizer.eod)
        return {KEY: ids}, {KEY: [len(ids)]}, len(line)

    def encode_text(self, text: str) -> tuple[dict[str, list[list[int]]], int]:
        """gpt-neox's form: the ids of a text by key, and its length."""
        ids = self.tokenizer.engine.encode(text, add_special_tokens=False).ids
        if ids:
            ids.append(self.tokenizer.eod)
        return {KEY: [ids] if ids else []}, len(text)


def run_megatron_lm(corpus: Path, config: TokenizerConfig, workers: int, prefix: Path) -> None:
    """Megatron-LM's Partition.process_json_file."""
    builder = _builder(prefix)
    encoder = LineEncoder(config)
    with open(corpus, encoding="utf-8") as lines, multiprocessing.Pool(workers, initializer=encoder.start) as pool:
        for documents, lengths, _ in pool.imap(encoder.encode, lines, 32):
            if documents[KEY]:
                builder.add_document(documents[KEY], lengths[KEY])
    builder.finalize(f"{prefix}.idx")


def run_gpt_neox(corpus: Path, config: TokenizerConfig, workers: int, prefix: Path) -> None:
    """gpt-neox's main."""
    import torch  # noqa: PLC0415 (only this contestant hands tensors to the builder)

    builder = _builder(prefix)
    encoder = LineEncoder(config)
    semaphore = multiprocessing.Semaphore(10_000 + workers)
    texts = _through_a_queue(corpus, semaphore)
    with multiprocessing.Pool(workers, initializer=encoder.start) as pool:
        for documents, _ in pool.imap(encoder.encode_text, texts, chunksize=25):
            semaphore.release()
            for ids in documents[KEY]:
                builder.add_item(torch.from_numpy(numpy.array(ids, dtype=builder.dtype)))
                builder.end_document()
    builder.finalize(f"{prefix}.idx")


def _through_a_queue(corpus: Path, semaphore) -> Iterator[str]:
    """lm_dataformat's Reader.stream_data(threaded=True)."""
    queue = multiprocessing.Queue(1_000)
    process = multiprocessing.Process(target=_read_into, args=(corpus, queue))
    process.start()
    while (text := queue.get()) is not None:
        semaphore.acquire()
        yield text
    process.join()


def _read_into(corpus: Path, queue: multiprocessing.Queue) -> None:
    with open(corpus, encoding="utf-8") as lines:
        for line in lines:
            queue.put(json.loads(line)[KEY])
    queue.put(None)


def _builder(prefix: Path):
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder  # noqa: PLC0415 (seconds to import)

    return IndexedDatasetBuilder(f"{prefix}.bin", dtype=numpy.uint16)


def run_neox(corpus: Path, config: TokenizerConfig, workers: int, prefix: Path) -> None:
    """Our preprocessing."""
    preprocess(PreprocessJob([str(corpus)], str(prefix), config, (KEY,), append_eod=True, workers=workers))


def run_tokenizers(corpus: Path, config: TokenizerConfig, workers: int, prefix: Path) -> None:  # noqa: ARG001
    """encode_batch_fast on threads, a thousand texts at a time."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    os.environ["RAYON_NUM_THREADS"] = str(workers)
    engine = build_tokenizer(config).engine
    texts = _texts(corpus)
    with _Clock() as clock:
        for begin in range(0, len(texts), 1_000):
            engine.encode_batch_fast(texts[begin : begin + 1_000], add_special_tokens=False)
    clock.print()


def run_engine(corpus: Path, config: TokenizerConfig, workers: int, prefix: Path) -> None:  # noqa: ARG001
    """Each process has its share of the texts in memory and encodes it."""
    tokenizer = build_tokenizer(config)
    tokenizer.encode_batch([""])
    texts = _texts(corpus)
    context = multiprocessing.get_context("fork")
    with _Clock() as clock:
        processes = [
            context.Process(target=_encode_all, args=(tokenizer, texts[number::workers])) for number in range(workers)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    clock.print()


def _encode_all(tokenizer, texts: list[str]) -> None:
    for text in texts:
        tokenizer.encode_batch([text])


def _texts(corpus: Path) -> list[str]:
    with open(corpus, encoding="utf-8") as lines:
        return [json.loads(line)[KEY] for line in lines]


class _Clock:
    """Wall and CPU time, children's included once they have ended."""

    def __enter__(self) -> _Clock:
        self.begin = time.monotonic(), self._cpu()
        return self

    def __exit__(self, *_) -> None:
        self.seconds, self.cpu_seconds = time.monotonic() - self.begin[0], self._cpu() - self.begin[1]

    def print(self) -> None:
        print(json.dumps({"seconds": self.seconds, "cpu_seconds": self.cpu_seconds}))

    @staticmethod
    def _cpu() -> float:
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)


# those that do the whole job, and those that only encode and keep the time themselves
JOBS = {"neox": run_neox, "megatron-lm": run_megatron_lm, "gpt-neox": run_gpt_neox}
CEILINGS = {"engine": run_engine, "tokenizers": run_tokenizers}


def main(arguments: list[str]) -> None:
    """Run one contestant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[*JOBS, *CEILINGS])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--tokenizer", required=True, help="a TokenizerConfig as JSON")
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--prefix", type=Path, required=True)
    given = parser.parse_args(arguments)
    job = (given.corpus, TokenizerConfig.model_validate_json(given.tokenizer), given.workers, given.prefix)
    if given.name in CEILINGS:
        CEILINGS[given.name](*job)
        return
    if given.name != "neox":
        _builder(given.prefix)  # its imports are not the peer's fault
    with _Clock() as clock:
        JOBS[given.name](*job)
    clock.print()


if __name__ == "__main__":
    main(sys.argv[1:])
