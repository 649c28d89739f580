"""From what a client wrote to token ids: tokenization, chat templates, and tool calls in answers.

Knows the files of a model's directory; knows nothing of HTTP, of the dialects or of the engine.
"""
