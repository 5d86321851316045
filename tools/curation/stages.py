"""The stages that look at one text at a time: each says what becomes of it. Knows nothing about files.

| stage | removes | cuts or changes |
|---|---|---|
| `language` | texts in none of the languages wanted | |
| `gopher` | what breaks Gopher's rules for quality and repetition (Rae et al. 2021, arXiv:2112.11446, table A1) | |
| `c4` | pages by C4's rules (Raffel et al. 2020, arXiv:1910.10683, section 2.2) | lines by C4's rules |
| `decontaminate` | texts that share 13 words in a row with an evaluation set (Brown et al. 2020, arXiv:2005.14165, appendix C) | |
| `redact` | | what `redaction` finds |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.decont.n_grams import NGramsDecontConfig, NGramsDecontFilter
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.filters.c4_filters import C4QualityFilter
from datatrove.pipeline.filters.gopher_quality_filter import GopherQualityFilter
from datatrove.pipeline.filters.gopher_repetition_filter import GopherRepetitionFilter
from datatrove.utils.logging import logger
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from neox.config.errors import ConfigError
from tools.curation.redaction import redact
from tools.curation.words import HASHES, WORDS

logger.disable("datatrove")  # it tells of every file that it opens

DECONTAMINATION = NGramsDecontConfig(n_grams=13, hash_config=HASHES)
LANGUAGE_SAMPLE = 4_000  # characters from the middle of a text tell its language: beginnings are mastheads and licences
CERTAIN = 0.5  # probability of a language, which is near 1 where a text has some sentences in it
PROSE_STAGES = ("language", "gopher", "c4")  # which code and tables would not pass


@dataclass(frozen=True)
class Outcome:
    """What a stage did: the text to go on with (None: removed), and how often it did what.

    `shown` is the piece of a removed text that tells the reason; empty where the beginning does as well.
    """

    text: str | None
    reasons: dict[str, int] = field(default_factory=dict)
    shown: str = ""


Stage = Callable[[str], Outcome]


@dataclass(frozen=True)
class StageOptions:
    """Which stages run, and their options; small enough to be sent to a worker.

    `evaluation_folder` holds the index of the evaluation sets; `phone_region` is where numbers without a country's code are read.
    """

    names: tuple[str, ...]
    languages: tuple[str, ...] = ("en",)
    evaluation_folder: Path | None = None
    phone_region: str = "US"


def build_stages(options: StageOptions) -> dict[str, Stage]:
    """The stages by name, in the order in which they run. Raises ConfigError for a language that nobody knows."""
    build = {
        "language": lambda: Language(options.languages),
        "gopher": lambda: Filters(gopher_filters(options.languages)),
        # its rule of terminal punctuation would cut verse, lists and titles: FineWeb leaves it out too (arXiv:2406.17557, 3.5)
        "c4": lambda: Filters([C4QualityFilter(filter_no_terminal_punct=False, language=WORDS)]),
        "decontaminate": lambda: Decontamination(options.evaluation_folder),
        "redact": lambda: lambda text: _redaction(text, options.phone_region),
    }
    return {name: make() for name, make in build.items() if name in options.names}


class Language:
    """Removes texts that are, for certain, in none of the languages wanted (ISO 639-1), by py3langid, whose model comes in its
    package. A web address and two words are of no certain language, and stay for the rules of quality."""

    def __init__(self, wanted: tuple[str, ...]):
        self.identifier = _language_identifier()
        self.wanted = set(wanted)
        unknown = self.wanted - set(self.identifier.labels)
        if unknown:
            raise ConfigError(
                f"--languages: {', '.join(sorted(unknown))} is none of {', '.join(sorted(self.identifier.labels))}"
            )

    def __call__(self, text: str) -> Outcome:
        begin = max(0, (len(text) - LANGUAGE_SAMPLE) // 2)
        language, probability = self.identifier.classify(text[begin : begin + LANGUAGE_SAMPLE])
        if language in self.wanted or probability < CERTAIN:
            return Outcome(text)
        return Outcome(None, {language: 1})


@lru_cache(1)  # takes a second to load
def _language_identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def gopher_filters(languages: tuple[str, ...]) -> list[BaseFilter]:
    """Gopher's rules; that of stop words (two of "the, be, to, of, and, that, have, with") where only English is wanted."""
    stop_words = 2 if languages == ("en",) else None
    return [GopherQualityFilter(min_stop_words=stop_words, language=WORDS), GopherRepetitionFilter(language=WORDS)]


class Filters:
    """datatrove's filters one after another; each may change the text that it keeps."""

    def __init__(self, filters: list[BaseFilter]):
        self.filters = filters

    def __call__(self, text: str) -> Outcome:
        document = Document(text=text, id="")
        for step in self.filters:
            verdict = step.filter(document)
            if verdict is not True:
                reason = verdict[1].removeprefix("gopher_").replace("enough", "too_few").replace("_", " ")
                return Outcome(None, {reason: 1})
        return Outcome(document.text, {"lines cut": 1} if document.text != text else {})


class Decontamination:
    """Removes texts that share 13 words in a row with an evaluation set, whatever their case, punctuation and numbers."""

    def __init__(self, folder: Path):
        self.filter = NGramsDecontFilter(str(folder), DECONTAMINATION, language=WORDS)

    def __call__(self, text: str) -> Outcome:
        document = Document(text=text, id="")
        if self.filter.filter(document) is True:
            return Outcome(text)
        return Outcome(None, {document.metadata["contaminated_task"]: 1}, document.metadata["contaminated_ngram"])


def _redaction(text: str, phone_region: str) -> Outcome:
    redacted = redact(text, phone_region)
    return Outcome(redacted.text, redacted.counts)
