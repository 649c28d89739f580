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

    logprobs = prompt_logprobs(hidden, token_ids, head=head, vocab_size=20)
    expected = (hidden @ weight.T).log_softmax(dim=1)[torch.arange(10), token_ids]
    assert heights == [3, 3, 3, 1]
    torch.testing.assert_close(logprobs, expected)
