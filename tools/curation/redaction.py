"""Find what names or endangers a person in a text, and put a placeholder there. Knows nothing about documents.

| placeholder | what | found by |
|---|---|---|
| `[KEY]` | API keys, tokens, private key blocks, passwords in URLs | detect-secrets' patterns and a few newer ones |
| `[EMAIL]` | e-mail addresses | RFC 5321's lengths |
| `[CARD]` | payment card numbers | a card company's prefix and grouping, and Luhn's check digit |
| `[PHONE]` | phone numbers written with spaces, dashes or `+` | phonenumbers (Google's libphonenumber) |
| `[IP]` | public IP addresses | `ipaddress`, not after a word like "version" |
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass

from detect_secrets.plugins.aws import AWSKeyDetector
from detect_secrets.plugins.azure_storage_key import AzureStorageKeyDetector
from detect_secrets.plugins.discord import DiscordBotTokenDetector
from detect_secrets.plugins.github_token import GitHubTokenDetector
from detect_secrets.plugins.gitlab_token import GitLabTokenDetector
from detect_secrets.plugins.jwt import JwtTokenDetector
from detect_secrets.plugins.mailchimp import MailchimpDetector
from detect_secrets.plugins.npm import NpmDetector
from detect_secrets.plugins.openai import OpenAIDetector
from detect_secrets.plugins.pypi_token import PypiTokenDetector
from detect_secrets.plugins.sendgrid import SendGridDetector
from detect_secrets.plugins.slack import SlackDetector
from detect_secrets.plugins.square_oauth import SquareOAuthDetector
from detect_secrets.plugins.stripe import StripeDetector
from detect_secrets.plugins.telegram_token import TelegramBotTokenDetector
from detect_secrets.plugins.twilio import TwilioKeyDetector
from phonenumbers import PhoneNumberMatcher

Span = tuple[int, int]

# not those that look for words like `password =`: in a corpus of code these stand before anything
DETECTORS = (
    AWSKeyDetector,
    AzureStorageKeyDetector,
    DiscordBotTokenDetector,
    GitHubTokenDetector,
    GitLabTokenDetector,
    MailchimpDetector,
    NpmDetector,
    OpenAIDetector,
    PypiTokenDetector,
    SendGridDetector,
    SlackDetector,
    SquareOAuthDetector,
    StripeDetector,
    TelegramBotTokenDetector,
    TwilioKeyDetector,
)
TOKENS = [pattern for detector in DETECTORS for pattern in detector.denylist] + [
    # detect-secrets does not know these yet
    re.compile(r"github_pat_\w{22,}"),
    re.compile(r"AIza[\w-]{35}"),  # Google
    re.compile(r"hf_[A-Za-z0-9]{30,}"),  # Hugging Face
    re.compile(r"sk-(?:ant|proj)-[\w-]{20,}"),  # Anthropic, OpenAI
]
JWT = JwtTokenDetector.denylist[0]
REST_OF_TOKEN = re.compile(r"[\w-]*")
PASSWORD_IN_URL = re.compile(r"(?<=://)[^\s:/@]{1,64}:[^\s:/@]{1,64}(?=@)")
PRIVATE_KEY = re.compile(
    r"-----BEGIN (?P<kind>[A-Z0-9 ]{0,40})PRIVATE KEY(?P<block> BLOCK)?-----"
    # to its end, or, where a text breaks off, as far as there is base64
    r"(?:[^-]{16,20000}-----END (?P=kind)PRIVATE KEY(?(block) BLOCK)-----|(?:\s+[A-Za-z0-9+/=]{16,})+)"
)

DOMAIN = re.compile(r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9])")
LOCAL_PART = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}\Z")

CARD = re.compile(
    # not a coefficient of a formula: 4111111111111111*x
    r"(?<![\w.*/-])(?:\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}|\d{4}([ -])\d{6}\2\d{4,5})(?!\w|[.-]\d|[*/])",
    re.ASCII,
)
CARD_COMPANY = re.compile(r"4|5[1-5]|2[2-7]|3[47]|3[0689]|35|6011|6[245]")

IPV4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?!\w|[.-]\d)", re.ASCII)
IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{1,4}(?![\w:])", re.ASCII)
NO_ADDRESS_FOLLOWS = re.compile(r"(?:version|release|revision|section|ver|rev|sec|,v|\bv)[.:]? *\Z", re.IGNORECASE)


@dataclass(frozen=True)
class Redacted:
    """A text with placeholders, and how many of each kind there are."""

    text: str
    counts: dict[str, int]


def redact(text: str, phone_region: str = "US") -> Redacted:
    """The text with placeholders; the very same where nothing is found. Phone numbers without a country's code are read as those
    of `phone_region` (ISO 3166, `US`)."""
    found = [
        *(("KEY", span) for span in _keys(text)),
        *(("EMAIL", span) for span in _emails(text)),
        *(("CARD", span) for span in _cards(text)),
        *(("PHONE", span) for span in _phones(text, phone_region)),
        *(("IP", span) for span in _addresses(text)),
    ]
    pieces, counts, done = [], {}, 0
    for kind, (begin, end) in sorted(found, key=lambda item: item[1]):
        if begin >= done:  # else it goes on where another one began
            pieces += [text[done:begin], f"[{kind}]"]
            counts[kind] = counts.get(kind, 0) + 1
        done = max(done, end)
    return Redacted("".join([*pieces, text[done:]]), counts)


def _keys(text: str) -> Iterator[Span]:
    for pattern in TOKENS:
        for match in pattern.finditer(text):
            if not _within_word(text, match.start()):
                yield match.start(), _end_of_token(text, match)
    for match in JWT.finditer(text):
        end = _end_of_token(text, match)
        if JwtTokenDetector.is_formally_valid(text[match.start() : end]):
            yield match.start(), end
    for pattern in (PASSWORD_IN_URL, PRIVATE_KEY):
        for match in pattern.finditer(text):
            yield match.span()


def _within_word(text: str, begin: int) -> bool:
    """Whether a match is a piece of something longer, as one of any form is in a file's base64."""
    return begin > 0 and (text[begin - 1].isalnum() or text[begin - 1] in "_+/")


def _end_of_token(text: str, match: re.Match) -> int:
    """Where a key really ends: some patterns know the least length only."""
    return REST_OF_TOKEN.match(text, match.end()).end()


def _emails(text: str) -> Iterator[Span]:
    for domain in DOMAIN.finditer(text):
        local = LOCAL_PART.search(text, max(0, domain.start() - 64), domain.start())
        if local:
            yield local.start(), domain.end()


def _cards(text: str) -> Iterator[Span]:
    for match in CARD.finditer(text):
        digits = re.sub(r"[ -]", "", match[0])
        if CARD_COMPANY.match(digits) and 13 <= len(digits) <= 19 and _passes_luhn(digits):
            yield match.span()


def _passes_luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812-1)."""
    doubled = [sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2]]
    return (sum(doubled) + sum(map(int, digits[::-2]))) % 10 == 0


def _phones(text: str, region: str) -> Iterator[Span]:
    for match in PhoneNumberMatcher(text, region, max_tries=len(text)):
        if not match.raw_string.isdecimal():  # ten digits alone are more often something else
            around = match.raw_string[0] in "([" and not set(match.raw_string) & set(")]")  # a bracket of the sentence
            yield match.start + around, match.end


def _addresses(text: str) -> Iterator[Span]:
    for match in IPV4.finditer(text):
        if _is_public(match[0]) and not NO_ADDRESS_FOLLOWS.search(text, max(0, match.start() - 12), match.start()):
            yield match.span()
    for match in IPV6.finditer(text):
        # `a::b` is an address too, and more often something of C++
        if sum(map(bool, match[0].split(":"))) >= 3 and _is_public(match[0]):
            yield match.span()


def _is_public(address: str) -> bool:
    """Whether it is an address of the internet: those of a local network lead to nobody."""
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False
