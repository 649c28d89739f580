import pytest
import torch
from text_generation_shard.sampling import prompt_logprobs as module
from text_generation_shard.sampling.prompt_logprobs import prompt_logprobs


def test_chunks_bound_the_logits_and_change_nothing(monkeypatch):
    monkeypatch.setattr(module, "_MAX_LOGITS", 3 * 20 + 5)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(20, 8, generator=generator)
    hidden = torch.randn(10, 8, generator=generator)
    token_ids = torch.randint(0, 20, (10,), generator=generator)
    heights = []

    def head(states):
        heights.append(len(states))
        return states @ weight.T

    scores = prompt_logprobs(hidden, token_ids, head=head, vocab_size=20, top_n=4)
    expected = (hidden @ weight.T).log_softmax(dim=1)
    assert heights == [3, 3, 3, 1]
    torch.testing.assert_close(scores.logprobs, expected[torch.arange(10), token_ids])
    best = expected.sort(dim=1, descending=True)
    assert torch.equal(scores.top_token_ids, best.indices[:, :4])
    torch.testing.assert_close(scores.top_logprobs, best.values[:, :4])


@pytest.mark.parametrize(("top_n", "expected"), [(0, 0), (30, 20)])
def test_no_more_candidates_than_asked_for_or_there_are(top_n, expected):
    scores = prompt_logprobs(
        torch.zeros(2, 20),
        torch.zeros(2, dtype=torch.int64),
        head=torch.clone,
        vocab_size=20,
        top_n=top_n,
    )
    assert scores.top_token_ids.shape == scores.top_logprobs.shape == (2, expected)
