"""Whatever text a configuration holds, the answer is a configuration or a list of complaints: never another exception."""

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neox.config.draft import SECTION_OF
from neox.config.errors import ConfigError
from neox.config.known_keys import OTHER_KEYS
from neox.config.load import load, load_text
from neox.config.read import resolved
from neox.config.resolve import Surroundings

GOOD = """\
num_layers: 4
hidden_size: 64
num_attention_heads: 4
max_position_embeddings: 32
attention_config: [[["global", "local"], 2]]
train_micro_batch_size_per_gpu: 1
train_iters: 10
optimizer: {type: Adam, params: {lr: 1e-3, betas: [0.9, 0.95]}}
zero_optimization: {stage: 1, overlap_comm: true}
fp16: {enabled: true, loss_scale: 0}
extra_save_iters: [0, 1]
train_data_paths: [a, b]
valid_data_paths: [c]
tokenizer_type: CharLevelTokenizer
split: "969, 30, 1"
deepspeed_extra_args: {comms_logger: {enabled: true}}
"""
KEYS = st.sampled_from([*SECTION_OF, *(key for key in OTHER_KEYS if "." not in key)])
ODD = [
    "",
    "None",
    "nan",
    ".inf",
    "1e999",
    "-1",
    "0",
    "true",
    "~",
    "99999999999999999999999",
    "[[[]]]",
    "{}",
    "a: b",
    "\x00",
]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(ODD)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
AT_WORK = settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
AROUND = Surroundings(dry_run=True)


def outcome(raw, around=AROUND):
    """The complaints, or none; any other exception fails the test."""
    try:
        resolved(raw, around)
    except ConfigError as error:
        assert error.complaints
        assert not any("\n" in complaint for complaint in error.complaints)
        return error.complaints
    return []


def test_the_good_text_is_good():
    assert outcome(load_text(GOOD)) == []


@AT_WORK
@given(st.text(alphabet="abck:-[]{}&*!#'\"|>%@`,? \n\t012.~<\u2603\x01"))
def test_any_text(text):
    outcome(load_text(text))


@AT_WORK
@given(st.binary(max_size=80))
def test_any_bytes(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "f.yml"
    path.write_bytes(content)
    outcome(load([path]))


@AT_WORK
@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_any_values_of_known_keys(values):
    base = {key: value for key, value in yaml.safe_load(GOOD).items() if key not in values}
    outcome(load_text(yaml.dump({**base, **values}, allow_unicode=True)))


@AT_WORK
@given(
    st.integers(0, len(GOOD) - 1), st.integers(0, 12), st.text(max_size=4), st.sampled_from(["train.py", "generate.py"])
)
def test_damaged_text(at, cut, inserted, script):
    outcome(load_text(GOOD[:at] + inserted + GOOD[at + cut :]), Surroundings(script, dry_run=True))


@AT_WORK
@given(st.lists(st.text(max_size=20) | st.builds("{}={}".format, KEYS, st.text(max_size=8)), max_size=3))
def test_any_overrides(overrides):
    outcome(load([], overrides=overrides))
