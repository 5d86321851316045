"""Rules of the tokenizer, the data, and what is learned from them."""

from __future__ import annotations

from typing import Any

from neox.config.errors import ConfigError
from neox.config.resolve import PATH_KEYS, SAMPLE_MERGES, SAMPLE_TOKENIZER, SAMPLE_VOCAB
from neox.config.rules.rule import Complaints, Rule
from neox.config.shapes import attention_windows, is_causal

LABELS = [key for key in PATH_KEYS if "_label_" in key]


def tokenizer_has_its_files(config: Any) -> Complaints:
    tokenizer = config.tokenizer
    kind = tokenizer.tokenizer_type
    if kind == "CharLevelTokenizer":
        return
    if tokenizer.vocab_file is None:
        hint = f", as in vocab_file: {SAMPLE_VOCAB}" if kind == SAMPLE_TOKENIZER else ""
        yield "vocab_file tokenizer_type", f"is missing: {kind} needs it{hint}"
    if tokenizer.merge_file is None and kind == SAMPLE_TOKENIZER:
        yield "merge_file tokenizer_type", f"is missing: {kind} needs it, as in merge_file: {SAMPLE_MERGES}"


def data_is_given_one_way(config: Any) -> Complaints:
    data = config.data
    lists = [
        key for key in ("train_data_paths", "valid_data_paths", "test_data_paths") if getattr(data, key) is not None
    ]
    if data.data_path is not None and lists:
        yield (
            f"data_path {lists[0]}",
            f"{lists[0]} is given too: divide one data_path by split, or give the three lists",
        )
    if lists and "train_data_paths" not in lists:
        yield f"{lists[0]}", "train_data_paths is missing: give train_data_paths and valid_data_paths"
    if "train_data_paths" in lists and not data.train_data_paths:
        yield "train_data_paths", "is an empty list"


def split_is_three_shares(config: Any) -> Complaints:
    text = config.data.split
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = []
    if len(shares) != 3 or not all(0 <= share < float("inf") for share in shares) or not sum(shares):
        yield "split", f'{text!r} is not three shares, for training, validation and test, as in "969, 30, 1"'
    elif not shares[0]:
        yield "split", f"{text!r} leaves nothing for training"


def evaluation_has_data(config: Any) -> Complaints:
    data, evaluation = config.data, config.evaluation
    side = "pos_" if data.are_pairs else ""
    if data.training_paths is not None and not data.validation_paths and evaluation.eval_iters:
        yield (
            f"{side}valid_data_paths {side}train_data_paths",
            f"is missing: give it beside {side}train_data_paths, or eval_iters: 0 to train without evaluation",
        )


def weights_fit_paths(config: Any) -> Complaints:
    data = config.data
    given = {"train": data.training_paths, "valid": data.validation_paths, "test": data.test_data_paths}
    for split, paths in given.items():
        weights, key = getattr(data, f"{split}_data_weights"), f"{split}_data_weights"
        if weights is None:
            continue
        if paths is None:
            yield key, f"has no {split}_data_paths to weigh"
        elif len(weights) != len(paths):
            side = "pos_" if data.are_pairs else ""
            yield key, f"{len(weights)} weights for {len(paths)} {side}{split}_data_paths"
        elif not sum(weights):
            yield key, "all weights are 0"
        elif data.weight_by_num_documents:
            yield key, "weight_by_num_documents is given too: give one of them"
    if data.weight_by_num_documents and data.training_paths is None:
        yield "weight_by_num_documents", "has no train_data_paths to weigh"


def labels_fit_paths(config: Any) -> Complaints:
    for key in LABELS:
        of = key.replace("_label", "")
        paths, labels = getattr(config.data, of), getattr(config.data, key)
        if labels is None:
            continue
        if paths is None:
            yield key, f"has no {of} to label"
        elif len(labels) != len(paths):
            yield key, f"{len(labels)} prefixes for {len(paths)} {of}"


def labels_stay_beside_their_tokens(config: Any) -> Complaints:
    data = config.data
    given = [key for key in LABELS if getattr(data, key) is not None]
    if data.fim_rate and given:
        yield "fim_rate", f"moves tokens away from their labels, and {given[0]} is given: leave one of them out"


def masked_tokens_are_seen_from_both_sides(config: Any) -> Complaints:
    model, data = config.model, config.data
    if is_causal(model):
        return
    if model.pos_emb in ("alibi", "rpe"):
        yield (
            "pos_emb train_impl",
            f"{model.pos_emb} knows distances backwards only, and mlm looks ahead too: give learned, rotary, sinusoidal or none",
        )
    try:
        windows = attention_windows(model)
    except ConfigError:
        windows = []  # attention_pattern_fits complains
    if any(window is not None for window in windows):
        yield (
            "train_impl attention_config sliding_window_width",
            "mlm has no windows: give global attention in every layer",
        )
    labels = [key for key in LABELS if getattr(data, key) is not None]
    if labels:
        yield f"{labels[0]} train_impl", "mlm makes its own labels: leave it out"
    if data.fim_rate:
        yield "fim_rate train_impl", "is for a model that predicts the next token, and train_impl is mlm: leave it out"
    if data.pack_impl != "packed" and not data.reset_attention_mask:
        yield (
            "pack_impl train_impl",
            f"mlm would look at the padding of {data.pack_impl} samples: give reset_attention_mask: true too, or packed",
        )
    if data.mlm_same_token_prob + data.mlm_random_token_prob > 1:
        yield "mlm_same_token_prob mlm_random_token_prob", "and mlm_random_token_prob are more than 1 together"


def preferences_are_pairs(config: Any) -> Complaints:
    model, data = config.model, config.data
    pairs = {key: getattr(data, key) for key in PATH_KEYS if key.startswith(("pos_", "neg_"))}
    given = [key for key, paths in pairs.items() if paths is not None]
    if model.train_impl != "dpo":
        if given:
            yield given[0], f"is for train_impl: dpo, and it is {model.train_impl}"
        return
    others = [key for key in ("train_data_paths", "valid_data_paths") if getattr(data, key) is not None]
    if not data.are_pairs:
        yield "train_impl", "dpo reads pairs of answers: give pos_train_data_paths and neg_train_data_paths"
    elif others or data.data_path is not None:
        other = [*others, "data_path"][0]
        yield f"{other} train_impl", "dpo reads pos_train_data_paths and neg_train_data_paths: leave it out"
    for split in ("train", "valid"):
        answers, rejected = (pairs[f"{side}_{split}_data_paths"] or [] for side in ("pos", "neg"))
        if len(answers) != len(rejected):
            yield (
                f"neg_{split}_data_paths pos_{split}_data_paths",
                f"{len(rejected)} prefixes for {len(answers)} pos_{split}_data_paths",
            )
    if data.pack_impl != "unpacked":
        yield "pack_impl train_impl", f"dpo compares whole answers: give unpacked, not {data.pack_impl}"
    if data.fim_rate:
        yield "fim_rate train_impl", "is for a model that predicts the next token, and train_impl is dpo: leave it out"


def chopping_is_for_whole_documents(config: Any) -> Complaints:
    data = config.data
    if data.pack_impl == "packed" and not data.allow_chopped:
        yield (
            "allow_chopped pack_impl",
            "packed samples cut documents wherever a sample ends: give pack_impl: unpacked or pack_until_overflow too",
        )


def fill_in_has_a_rate(config: Any) -> Complaints:
    data = config.data
    unused = [key for key in ("fim_split_sample", "fim_no_prefix") if getattr(data, key) is not None]
    if unused and not data.fim_rate:
        yield f"{unused[0]} fim_rate", "has no effect: fim_rate is 0"


RULES: list[Rule] = [
    tokenizer_has_its_files,
    split_is_three_shares,
    weights_fit_paths,
    labels_fit_paths,
    labels_stay_beside_their_tokens,
    masked_tokens_are_seen_from_both_sides,
    chopping_is_for_whole_documents,
    fill_in_has_a_rate,
]
TRAINING_RULES: list[Rule] = [data_is_given_one_way, evaluation_has_data, preferences_are_pairs]
