"""Chats become tokens and labels: what is learned, decoded, is what the assistant said, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest
import tokenizers
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from neox.config.errors import ConfigError
from neox.config.sections import DataConfig, TokenizerConfig
from neox.data.chat_template import ChatTemplate, find_template, template_beside
from neox.data.corpus import RecordError
from neox.data.datasets import build_datasets
from neox.data.manifest import check_hashes, read_manifest
from neox.data.preprocess import PreprocessJob, preprocess
from neox.data.samples import IndexedDataset
from neox.parallel.topology import Topology
from neox.tokenizer.tokenizer import build_tokenizer
from tools import preprocess_data

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% generation %}{{ message['content'] }}<|im_end|>\n"
    "{% endgeneration %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
END = "<|endoftext|>"
ALONE = Topology(0, 0, 1, 0, 1, 0, 1, 0, 1, torch.device("cpu"), "gloo")


def said(role: str, content: str) -> dict:
    return {"role": role, "content": content}


CHATS = [
    [said("system", "Be brief."), said("user", "What leaves at ebb?"), said("assistant", "The tide. \u00e9\u4e2d")],
    [said("user", "a"), said("assistant", "b"), said("user", "c"), said("assistant", " d\n"), said("user", "left out")],
    [said("user", "nobody answers")],
]


def byte_level(**kind) -> tokenizers.Tokenizer:
    engine = tokenizers.Tokenizer(tokenizers.models.BPE(**kind))
    engine.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    special = [END, "<|im_start|>", "<|im_end|>"]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=280, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    engine.train_from_iterator(["The tide goes out, the boats lie on the mud. "], trainer)
    return engine


def with_spaces() -> tokenizers.Tokenizer:
    """A tokenizer that puts a space before every text, as Llama 2's does."""
    engine = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    engine.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="always")
    engine.decoder = tokenizers.decoders.Metaspace(prepend_scheme="always")
    special = ["<unk>", END, "<|im_start|>", "<|im_end|>"]
    trainer = tokenizers.trainers.BpeTrainer(special_tokens=special, show_progress=False)
    engine.train_from_iterator([json.dumps(CHATS, ensure_ascii=False) + "\n"], trainer)
    return engine


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with a tokenizer, its template, and chats."""
    byte_level().save(str(tmp_path / "tokenizer.json"))
    facts = {"eos_token": {"content": "<|im_end|>"}, "chat_template": [{"name": "default", "template": CHATML}]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(facts))
    lines = [{"messages": chat, "meta": {"pile_set_name": "Chats"}} for chat in CHATS]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def arguments(folder: Path, *others: str) -> list[str]:
    return [
        *("--input", str(folder / "chats.jsonl"), "--output-prefix", str(folder / "out"), "--chat-key", "messages"),
        *("--tokenizer-type", "HFTokenizer", "--vocab-file", str(folder / "tokenizer.json"), "--append-eod"),
        *("--workers", "1"),
        *others,
    ]


def tokenizer_of(folder: Path):
    return build_tokenizer(TokenizerConfig(tokenizer_type="HFTokenizer", vocab_file=str(folder / "tokenizer.json")))


def written(folder: Path) -> list[tuple[str, str]]:
    """Of each document the whole text, and what of it is learned, runs apart by |."""
    tokenizer = tokenizer_of(folder)
    texts, labels = (IndexedDataset(str(folder / f"out_{name}_document")) for name in ("messages", "messages_label"))
    found = []
    for number in range(len(texts)):
        ids, learned = texts.get(number), labels.get(number)
        assert ids.shape == learned.shape and ((learned == ids) | (learned == -100)).all()
        runs = numpy.split(learned, numpy.flatnonzero(numpy.diff(learned == -100)) + 1)
        answers = [tokenizer.decode(run.tolist()) for run in runs if run[0] != -100]
        found.append((tokenizer.decode(ids.tolist()), "|".join(answers)))
    return found


@pytest.mark.parametrize("workers", ["1", "2"])
def test_only_the_answers_are_learned(folder, workers, capsys):
    assert preprocess_data.main(arguments(folder, "--workers", workers)) == 0
    assert written(folder) == [
        (
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat leaves at ebb?<|im_end|>\n"
            "<|im_start|>assistant\nThe tide. \u00e9\u4e2d<|im_end|>\n" + END,
            "The tide. \u00e9\u4e2d<|im_end|>\n" + END,
        ),
        (
            "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n"
            "<|im_start|>assistant\n d\n<|im_end|>\n" + END,
            "b<|im_end|>\n| d\n<|im_end|>\n" + END,
        ),
    ]
    shown = capsys.readouterr().out
    assert "out_messages_label_document.bin, .idx and .json written (int32)" in shown
    assert "1 empty documents left out" in shown
    for name in ("messages", "messages_label"):
        manifest = read_manifest(folder / f"out_{name}_document")
        check_hashes(folder / f"out_{name}_document", manifest)
        assert manifest["documents"] == 2 and manifest["empty_documents"] == 1
        assert (
            manifest["subsets"]["Chats"]["tokens"]
            == IndexedDataset(str(folder / f"out_{name}_document")).sequence_lengths.sum()
        )


def test_training_reads_them(folder):
    preprocess_data.main(arguments(folder))
    data = DataConfig(
        train_data_paths=[str(folder / "out_messages_document")],
        train_label_data_paths=[str(folder / "out_messages_label_document")],
        pack_impl="unpacked",
        reset_attention_mask=True,
    )
    tokenizer = tokenizer_of(folder)
    dataset = build_datasets(data, 256, (2, 0, 0), tokenizer, 7, ALONE).train
    learned = {tokenizer.decode(s["labels"][s["loss_mask"] > 0].tolist()) for s in (dataset[0], dataset[1])}
    assert learned == {answers.replace("|<", "<").replace("\n| d", "\n d") for _, answers in written(folder)}


def test_a_tokenizer_that_adds_spaces(folder):
    with_spaces().save(str(folder / "tokenizer.json"))
    assert preprocess_data.main(arguments(folder)) == 0
    (_, first), (_, second) = written(folder)
    assert first.replace(" ", "") == "Thetide.\u00e9\u4e2d<|im_end|>\n" + END
    assert second.replace(" ", "") == "b<|im_end|>\n|d\n<|im_end|>\n" + END


@pytest.fixture(scope="module")
def reference():
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=byte_level(), chat_template=CHATML, bos_token=END, eos_token=END
    )


contents = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<"), max_size=30)
chats = st.lists(st.tuples(contents, contents), min_size=1, max_size=4)


@settings(max_examples=60)
@given(turns=chats)
def test_text_is_that_of_transformers(reference, turns):
    chat = [message for ask, answer in turns for message in (said("user", ask), said("assistant", answer))]
    pieces = ChatTemplate(CHATML).pieces(chat)
    assert "".join(piece.text for piece in pieces) == reference.apply_chat_template(chat, tokenize=False)
    assert [piece.text for piece in pieces if piece.learned] == [answer + "<|im_end|>\n" for _, answer in turns]


@pytest.mark.parametrize(
    ("messages", "template", "sentence"),
    [
        ("hello", CHATML, "it is not a list of messages, each with a role"),
        ([{"content": "a"}], CHATML, "it is not a list of messages, each with a role"),
        (CHATS[0], "{{ raise_exception('no system') }}", r"the chat template refuses it \(no system\)"),
        (CHATS[0], "{{ messages[0].content + 1 }}", "the chat template refuses it"),
        (CHATS[1], "{{ messages | length }}{{ messages }}", "does not follow what it makes of those before"),
        (CHATS[0], "{{ ''.__class__.__mro__ }}", "the chat template refuses it .*unsafe"),
    ],
)
def test_chats_that_cannot_be_used(messages, template, sentence):
    with pytest.raises(RecordError, match=sentence):
        ChatTemplate(template).pieces(messages)


def test_bad_chats_stop_or_are_counted(folder, capsys):
    with open(folder / "chats.jsonl", "a") as file:
        file.write('{"messages": "hello"}\n{"text": "a"}\n')
    assert preprocess_data.main(arguments(folder)) == 2
    assert f"{folder / 'chats.jsonl'}:4: it is not a list of messages" in capsys.readouterr().err
    assert not (folder / "out_messages_document.idx").exists()
    assert preprocess_data.main(arguments(folder, "--on-error", "skip")) == 0
    assert f"{folder / 'chats.jsonl'}:5: there is no key 'messages', only 'text'" in capsys.readouterr().out
    assert len(written(folder)) == 2


def test_where_the_template_comes_from(folder):
    vocabulary = str(folder / "tokenizer.json")
    assert find_template(None, vocabulary, END) == ChatTemplate(CHATML, "", "<|im_end|>")
    (folder / "chat_template.jinja").write_text("beside")
    assert find_template(None, vocabulary, END).source == "beside"
    given = folder / "given.jinja"
    given.write_text("{{ bos_token }}")
    assert find_template(given, vocabulary, END).source == "{{ bos_token }}"
    assert find_template(given, None, END).eos_token == END
    given.write_text("{% if %}")
    with pytest.raises(ConfigError, match=r"given\.jinja: it is not a Jinja template \(line 1"):
        find_template(given, vocabulary, END)
    with pytest.raises(ConfigError, match="gone.jinja cannot be read"):
        find_template(folder / "gone.jinja", vocabulary, END)
    (folder / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"--chat-template: it is not given, and .*empty has no chat_template\.jinja"):
        find_template(None, str(folder / "empty" / "tokenizer.json"), END)
    (folder / "plain.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"plain\.json has no chat_template"):
        find_template(folder / "plain.json", vocabulary, END)


def test_the_template_beside_a_tokenizer(folder):
    vocabulary = str(folder / "tokenizer.json")
    assert template_beside(vocabulary) == folder / "tokenizer_config.json"
    (folder / "tokenizer_config.json").write_text("{}")
    assert template_beside(vocabulary) is None
    (folder / "chat_template.jinja").write_text("beside")
    assert template_beside(vocabulary) == folder / "chat_template.jinja"
    assert template_beside(None) is None


def test_what_an_answer_follows_and_what_ends_it():
    template = ChatTemplate(CHATML)
    assert template.question([said("user", "a")]) == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    assert template.end_of_turn() == "<|im_end|>"
    assert ChatTemplate("{% for m in messages %}{{ m.content }}\n{% endfor %}").end_of_turn() == ""
    assert ChatTemplate("{{ raise_exception('no') }}").end_of_turn() == ""


def test_another_template_is_another_job(folder):
    job = PreprocessJob(
        [str(folder / "chats.jsonl")],
        str(folder / "out"),
        TokenizerConfig(tokenizer_type="HFTokenizer", vocab_file=str(folder / "tokenizer.json")),
        chat_key="messages",
    )

    def stop(_progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        preprocess(job, stop)
    (folder / "chat_template.jinja").write_text("other")
    with pytest.raises(ConfigError, match="another job broke off here, with other chat"):
        preprocess(job)
    (folder / "chat_template.jinja").unlink()
    preprocess(job)
    assert len(written(folder)) == 2


@pytest.mark.parametrize("others", [("--ftfy",), ("--jsonl-keys", "text")])
def test_options_that_are_for_texts(folder, others):
    with pytest.raises(SystemExit) as caught:
        preprocess_data.parse(arguments(folder, *others))
    assert caught.value.code == 2
