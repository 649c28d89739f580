"""`text-generation-benchmark`: how long prefill and decode take, by batch size, for one length.

Owns the timing, its summary and how that is shown. It asks a running server over HTTP, or a shard's
socket with no router between; which of them it is only `http_target` and `shard_target` know.
"""
