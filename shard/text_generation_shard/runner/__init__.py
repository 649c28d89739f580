"""Decode steps as recorded graphs. Know the model and the slots; not the step's message."""
