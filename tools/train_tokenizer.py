"""Train a tokenizer on any input of tools/preprocess_data.py.

    python tools/train_tokenizer.py --input data/corpus.jsonl.zst --output data/tokenizer.json --vocab-size 32000

writes a tokenizer.json (byte-level BPE, NFC, <|endoftext|>, <|padding|> and runs of spaces as NeoX-20B's has them), to be used with
`tokenizer_type: HFTokenizer`. Exit codes: 0 done, 1 failed, 2 the input is wrong and nothing was written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

# `python tools/train_tokenizer.py` puts tools/ on the path, not the folder above it that holds neox/
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from neox.config.errors import ConfigError
from neox.data.corpus import documents, find_corpora
from neox.data.files import write_durably
from neox.data.records import Unpacking
from neox.tokenizer.train import train_byte_level_bpe
from tools.refusal import refuse


def main(arguments: list[str]) -> int:
    """Run the tool; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--input", nargs="+", required=True, metavar="PATH", help="corpora to train on")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="tokenizer.json to write")
    parser.add_argument(
        "--vocab-size", type=int, default=50_277, metavar="N", help="number of ids (50277, as NeoX-20B)"
    )
    parser.add_argument("--jsonl-keys", nargs="+", default=["text"], metavar="KEY", help="keys of the text (text)")
    parser.add_argument("--num-docs", type=int, metavar="N", help="stop reading after so many documents")
    given = parser.parse_args(arguments)
    try:
        texts = _texts(given.input, Unpacking(tuple(given.jsonl_keys)), given.num_docs)
        engine = train_byte_level_bpe(texts, given.vocab_size, show_progress=sys.stderr.isatty())
        given.output.parent.mkdir(parents=True, exist_ok=True)
        write_durably(given.output, engine.to_str(pretty=True).encode())
    except ConfigError as error:
        return refuse(error)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{given.output} written: {engine.get_vocab_size():,} ids")
    return 0


def _texts(names: list[str], unpacking: Unpacking, limit: int | None) -> Iterator[str]:
    """The texts of all documents, one after another."""
    corpus = (document for path in find_corpora(names).paths for document in documents(path, unpacking))
    return (text for document in islice(corpus, limit) for text in document.texts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
