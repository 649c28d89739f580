"""The batch: what the device knows of each running sequence, and the tensors of one step."""
