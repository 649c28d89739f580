"""The dialects: TGI's own, OpenAI chat and OpenAI completions.

Each has wire types and the way from them to `GenerationRequest`s and back from tokens to answers.
Knows prompts and the engine's contract; knows nothing of aiohttp.
"""
