"""Serve a checkpoint: builds each part from its own section of the config. One process, weights only."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import PurePosixPath

from neox.config.sections import Config
from neox.data.chat_template import ChatTemplate, find_template, template_beside
from neox.inference.answers import Writer
from neox.inference.gate import Gate
from neox.inference.listening import Server, listening_socket, url_of
from neox.inference.load import load
from neox.inference.server import Api
from neox.inference.serving import Decoder
from neox.parallel import topology as parallel
from neox.tokenizer.tokenizer import Tokenizer
from neox.tokenizer.vocabulary import located

KEY_VARIABLE = "NEOX_API_KEY"
MOST_READING = 64  # requests that may be read while all places are taken, before they are refused


def serve(config: Config) -> bool:
    """Serve until a signal ends it, or a failure: then False. Raises ConfigError or CheckpointError before the start."""
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s", level=logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    listening = listening_socket(config.serving)  # before the weights are read, which takes longer
    batch, tokenizer = load(config)
    decoder = Decoder(
        batch, most_rows=config.generation.generation_batch_size, most_waiting=config.serving.serve_max_waiting
    )
    writer = Writer(decoder, tokenizer.decode)
    template, name = _template(config, tokenizer), model_name(config.checkpoint.load or config.checkpoint.save)
    api = Api(
        writer,
        tokenizer,
        template,
        name=name,
        max_positions=batch.max_positions,
        most_texts=decoder.most,
    )
    gate = Gate(api.app(), key=os.environ.get(KEY_VARIABLE) or None, most_requests=decoder.most + MOST_READING)
    server = Server(gate, writer, grace_seconds=config.serving.serve_grace_seconds)
    decoder.start(server.fail)
    without = "" if template else "; no chats: there is no template beside its tokenizer"
    print(f"serving {name} at {url_of(listening)}{without}", file=sys.stderr, flush=True)
    server.serve_at(listening)
    decoder.close()
    parallel.shutdown()
    return not server.failed


def model_name(place: str) -> str:
    """What clients call the model: the last part of the folder or URL that it came from."""
    return PurePosixPath(os.path.abspath(place) if "://" not in place else place).name


def _template(config: Config, tokenizer: Tokenizer) -> ChatTemplate | None:
    """The chat template beside the tokenizer's file, None where there is none."""
    vocab_file = located(config.tokenizer).vocab_file
    path = template_beside(vocab_file)
    eod = "" if tokenizer.eod is None else tokenizer.decode([tokenizer.eod])
    return path and find_template(path, vocab_file, eod)
