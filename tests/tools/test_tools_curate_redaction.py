"""Redaction: what is found, what looks like it and is not, and that nothing found is ever left."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.curation.redaction import redact

JWT = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
PRIVATE_KEY = (
    "-----BEGIN {0}PRIVATE KEY-----\nMIIEpAIBAAKCAQEA75zxYgO\nAgMBAAECggEBAKTmjaS6tkK8\n-----END {0}PRIVATE KEY-----"
)

FOUND = {
    "EMAIL": ["john.doe+lists@ex-ample.co.uk", "a@b.org", "O'Neill_7@MAIL.EXAMPLE.COM", "x%y@sub.domain.museum"],
    "PHONE": [
        "(415) 555-2671",
        "415-555-2671",
        "212.736.5000",
        "+44 20 7946 0958",
        "+1.949.833.2800",
        "+353-51-873640",
    ],
    "IP": ["8.8.8.8", "193.0.6.139", "2001:4860:4860::8888", "2a00:1450:4001:81b::200e"],
    "CARD": ["4111111111111111", "4111 1111 1111 1111", "5500-0000-0000-0004", "3782 822463 10005", "6011000990139424"],
    "KEY": [
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_" + "aB3d" * 9,
        "github_pat_" + "11ABCDEFG0" * 8,
        "glpat-" + "x1Y2z3" * 4,
        "xoxb-123456789012-abcdefABCDEF12".lower(),
        "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc" * 2,
        "AIza" + "SyD-9tSrke72PouQMnMX-a7eZSW0jkFMBWY"[:35],
        "hf_" + "abcdefghij" * 4,
        JWT,
        *(PRIVATE_KEY.format(kind) for kind in ("", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED ")),
    ],
}
NOT_FOUND = [
    "version 1.2.3.4 of the firmware, v10.0.19041.1, release 4.4.8.8 and $Revision: 1.68.2.12 $",
    "the network 192.168.0.1/16, localhost 127.0.0.1, netmask 255.255.255.0 and section 8.8.8.8",
    "ISBN 978-0-306-40615-7, ISBN 0-306-40615-2, 9780306406157 and ISSN 1234-5679",
    "at 12:30:45 on 2024-11-22, std::vector<int> a::b, 3.14159265358979323 and 1,234,567,890",
    "4111111111111112 fails the check; 4111 1111-1111 1111 has no card's grouping; 9999999999999995 no company",
    "doi:10.1038/s41586-020-2649-2, lines 100-200, pp. 1024-2048, 415555 and 20201122",
    "@property above a method, @media print, user@localhost, foo @ bar.com, a @pytest.mark.parametrize",
    "commit 3f786850e387550fdab836ed7e6dc881de23001b, uuid 123e4567-e89b-12d3-a456-426614174000",
    "-----BEGIN PUBLIC KEY-----, and -----BEGIN RSA PRIVATE KEY----- starts a private key",
    "3*p**2 + 4111111111111111*q**2*r and 2.4111111111111111",
    "sk_live_short, ghp_short, AKIA and eyJhbGciOi.not-a-token.at-all",
]


@pytest.mark.parametrize("kind, secret", [(kind, secret) for kind, secrets in FOUND.items() for secret in secrets])
def test_finds(kind, secret):
    for before, after in (("Write: ", ", or not."), ("(", ")"), ("", ""), ("<", ">\n"), ("one\n", "\ntwo"), ('"', '"')):
        redacted = redact(before + secret + after)
        assert redacted.text == f"{before}[{kind}]{after}"
        assert redacted.counts == {kind: 1}


@pytest.mark.parametrize("text", NOT_FOUND)
def test_leaves(text):
    assert redact(text).text == text


def test_a_password_in_a_url_goes():
    assert redact("http://me:hunter2@localhost/x").text == "http://[KEY]@localhost/x"
    # what follows the name looks like an address
    assert redact("git clone https://me:hunter2@git.corp/x").text == "git clone https://[KEY]/x"


def test_a_private_key_that_breaks_off_goes_as_far_as_there_is_of_it():
    cut = PRIVATE_KEY.format("RSA ").split("\n-----END")[0]
    assert redact(f"{cut}\nThat was all of it.").text == "[KEY]\nThat was all of it."


def test_numbers_without_a_country_are_those_of_the_region():
    assert redact("Tel. 020 7946 0958", "GB").text == "Tel. [PHONE]"
    assert redact("Tel. 020 7946 0958", "US").text == "Tel. 020 7946 0958"


SECRETS = st.sampled_from([secret for secrets in FOUND.values() for secret in secrets])
# nothing that could be a part of a secret, or a word that says that no address follows
GAPS = st.text(st.sampled_from(' \n,;()"?!—'), min_size=1, max_size=5)
WORDS = st.lists(st.text(st.sampled_from("abcdefgilmnoprstu é中\n,"), max_size=12), max_size=6).map(" ".join)


@given(st.lists(st.tuples(WORDS, GAPS, SECRETS, GAPS), min_size=1, max_size=6))
@settings(max_examples=60)
def test_what_is_planted_is_never_left(parts):
    text = "".join(word + before + secret + after for word, before, secret, after in parts)
    redacted = redact(text)
    assert not [secret for _, _, secret, _ in parts if secret in redacted.text]
    assert redact(redacted.text).text == redacted.text  # nothing is left, and no placeholder looks like a secret


@given(st.text(st.characters(exclude_categories=["Nd", "Cs"], exclude_characters="@"), max_size=400))
@settings(max_examples=150)
def test_text_without_digits_and_at_is_unchanged(text):
    assert redact(text).text == text


@pytest.mark.parametrize(
    "text", ["a@" * 50_000, "a." * 50_000, "4111 " * 5_000, "a:" * 50_000, "-----BEGIN PRIVATE KEY-----" * 500]
)
@pytest.mark.timeout(20)
def test_no_text_takes_for_ever(text):
    redact(text)
