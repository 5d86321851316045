"""Documents of a packed sample do not see one another: its logits are those of each document run alone."""

import pytest
import torch
from support.models import SEQ, VOCAB, small, topology_of, two_documents

from neox.model.documents import Documents
from neox.model.gpt import GPT

WINDOW = 4
MODELS = {
    "learned": {},
    "sinusoidal": {"pos_emb": "sinusoidal"},
    "rotary": {"pos_emb": "rotary", "num_kv_heads": 2},
    "relative": {"pos_emb": "rpe", "rpe_num_buckets": 6, "rpe_max_distance": 8},
    "alibi": {"pos_emb": "alibi"},
}
LOCAL = {"attention_config": [[["global", "local"], 1]], "window_size": WINDOW}


@pytest.mark.parametrize("windowed", [False, True], ids=["global", "windowed"])
@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_packed_equals_alone(kind: str, windowed: bool) -> None:
    model = small(init_method_std=0.3, **MODELS[kind], **(LOCAL if windowed else {}))
    gpt = GPT(model, vocab_size=VOCAB, topology=topology_of(), seed=3)
    tokens, numbers, positions = two_documents()
    packed = gpt(tokens, documents=Documents(numbers, positions))
    for row, cut in enumerate((6, 11)):
        for part in (slice(0, cut), slice(cut, SEQ)):
            alone = gpt(tokens[row : row + 1, part])[:, 0]
            torch.testing.assert_close(packed[part, row], alone, rtol=0, atol=1e-5)
    assert (packed - gpt(tokens)).abs().max() > 1e-2, "without it, documents do see one another"


@torch.no_grad()
def test_mask_and_positions_are_apart() -> None:
    gpt = GPT(small(init_method_std=0.3), vocab_size=VOCAB, topology=topology_of(), seed=3)
    tokens, numbers, positions = two_documents()
    running = torch.arange(SEQ).expand(2, SEQ)
    whole = torch.zeros_like(numbers)
    torch.testing.assert_close(gpt(tokens, documents=Documents(None, running)), gpt(tokens))
    torch.testing.assert_close(gpt(tokens, documents=Documents(whole, None)), gpt(tokens))
    restarted = gpt(tokens, documents=Documents(None, positions))
    hidden = gpt(tokens, documents=Documents(numbers, None))
    for changed in (restarted, hidden):
        torch.testing.assert_close(changed[:6, 0], gpt(tokens)[:6, 0])
        assert not torch.allclose(changed[6:, 0], gpt(tokens)[6:, 0])
