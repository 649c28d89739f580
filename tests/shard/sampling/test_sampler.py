import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from text_generation_shard.ops.cpu.library import operators
from text_generation_shard.sampling import native
from text_generation_shard.sampling.filters import keep_top_k
from text_generation_shard.sampling.parameters import SamplingParameters
from text_generation_shard.sampling.rows import GrammarMask
from text_generation_shard.sampling.sampler import Sampler

from tests.shard.sampling.rows import make_rows, pack_allowed

VOCAB = 61


def make_sampler(vocab_size=VOCAB):
    return Sampler(vocab_size=vocab_size, watermark_gamma=0.5, watermark_delta=2.0)


def make_logits(rows, vocab_size=VOCAB, seed=0):
    return torch.randn(rows, vocab_size, generator=torch.Generator().manual_seed(seed)) * 3


def test_greedy_reports_the_log_softmax_of_the_raw_scores():
    logits = make_logits(3)
    sampled = make_sampler()(logits, make_rows([SamplingParameters()] * 3))
    assert torch.equal(sampled.token_ids, logits.argmax(dim=1))
    expected = logits.log_softmax(dim=1).amax(dim=1)
    assert torch.equal(sampled.logprobs, expected)
    assert sampled.top_tokens is None


def test_equal_scores_go_to_the_lower_token_id():
    logits = torch.zeros(1, VOCAB)
    logits[0, [9, 4, 30]] = 1.0
    assert make_sampler()(logits, make_rows([SamplingParameters()])).token_ids.tolist() == [4]


def test_top_k_of_one_has_the_logprob_zero():
    parameters = SamplingParameters(do_sample=True, top_k=1, seed=5, temperature=1.7)
    sampled = make_sampler()(make_logits(1), make_rows([parameters]), [5])
    assert sampled.token_ids.tolist() == make_logits(1).argmax(dim=1).tolist()
    assert sampled.logprobs.tolist() == [0.0]
    assert sampled.top_tokens.counts.tolist() == [1]


@pytest.mark.parametrize("temperature", [1e-38, 1e30])
def test_extreme_temperatures_stay_numbers(temperature):
    sampled = make_sampler()(
        make_logits(1), make_rows([SamplingParameters(do_sample=True, temperature=temperature)])
    )
    assert sampled.logprobs.isfinite().all()
    if temperature < 1:
        assert sampled.token_ids.tolist() == make_logits(1).argmax(dim=1).tolist()


def test_order_of_processing():
    """Bias first, then penalties, grammar, temperature, top-k, top-p, min-p, one on the other."""
    logits = make_logits(1)
    parameters = SamplingParameters(
        logit_bias=((7, 4.0), (8, -2.0)),
        repetition_penalty=1.5,
        frequency_penalty=0.5,
        presence_penalty=0.25,
        temperature=0.8,
        top_k=10,
        top_p=0.8,
        min_p=0.05,
    )
    allowed = [token_id for token_id in range(VOCAB) if token_id % 5]
    grammar = GrammarMask((0,), pack_allowed([allowed], VOCAB))
    rows = make_rows([parameters], prompts=[[7, 11]], outputs=[[8, 8, 12]], grammar=grammar)
    sampled = make_sampler()(logits.clone(), rows, [VOCAB])

    scores = logits[0].clone()
    scores[7] += 4
    scores[8] -= 2
    for token_id in (7, 8, 11, 12):
        scores[token_id] = (
            scores[token_id] * 1.5 if scores[token_id] < 0 else scores[token_id] / 1.5
        )
    scores[8] -= 2 * 0.5 + 0.25
    scores[12] -= 0.5 + 0.25
    scores[[token_id for token_id in range(VOCAB) if token_id % 5 == 0]] = -math.inf
    scores = keep_top_k((scores / 0.8)[None], torch.tensor([10]), max_top_k=10)[0]
    order = scores.argsort(descending=True)
    kept, mass = [], 0.0
    for token_id in order.tolist():
        if mass >= 0.8:
            break
        kept.append(token_id)
        mass += scores.softmax(0)[token_id].item()
    kept = [token_id for token_id in kept if scores[token_id] >= scores[order[0]] + math.log(0.05)]
    expected = scores[kept].log_softmax(0)
    assert sampled.top_tokens.token_ids.tolist() == kept
    torch.testing.assert_close(sampled.top_tokens.logprobs, expected)


def test_watermark_raises_the_green_list_of_the_last_token():
    logits = torch.zeros(2, VOCAB)
    rows = make_rows(
        [SamplingParameters(watermark=True)] * 2, prompts=[[4, 9], [9]], outputs=[[], [5, 9]]
    )
    sampled = make_sampler()(logits, rows, [1, 1])
    counts = sampled.top_tokens.counts.tolist()
    assert counts == [VOCAB // 2] * 2
    first, second = sampled.top_tokens.token_ids.split(counts)
    assert torch.equal(first, second)


def test_grammar_masks_its_rows_only():
    logits = make_logits(3)
    grammar = GrammarMask((0, 2), pack_allowed([[17], [3, 60]], VOCAB))
    sampled = make_sampler()(
        logits, make_rows([SamplingParameters()] * 3, grammar=grammar), [VOCAB, 0, VOCAB]
    )
    assert sampled.token_ids[0] == 17
    assert sampled.logprobs[0] == 0.0
    assert sampled.token_ids[1] == logits[1].argmax()
    assert sampled.top_tokens.counts.tolist() == [1, 0, 2]
    assert sampled.top_tokens.token_ids[1:].sort().values.tolist() == [3, 60]


@pytest.mark.skipif(operators() is None, reason="no C++ operators")
@pytest.mark.parametrize("vocab_size", [33, 61, 1000, 5003])
def test_changes_by_the_operator_are_those_by_torch(vocab_size, monkeypatch):
    """Rows of every kind beside each other; one whose mask leaves a single token."""
    source = random.Random(vocab_size)
    parameters = [
        SamplingParameters(
            do_sample=source.random() < 0.5,
            seed=row,
            temperature=source.choice([1.0, 0.6]),
            top_p=source.choice([1.0, 0.9]),
            repetition_penalty=source.choice([1.0, 1.3, 0.7]),
            frequency_penalty=source.choice([0.0, 0.4, -0.37]),
            presence_penalty=source.choice([0.0, 1.1]),
            watermark=row == 5,
            logit_bias=((row, 2.5), (31, -1.5)) if row % 3 == 0 else (),
        )
        for row in range(12)
    ]
    histories = [[source.randrange(vocab_size) for _ in range(row + 1)] * 2 for row in range(12)]
    sizes = {1: 1, 4: vocab_size // 2, 5: 3, 6: 7, 11: vocab_size}
    allowed = [source.sample(range(vocab_size), size) for size in sizes.values()]
    rows = make_rows(
        parameters,
        prompts=[[*each[:1], 7] for each in histories],
        outputs=[each[1:] for each in histories],
        width=30,
        grammar=GrammarMask(tuple(sizes), pack_allowed(allowed, vocab_size)),
    )
    logits = make_logits(12, vocab_size)
    expected = make_sampler(vocab_size)(logits.clone(), rows)
    with monkeypatch.context() as patch:
        patch.setattr(native, "can_change", lambda _: False)
        by_torch = make_sampler(vocab_size)(logits.clone(), rows)
    assert torch.equal(expected.token_ids, by_torch.token_ids)
    assert torch.equal(expected.logprobs, by_torch.logprobs)
    assert expected.token_ids[1] == allowed[0][0]


def test_top_n_includes_ties_at_the_last_place_and_orders_them_by_token_id():
    logits = torch.full((4, VOCAB), -5.0)
    logits[0, [3, 0, 1, 4]] = torch.tensor([4.0, 9.0, 4.0, 4.0])
    logits[2, [3, 0, 1, 4]] = torch.tensor([4.0, 9.0, 5.0, 4.0])
    sampled = make_sampler()(logits, make_rows([SamplingParameters()] * 4), [2, 0, 3, 1])
    top = sampled.top_tokens
    assert top.counts.tolist() == [4, 0, 4, VOCAB]
    assert top.token_ids[:8].tolist() == [0, 1, 3, 4, 0, 1, 3, 4]
    expected = logits[0].log_softmax(0)[[0, 1, 3, 4]]
    torch.testing.assert_close(top.logprobs[:4], expected)


def draws(parameters, logits, num_draws):
    """The token drawn from the same scores with each of `num_draws` seeds; int64 [draws]."""
    rows = make_rows(
        [SamplingParameters(**{**parameters, "seed": seed}) for seed in range(num_draws)]
    )
    sampled = make_sampler(len(logits))(logits.expand(num_draws, -1).contiguous(), rows)
    return sampled.token_ids


@pytest.mark.parametrize(
    "parameters", [{}, {"temperature": 2.0}, {"top_k": 5}, {"min_p": 0.02, "temperature": 1.5}]
)
def test_draws_have_the_distribution_that_is_reported(parameters):
    """Chi-square; chance exceeds 31.3 (11 degrees of freedom) once in a thousand seeds."""
    logits = make_logits(1, vocab_size=12, seed=3)[0] / 2
    parameters = {"do_sample": True, **parameters}
    num_draws = 20000
    tokens = draws(parameters, logits, num_draws)
    reported = make_sampler(12)(
        logits[None].clone(), make_rows([SamplingParameters(**parameters)]), [12]
    ).top_tokens
    expected = torch.zeros(12).index_copy(0, reported.token_ids, reported.logprobs.exp())
    counts = tokens.bincount(minlength=12).float()
    assert counts[expected == 0].sum() == 0
    likely = expected > 0
    error = (counts - num_draws * expected)[likely] ** 2 / (num_draws * expected[likely])
    assert error.sum() < 31.3


def test_positions_draw_independently():
    """The same seed at successive positions: the pairs of draws have the product's distribution."""
    logits = torch.tensor([0.0, 0.5, 1.0])
    tokens = {}
    for length in (1, 2):
        rows = make_rows(
            [SamplingParameters(do_sample=True, seed=seed) for seed in range(9000)],
            prompts=[[0] * length] * 9000,
        )
        tokens[length] = make_sampler(3)(logits.expand(9000, -1).contiguous(), rows).token_ids
    pairs = (tokens[1] * 3 + tokens[2]).bincount(minlength=9).float()
    probabilities = logits.softmax(0)
    expected = 9000 * (probabilities[:, None] * probabilities[None, :]).flatten()
    # 8 degrees of freedom.
    assert ((pairs - expected) ** 2 / expected).sum() < 26.1


parameter_sets = st.builds(
    SamplingParameters,
    do_sample=st.booleans(),
    temperature=st.sampled_from([1.0, 0.3, 1.4]),
    top_k=st.sampled_from([0, 0, 1, 7, 500]),
    top_p=st.sampled_from([1.0, 1.0, 0.2, 0.9, 0.9999]),
    typical_p=st.sampled_from([1.0, 1.0, 0.2, 0.95]),
    min_p=st.sampled_from([0.0, 0.0, 0.1]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.8]),
    frequency_penalty=st.sampled_from([0.0, 0.7, -0.5]),
    presence_penalty=st.sampled_from([0.0, 0.4]),
    watermark=st.booleans(),
    seed=st.integers(0, (1 << 64) - 1),
    logit_bias=st.sampled_from([(), ((0, 3.0), (33, -100.0))]),
)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("vocab_size", [61, 4099])
def test_a_row_does_not_depend_on_its_batch(vocab_size, data):
    parameters = data.draw(st.lists(parameter_sets, min_size=2, max_size=9))
    count = len(parameters)
    token = st.integers(0, vocab_size - 1)
    prompts = [data.draw(st.lists(token, min_size=1, max_size=8)) for _ in range(count)]
    outputs = [data.draw(st.lists(token, max_size=8)) for _ in range(count)]
    top_n = [data.draw(st.sampled_from([0, 0, 1, 4])) for _ in range(count)]
    logits = make_logits(count, vocab_size, seed=data.draw(st.integers(0, 1000)))
    sampler = make_sampler(vocab_size)
    rows = make_rows(parameters, prompts=prompts, outputs=outputs)
    together = sampler(logits.clone(), rows, top_n)
    ends = [0] * count if together.top_tokens is None else together.top_tokens.counts.cumsum(0)
    for row in range(count):
        rows = make_rows(
            [parameters[row]], prompts=[prompts[row]], outputs=[outputs[row]], width=40
        )
        alone = sampler(logits[row : row + 1].clone(), rows, [top_n[row]])
        assert alone.token_ids[0] == together.token_ids[row]
        assert alone.logprobs[0] == together.logprobs[row]
        if top_n[row]:
            start = ends[row] - together.top_tokens.counts[row]
            found = together.top_tokens.token_ids[start : ends[row]]
            assert torch.equal(alone.top_tokens.token_ids, found)
