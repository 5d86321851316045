"""Text in, text out: prompts from nowhere, a file or a terminal, and JSON lines of what the model makes of them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, TextIO

from neox.config.errors import ConfigError
from neox.config.sections import GenerationConfig
from neox.data.files import flush_to_disk
from neox.inference.generator import Generator
from neox.inference.sampling import Sampling
from neox.tokenizer.tokenizer import Tokenizer

# as in gpt-neox: context, text (the continuation alone), length (tokens of it), finished, message, duration_seconds
Record = dict[str, Any]


class TextGenerator:
    """Continues texts as a GenerationConfig says.

    The same seed gives the same texts: the n-th text of a run draws from seed and n, whatever is batched with it.
    """

    def __init__(self, generator: Generator, tokenizer: Tokenizer, config: GenerationConfig, *, seed: int) -> None:
        self._generator = generator
        self._tokenizer = tokenizer
        self._config = config
        self._seed = seed
        self._sampling = Sampling(config.temperature, config.top_k, config.top_p)
        self._made = 0

    def records(self, contexts: Iterable[str]) -> Iterator[Record]:
        """One record a context, in order, made `generation_batch_size` at a time; "" starts a new document."""
        contexts = iter(contexts)
        while batch := list(islice(contexts, self._config.generation_batch_size)):
            yield from self._batch(batch)

    def _batch(self, contexts: list[str]) -> list[Record]:
        started = time.perf_counter()
        # far enough apart that two runs with neighbouring seeds share no text; torch takes 64 bits
        first = self._seed * 1_000_003 + self._made
        seeds = [(first + place) % 2**63 for place in range(len(contexts))]
        self._made += len(contexts)
        completions = self._generator.generate(
            [self._ids(context) for context in contexts],
            maximum_tokens=self._config.maximum_tokens,
            sampling=self._sampling,
            seeds=seeds,
        )
        seconds = time.perf_counter() - started
        return [
            {
                "context": context,
                "text": self._tokenizer.decode(completion.ids),
                "length": len(completion.ids),
                "finished": completion.finished,
                "message": completion.message,
                "duration_seconds": seconds,
            }
            for context, completion in zip(contexts, completions)
        ]

    def _ids(self, context: str) -> list[int]:
        """Ids of a context; the end of the document before it starts a new one."""
        if context:
            return self._tokenizer.encode(context)
        if self._tokenizer.eod is None:
            raise ConfigError("the tokenizer has no end-of-document token to start a text from: give prompts")
        return [self._tokenizer.eod]


def write_texts(texts: TextGenerator, config: GenerationConfig, stdin: TextIO, stdout: TextIO) -> None:
    """Generate as `text_gen_type` says; the records go to sample_output_file, else to `stdout`.

    Raises ConfigError where the prompts cannot be read or the records cannot be written.
    """
    kind = config.text_gen_type or ("unconditional" if config.sample_input_file is None else "input-file")
    if kind == "interactive":
        records = list(converse(texts, prompts_typed(stdin, stdout, config.prompt_end), stdout))
        if config.sample_output_file is not None:
            write_records(records, config.sample_output_file)
        return
    contexts = [""] * config.num_samples if kind == "unconditional" else read_prompts(config)
    records = texts.records(contexts)
    if config.sample_output_file is None:
        for record in records:
            print(json.dumps(record), file=stdout, flush=True)
    else:
        count = write_records(records, config.sample_output_file)
        print(
            f"{count:,} text{'' if count == 1 else 's'} written to {config.sample_output_file}", file=stdout, flush=True
        )


def read_prompts(config: GenerationConfig) -> list[str]:
    """The prompts of sample_input_file, which prompt_end separates; blank ones are passed over."""
    assert config.sample_input_file is not None, "the rules ask for it"
    try:
        text = Path(config.sample_input_file).read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"sample_input_file: cannot read {config.sample_input_file}: {error}") from error
    prompts = [part.strip() for part in text.split(config.prompt_end)]
    if not any(prompts):
        raise ConfigError(f"sample_input_file: {config.sample_input_file} holds no prompt")
    return [prompt for prompt in prompts if prompt]


def prompts_typed(stdin: TextIO, stdout: TextIO, prompt_end: str) -> Iterator[str]:
    """Prompts as they are typed, each up to prompt_end; the end of the input ends the last one. Blank ones are passed over."""
    # a pipe is not asked
    ask = "prompt> " if stdin.isatty() else ""
    text = ""
    stdout.write(ask)
    stdout.flush()
    for line in stdin:
        text += line
        while prompt_end in text:
            prompt, _, text = text.partition(prompt_end)
            if prompt.strip():
                yield prompt.strip()
            stdout.write(ask)
            stdout.flush()
    if ask:
        # the shell's own prompt shall not stand behind ours
        stdout.write("\n")
    if text.strip():
        yield text.strip()


def converse(texts: TextGenerator, prompts: Iterable[str], stdout: TextIO) -> Iterator[Record]:
    """Answer each prompt before the next is read."""
    for prompt in prompts:
        for record in texts.records([prompt]):
            print(record["text"], file=stdout, flush=True)
            if record["message"]:
                print(f"({record['message']})", file=stdout, flush=True)
            yield record


def write_records(records: Iterable[Record], path: str) -> int:
    """Write JSON lines, whole or not at all; returns how many."""
    target = Path(path)
    count = 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile("wb", dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
            temporary = Path(file.name)
            try:
                for record in records:
                    file.write(json.dumps(record).encode() + b"\n")
                    count += 1
                flush_to_disk(file)
                # a temporary file is for its owner alone; the result has the rights of any new file
                mask = os.umask(0)
                os.umask(mask)
                temporary.chmod(0o666 & ~mask)
                temporary.replace(target)
            except BaseException:
                temporary.unlink()
                raise
    except OSError as error:
        raise ConfigError(f"sample_output_file: cannot write {path}: {error.strerror}") from error
    return count
