"""Chats to text, by the template that the tokenizer's makers give with it, cut where the assistant begins and ends to speak.

Templates are Jinja, run in its sandbox with what transformers gives them, except for the date: equal input, equal bytes. Knows
nothing about tokens.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

from neox.config.errors import ConfigError
from neox.data.corpus import RecordError

ASSISTANT = "assistant"
TEMPLATE_FILE = "chat_template.jinja"
TOKENIZER_CONFIG = "tokenizer_config.json"


@dataclass(frozen=True)
class Piece:
    """A part of a rendered chat; `learned` where it is what the assistant says, up to the end of its turn."""

    text: str
    learned: bool


@dataclass(frozen=True)
class ChatTemplate:
    """A template's source, and the tokens that it may name."""

    source: str
    bos_token: str = ""
    eos_token: str = ""

    def pieces(self, messages: Any, tools: Any = None) -> list[Piece]:
        """The chat up to its last answer, in pieces by turns; empty where the assistant says nothing.

        messages: as in OpenAI's API, a list of objects with `role` and `content`. Raises RecordError where they are not, where the
        template refuses them, and where it says earlier turns otherwise once later ones are there.
        """
        if not isinstance(messages, list) or not all(
            isinstance(message, dict) and isinstance(message.get("role"), str) for message in messages
        ):
            raise RecordError("it is not a list of messages, each with a role")
        pieces: list[Piece] = []
        said = ""
        for number, message in enumerate(messages):
            if message["role"] != ASSISTANT:
                continue
            question = self._render(messages[:number], tools, add_generation_prompt=True)
            answer = self._render(messages[: number + 1], tools, add_generation_prompt=False)
            if not question.startswith(said) or not answer.startswith(question):
                raise RecordError(
                    f"what the template makes of message {number + 1} does not follow what it makes of those before, so that the "
                    "answer cannot be told apart"
                )
            pieces += [Piece(question[len(said) :], False), Piece(answer[len(question) :], True)]
            said = answer
        return pieces

    def question(self, messages: list[dict]) -> str:
        """What the assistant's answer to these messages follows. Raises RecordError where the template refuses them."""
        return self._render(messages, None, add_generation_prompt=True)

    def end_of_turn(self) -> str:
        """What ends an answer, without white space around it; empty where the template says nothing there, or cannot be asked."""
        answer = "Eight."
        messages = [{"role": "user", "content": "Seven?"}, {"role": ASSISTANT, "content": answer}]
        try:
            return self._render(messages, None, add_generation_prompt=False).rpartition(answer)[2].strip()
        except RecordError:
            return ""

    def _render(self, messages: list[dict], tools: Any, *, add_generation_prompt: bool) -> str:
        try:
            return compiled(self.source).render(
                messages=messages,
                tools=tools,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                bos_token=self.bos_token,
                eos_token=self.eos_token,
            )
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise RecordError(f"the chat template refuses it ({error})") from error


def find_template(given: Path | None, vocab_file: str | None, eod: str) -> ChatTemplate:
    """The template in a file, Jinja or a tokenizer_config.json; where none is given, the one beside the tokenizer's file.

    eod: text of the token that ends a document, the template's `eos_token` where no tokenizer_config.json names another. Raises
    ConfigError that names the file where there is none, or it is not a template.
    """
    folder = Path(vocab_file or "").parent
    path = given or template_beside(vocab_file)
    if path is None:
        raise ConfigError(
            f"--chat-template: it is not given, and {folder} has no {TEMPLATE_FILE}, and no {TOKENIZER_CONFIG} with a chat_template"
        )
    facts = _tokenizer_config(path if path.suffix == ".json" else folder / TOKENIZER_CONFIG)
    source = _template_of(facts, path) if path.suffix == ".json" else _text(path)
    try:
        compiled(source)
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(f"{path}: it is not a Jinja template (line {error.lineno}: {error.message})") from error
    return ChatTemplate(source, _token(facts, "bos_token", ""), _token(facts, "eos_token", eod))


def template_beside(vocab_file: str | None) -> Path | None:
    """The file with the template, beside the tokenizer's; None where there is none."""
    if vocab_file is None:
        return None
    alone, among_others = (Path(vocab_file).parent / name for name in (TEMPLATE_FILE, TOKENIZER_CONFIG))
    if alone.is_file():
        return alone
    return among_others if _tokenizer_config(among_others).get("chat_template") else None


@lru_cache(maxsize=4)
def compiled(source: str) -> jinja2.Template:
    """A template ready to render; TemplateSyntaxError where it is none."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    return environment.from_string(source)


class _Generation(Extension):
    """`{% generation %}` of transformers marks what is learned; the turns tell us already, so that its body is all we want."""

    tags = {"generation"}

    def parse(self, parser: Any) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **others: Any) -> str:
    """JSON as it is; Jinja's own filter writes it for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **others)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--chat-template: {path} cannot be read ({error})") from error


def _tokenizer_config(path: Path) -> dict[str, Any]:
    """What a tokenizer_config.json says, nothing where there is none."""
    if not path.is_file():
        return {}
    try:
        facts = json.loads(_text(path))
    except ValueError as error:
        raise ConfigError(f"{path}: it is not JSON ({error})") from error
    if not isinstance(facts, dict):
        raise ConfigError(f"{path}: it is not a JSON object")
    return facts


def _template_of(facts: dict[str, Any], path: Path) -> str:
    found = facts.get("chat_template")
    if isinstance(found, list):  # several, by name
        found = next((entry["template"] for entry in found if entry.get("name") == "default"), None)
    if not isinstance(found, str):
        raise ConfigError(f"--chat-template: {path} has no chat_template")
    return found


def _token(facts: dict[str, Any], name: str, otherwise: str) -> str:
    """A special token of tokenizer_config.json, which has it as a text or as an object with one."""
    found = facts.get(name)
    found = found.get("content") if isinstance(found, dict) else found
    return found if isinstance(found, str) else otherwise
