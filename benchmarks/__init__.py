"""Commands that measure the server; run from the repository root as `python -m benchmarks.NAME`.

    load        any OpenAI- or TGI-compatible server under load
    router      the router alone, in front of a shard that computes nothing
    long_prompt what a prompt of 4,000 tokens does to the streams that decode meanwhile
    memory      what a shard holds, by storage of the weights
    startup     from process start to the first token
    engine      prefill and decode of the CPU engine, transformers beside it in the same run
    generic     one model by its family and by the generic path
    grammars    what grammars cost the streams that have one, and those beside them
    checkpoint  writes a random-weight Llama checkpoint of a named size, for speed runs

`python -m benchmarks` (`make bench`) runs a short selection. What was found is in
docs/performance.md.
"""
