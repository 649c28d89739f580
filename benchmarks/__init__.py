"""Commands that measure the server; run from the repository root as `python -m benchmarks.NAME`.

The whole server:

    load               any OpenAI- or TGI-compatible server under load
    peers              llama.cpp, OpenVINO and transformers beside it in the same run
    engine             prefill and decode of the CPU engine, transformers beside it in the same run
    long_prompt        what a prompt of 4,000 tokens does to the streams that decode meanwhile
    grammars           what grammars cost the streams that have one, and those beside them
    memory             what a shard holds, by storage of the weights
    startup            from process start to the first token
    soak               good, careless and hostile clients, and shards that are killed

Parts of it:

    router             the router alone, in front of a shard that computes nothing
    storage            the CPU engine by storage of the weights: speed, and what the storage costs
    generic            one model by its family and by the generic path
    state_space        a Mamba against transformers' code for it
    cpu_operators      the C++ operators beside torch's
    cpu_attention      attention of decode steps on CPU
    rank_sums          sums over two ranks on CPU
    parallel_sampling  what ranks exchange to sample together
    gpu_check          everything that only a GPU can show (`make gpu-check`)

    checkpoint         writes a random-weight Llama checkpoint of a named size, for speed runs

`python -m benchmarks` (`make bench`) runs a short selection. What was found is in
docs/performance.md.
"""
