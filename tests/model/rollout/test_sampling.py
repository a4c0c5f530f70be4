import torch
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_cli.model.rollout.sampling import SamplingSettings, next_tokens, sample_tokens, uniforms


def _draw(probabilities, uniform, **settings):
    logits = torch.log(torch.tensor([probabilities]))
    tokens, logprobs = sample_tokens(logits, torch.tensor([uniform]), **{"temperature": 1.0, **settings})
    return tokens.item(), logprobs.exp().item()


def test_a_token_is_where_the_running_sum_passes_the_uniform_number():
    # Running sums 0.2, 0.5, 1.0.
    assert [_draw([0.2, 0.3, 0.5], u)[0] for u in (0.0, 0.19, 0.21, 0.49, 0.51, 0.999)] == [0, 0, 1, 1, 2, 2]


def test_its_log_probability_is_recorded_under_the_temperature():
    # At temperature 0.5 probabilities are squared: 0.04, 0.09, 0.25, in all 0.38.
    token, probability = _draw([0.2, 0.3, 0.5], 0.99, temperature=0.5)
    assert token == 2
    torch.testing.assert_close(probability, 0.25 / 0.38)


def test_top_k_and_top_p_restrict_the_draw_but_not_the_record():
    probabilities = [0.1, 0.2, 0.3, 0.4]
    # Of 0.3 and 0.4 the first has 3/7 = 0.43 of the mass.
    assert [_draw(probabilities, u, top_k=2)[0] for u in (0.0, 0.42, 0.44)] == [2, 2, 3]
    # 0.4 + 0.3 is the smallest set with half of the mass.
    assert [_draw(probabilities, u, top_p=0.5)[0] for u in (0.0, 0.42, 0.44)] == [2, 2, 3]
    torch.testing.assert_close(_draw(probabilities, 0.0, top_k=2)[1], 0.3)


def test_frequencies_follow_the_distribution_over_many_blocks():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(700, generator=generator)
    uniform = torch.rand(40_000, generator=generator)
    tokens, logprobs = sample_tokens(logits.expand(40_000, -1), uniform, temperature=1.0)
    expected = torch.softmax(logits, 0)
    torch.testing.assert_close(logprobs, torch.log(expected)[tokens])
    counts = torch.bincount(tokens, minlength=700)
    # Chi-square with 699 degrees of freedom: mean 699, standard deviation 37.4.
    chi_square = ((counts - 40_000 * expected) ** 2 / (40_000 * expected)).sum()
    assert abs(chi_square - 699) < 4 * 37.4


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True), st.integers(1, 600))
def test_a_token_of_zero_probability_is_never_drawn(seed, uniform, size):
    generator = torch.Generator().manual_seed(seed)
    logits = 20 * torch.randn(1, size, generator=generator)
    logits[torch.rand(1, size, generator=generator) < 0.7] = float("-inf")
    logits[0, seed % size] = 0.0
    token, logprob = sample_tokens(logits, torch.tensor([uniform]), temperature=1.0)
    assert logits[0, token] > float("-inf")
    assert torch.isfinite(logprob)


def test_uniform_numbers_belong_to_the_completion_not_the_batch():
    more, fewer = uniforms(1, "prompt", 4, 8), uniforms(1, "prompt", 4, 8)
    assert torch.equal(more, fewer)
    assert not torch.equal(more, uniforms(1, "other", 4, 8))
    assert not torch.equal(more, uniforms(2, "prompt", 4, 8))
    assert more.unique().numel() == 32


def test_greedy_takes_the_likeliest():
    settings = SamplingSettings(1, 1, greedy=True)
    tokens, logprobs = next_tokens(torch.log(torch.tensor([[0.2, 0.5, 0.3]])), torch.zeros(1), settings)
    assert tokens.tolist() == [1]
    torch.testing.assert_close(logprobs.exp(), torch.tensor([0.5]))
