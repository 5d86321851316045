import io
import json
import os

import pytest

from neox.config.errors import ConfigError
from neox.config.sections import GenerationConfig, TokenizerConfig
from neox.inference.generator import Completion
from neox.inference.text import TextGenerator, prompts_typed, read_prompts, write_texts
from neox.tokenizer.tokenizer import build_tokenizer

FIELDS = ["context", "text", "length", "finished", "message", "duration_seconds"]


class Shouting:
    """Instead of a generator: says the prompt again in capitals, and notes what it was asked."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.calls = []

    def generate(self, prompts, *, maximum_tokens, sampling, seeds):
        self.calls.append({"prompts": prompts, "sampling": sampling, "seeds": seeds})
        texts = ["once" if prompt == [self.tokenizer.eod] else self.tokenizer.decode(prompt) for prompt in prompts]
        ids = [self.tokenizer.encode(text.upper())[:maximum_tokens] for text in texts]
        return [Completion(ids=found, finished=len(found) < maximum_tokens) for found in ids]


@pytest.fixture
def tokenizer():
    return build_tokenizer(TokenizerConfig(tokenizer_type="CharLevelTokenizer"))


def write(tokenizer, typed="", seed=1, **keys):
    """What is printed, and the generator that was asked."""
    generator = Shouting(tokenizer)
    config = GenerationConfig(**keys)
    printed = io.StringIO()
    write_texts(TextGenerator(generator, tokenizer, config, seed=seed), config, io.StringIO(typed), printed)
    return printed.getvalue(), generator


def test_unconditional_starts_from_the_end_of_a_document(tokenizer):
    printed, generator = write(tokenizer, num_samples=3, generation_batch_size=2)
    records = [json.loads(line) for line in printed.splitlines()]
    assert [list(record) for record in records] == [FIELDS] * 3
    seconds = [record.pop("duration_seconds") for record in records]
    assert all(second >= 0 for second in seconds)
    once = {"context": "", "text": "ONCE", "length": 4, "finished": True, "message": None}
    assert records == [once] * 3
    assert [len(call["prompts"]) for call in generator.calls] == [2, 1]


def test_every_text_of_a_run_has_its_own_seed_whatever_the_batch(tokenizer):
    def seeds(**keys):
        return [seed for call in write(tokenizer, num_samples=5, **keys)[1].calls for seed in call["seeds"]]

    assert seeds(generation_batch_size=2) == seeds(generation_batch_size=5)
    assert len(set(seeds()) | set(seeds(seed=2))) == 10
    assert all(0 <= seed < 2**63 for seed in seeds(seed=2**62))


def test_prompts_of_a_file_become_json_lines_in_a_file(tokenizer, tmp_path):
    prompts, output = tmp_path / "prompts.txt", tmp_path / "new" / "texts.jsonl"
    prompts.write_text("to be\nor not\n\n \nthat is, \u00e9\n", encoding="utf-8")
    printed, generator = write(
        tokenizer, sample_input_file=str(prompts), sample_output_file=str(output), top_k=3, maximum_tokens=4
    )
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert [record["context"] for record in records] == ["to be", "or not", "that is, \u00e9"]
    assert [record["text"] for record in records] == ["TO B", "OR N", "THAT"]
    assert {record["finished"] for record in records} == {False}
    assert printed == f"3 texts written to {output}\n"
    assert generator.calls[0]["sampling"].top_k == 3
    assert [path.name for path in output.parent.iterdir()] == ["texts.jsonl"]
    assert output.stat().st_mode & 0o777 == 0o666 & ~current_mask()


def current_mask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_longer_prompt_end_keeps_lines_together(tmp_path):
    (tmp_path / "prompts.txt").write_text("a\nb\n###\nc\n###\n")
    config = GenerationConfig(sample_input_file=str(tmp_path / "prompts.txt"), prompt_end="###")
    assert read_prompts(config) == ["a\nb", "c"]


def test_an_output_is_whole_or_as_it_was(tokenizer, tmp_path):
    (tmp_path / "prompts.txt").write_text("a\n" * 5)
    output = tmp_path / "texts.jsonl"
    output.write_text("before\n")
    config = GenerationConfig(
        sample_input_file=str(tmp_path / "prompts.txt"), sample_output_file=str(output), generation_batch_size=2
    )

    class Failing(Shouting):
        def generate(self, prompts, **rest):
            if len(self.calls) == 2:
                raise RuntimeError("out of memory")
            return super().generate(prompts, **rest)

    with pytest.raises(RuntimeError):
        write_texts(TextGenerator(Failing(tokenizer), tokenizer, config, seed=1), config, io.StringIO(), io.StringIO())
    assert output.read_text() == "before\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prompts.txt", "texts.jsonl"]


def test_interactive_answers_each_prompt_before_it_reads_the_next(tokenizer):
    generator = Shouting(tokenizer)
    config = GenerationConfig(text_gen_type="interactive")
    printed = io.StringIO()
    seen = []

    def typed():
        for line in ("hello\n", "\n", "good bye"):
            seen.append(printed.getvalue())
            yield line

    class Typed(io.StringIO):
        def __iter__(self):
            return typed()

    write_texts(TextGenerator(generator, tokenizer, config, seed=1), config, Typed(), printed)
    assert seen == ["", "HELLO\n", "HELLO\n"]
    assert printed.getvalue() == "HELLO\nGOOD BYE\n"


def test_interactive_keeps_a_record_where_asked(tokenizer, tmp_path):
    output = tmp_path / "talk.jsonl"
    write(tokenizer, "one\ntwo\n", text_gen_type="interactive", sample_output_file=str(output))
    assert [json.loads(line)["text"] for line in output.read_text().splitlines()] == ["ONE", "TWO"]


def test_a_typed_prompt_may_have_lines():
    typed = io.StringIO("a\nb;; c;;\nd\n")
    assert list(prompts_typed(typed, io.StringIO(), ";;")) == ["a\nb", "c", "d"]


def test_a_terminal_is_asked():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = io.StringIO()
    assert list(prompts_typed(Terminal("a\nb\n"), screen, "\n")) == ["a", "b"]
    assert screen.getvalue() == "prompt> " * 3 + "\n"


@pytest.mark.parametrize(
    ("text", "words"), [(None, "No such file"), (b"\n \n", "holds no prompt"), (b"\xff\xfe\x00", "cannot read")]
)
def test_prompts_that_cannot_be_read_are_the_users_mistake(tmp_path, text, words):
    path = tmp_path / "prompts.txt"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(ConfigError, match=words):
        read_prompts(GenerationConfig(sample_input_file=str(path)))


def test_an_output_that_cannot_be_written_is_told_before_anything_is_generated(tokenizer, tmp_path):
    (tmp_path / "file").write_text("")
    generator = Shouting(tokenizer)
    config = GenerationConfig(sample_output_file=str(tmp_path / "file" / "texts.jsonl"))
    with pytest.raises(ConfigError, match="sample_output_file: cannot write"):
        write_texts(TextGenerator(generator, tokenizer, config, seed=1), config, io.StringIO(), io.StringIO())
    assert generator.calls == []


def test_a_vocabulary_without_an_end_cannot_start_from_nothing(tokenizer):
    tokenizer.eod = None
    with pytest.raises(ConfigError, match="no end-of-document token"):
        write(tokenizer)
