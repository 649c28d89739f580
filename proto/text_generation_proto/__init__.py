"""The step protocol as generated from `proto/shard.proto` (`make generate`)."""
