"""Two ranks over gloo compute the text that one computes."""

from typing import Any

PROMPTS = ("What is deep learning?", "Count to 10.", "Hello")


def test_two_shards_equal_one(server: Any, launch: Any) -> None:
    with launch("--num-shard", "2") as two:
        for prompt in PROMPTS:
            one = server.generate(prompt, max_new_tokens=24)
            assert two.generate(prompt, max_new_tokens=24) == one
        sampled = {"do_sample": True, "seed": 5, "temperature": 1.2, "max_new_tokens": 24}
        assert two.generate(PROMPTS[0], **sampled) == server.generate(PROMPTS[0], **sampled)
        two.wait_until_idle()
