"""The stages for one text: real texts stay, and each planted fault goes for its reason."""

from __future__ import annotations

import json
from pydoc_data.topics import topics

import pytest

from neox.config.errors import ConfigError
from tools.curation.evaluations import write_index
from tools.curation.stages import Outcome, StageOptions, build_stages

# of Python's manual: prose of some hundred words
REAL = [topics[name] for name in ("booleans", "execmodel", "identifiers", "numeric-types", "objects", "raise", "with")]
FOREIGN = {
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt und sollen "
    "einander im Geiste der Brüderlichkeit begegnen.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison et de conscience et "
    "doivent agir les uns envers les autres dans un esprit de fraternité.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos y, dotados como están de razón y conciencia, "
    "deben comportarse fraternalmente los unos con los otros.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью и должны "
    "поступать в отношении друг друга в духе братства.",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
}
SENTENCE = "The harbour was quiet that morning, and the boats that came with the tide were tied to the old wall. "


def stage(name: str, **options):
    return build_stages(StageOptions((name,), **options))[name]


@pytest.fixture(scope="module")
def language():
    return stage("language")


@pytest.mark.parametrize("code", FOREIGN)
def test_foreign_texts_go(language, code):
    assert language(FOREIGN[code]) == Outcome(None, {code: 1})
    # what is in the middle counts: the licence around it is in English
    assert language(SENTENCE * 5 + FOREIGN[code] * 60 + SENTENCE * 5).text is None


def test_every_language_wanted_stays():
    wanted = stage("language", languages=tuple(FOREIGN))
    assert [wanted(text).text for text in FOREIGN.values()] == list(FOREIGN.values())
    assert wanted(SENTENCE) == Outcome(None, {"en": 1})


@pytest.mark.parametrize("text", [*REAL, SENTENCE, "", "See http://www.example.com/2,842/ (DPO)", "0 1 2"])
def test_english_and_what_has_no_certain_language_stays(language, text):
    assert language(text) == Outcome(text)


def test_unknown_language_is_refused():
    with pytest.raises(ConfigError, match="--languages: english is none of .*, de, "):
        stage("language", languages=("english",))


GOPHER_FAULTS = {
    "short doc": SENTENCE * 2,
    "long doc": SENTENCE * 6_000,
    "above avg threshold": "Donaudampfschifffahrtsgesellschaftskapitän " * 60,
    "below avg threshold": "a to be or in " * 30,
    "too many hashes": "# the boat and # the tide " * 30,
    "too many bullets": "\n".join(f"- the boat and the tide {number}" for number in range(40)),
    "too many end ellipsis": "\n".join(
        f"the boat number {number} and ..." if number % 2 else SENTENCE for number in range(40)
    ),
    "below alpha threshold": " ".join(f"{number} 17,203 total" for number in range(1000, 1100)),
    "too few stop words": "lorem ipsum dolor sit amet consectetur adipiscing elit " * 10,
    "dup para frac": "\n\n".join(["We value your visit.", *REAL[0].split("\n\n")[:5]] * 3),
    "dup line frac": "\n".join(
        ["Home", "News", *(f"The story number {number} of that day" for number in range(40))] * 1
    )
    + "\nShare this with a friend" * 30,
    "top 2 gram": "of the old harbour " * 60,
}


@pytest.mark.parametrize("reason", GOPHER_FAULTS)
def test_gophers_rules(reason):
    assert stage("gopher")(GOPHER_FAULTS[reason]) == Outcome(None, {reason: 1})


@pytest.mark.parametrize("text", REAL)
def test_prose_passes_gophers_rules(text):
    assert stage("gopher")(text) == Outcome(text)


def test_stop_words_are_asked_for_where_only_english_is_wanted():
    german = " ".join(f"{FOREIGN['de']} Artikel {word}." for word in ("eins", "zwei", "drei"))
    assert stage("gopher", languages=("en",))(german).text is None
    long = " ".join(dict.fromkeys((FOREIGN["de"] + FOREIGN["fr"] + FOREIGN["es"]).split()))
    assert stage("gopher", languages=("de", "fr", "es"))(long).text == long


def test_c4_cuts_lines_and_drops_pages():
    c4 = stage("c4")
    page = [SENTENCE.strip() for _ in range(5)]
    menu = ["Home News", "Please enable Javascript to go on reading.", "This site uses cookies to serve you better."]
    assert c4("\n".join([*menu, *page])) == Outcome("\n".join(page), {"lines cut": 1})
    assert c4("\n".join(page)) == Outcome("\n".join(page))
    assert c4("\n".join([*page, "Lorem ipsum dolor sit amet."])) == Outcome(None, {"lorem ipsum": 1})
    assert c4("\n".join([*page, "if (x) { return y; }"])) == Outcome(None, {"curly bracket": 1})
    assert c4("\n".join(page[:4])) == Outcome(None, {"too few sentences": 1})


def test_decontamination_finds_thirteen_words_in_any_dress(tmp_path):
    question = "Which of the nine boats that left the harbour at dawn on that day was first to come home?"
    sets = [tmp_path / "quiz.jsonl", tmp_path / "story.txt"]
    sets[0].write_text(json.dumps({"id": 7, "ask": {"question": question}, "answers": ["Heron", "Gull"]}) + "\n")
    sets[1].write_text(REAL[1])
    write_index(sets, tmp_path / "index")
    decontaminate = stage("decontaminate", evaluation_folder=tmp_path / "index")
    words = question.split()
    dressed = " ".join(words[:13]).upper().replace(" ", ",\n")
    found = decontaminate(f"{SENTENCE * 3}{dressed} {SENTENCE}")
    assert found.text is None and [reason.endswith("quiz.jsonl") for reason in found.reasons] == [True]
    assert found.shown == " ".join(words[:13]).lower()
    assert decontaminate(SENTENCE + REAL[1][2000:2500]).text is None
    for clean in (" ".join(words[:12]) + " or else " + " ".join(words[12:]), *REAL[2:], "Heron", ""):
        assert decontaminate(clean) == Outcome(clean)


@pytest.mark.parametrize(
    "name, content, complaint",
    [
        ("short.jsonl", b'{"question": "Too short?"}\n', "no text in it has 13 words"),
        ("bad.jsonl", b"{oops\n", "neither JSON nor UTF-8"),
        ("cut.jsonl.zst", b"\x28\xb5\x2f\xfd", "is damaged or cut off"),
    ],
)
def test_an_evaluation_set_that_would_find_nothing_is_refused(tmp_path, name, content, complaint):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=f"--eval .*{name}.*{complaint}"):
        write_index([tmp_path / name], tmp_path / "index")
