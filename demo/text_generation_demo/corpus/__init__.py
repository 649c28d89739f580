"""The generated corpus: conversations and raw texts, split by phrasing into train and held-out.

Nothing here knows about tokens, tensors or the model.
"""
