"""From documents to token ids with a loss weight for each of them, and to padded batches."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from text_generation_demo.corpus.document import Document, RawText
from text_generation_demo.tokenizer import END_OF_TEXT, TURN_END, TURN_START, text_of

PROMPT_WEIGHT = 0.1
"""Questions are learned a little as well: it helps the model to read them."""


@dataclass(frozen=True)
class EncodedDocument:
    """`weights[i]` is how much predicting `ids[i]` counts."""

    ids: list[int]
    weights: list[float]


@dataclass(frozen=True)
class Batch:
    """Documents of similar length, padded on the right.

    ids: [documents, tokens], int64; weights: [documents, tokens], float32, 0 for padding.
    """

    ids: torch.Tensor
    weights: torch.Tensor


class DocumentEncoder:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.pad_id = self._id(END_OF_TEXT)
        self._turn_end = self._id(TURN_END)
        self._answer_start = self._ids(f"{TURN_START}assistant\n")

    def _id(self, token: str) -> int:
        token_id = self._tokenizer.token_to_id(token)
        assert token_id is not None, token
        return int(token_id)

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode(self, document: Document) -> EncodedDocument:
        if isinstance(document, RawText):
            return self._encode_raw(document)
        ids = self._ids(text_of(document))
        weights = [PROMPT_WEIGHT] * len(ids)
        header = self._answer_start
        position = 0
        while position < len(ids):
            if ids[position : position + len(header)] == header:
                start = position + len(header)
                position = ids.index(self._turn_end, start)
                weights[start : position + 1] = [1.0] * (position + 1 - start)
            position += 1
        return EncodedDocument(ids, weights)

    def _encode_raw(self, document: RawText) -> EncodedDocument:
        """The text is tokenized as a whole; the completion begins where the prompt ends."""
        ids = [*self._ids(document.prompt + document.completion), self.pad_id]
        num_prompt = min(len(self._ids(document.prompt)), len(ids) - 1)
        weights = [PROMPT_WEIGHT] * num_prompt + [1.0] * (len(ids) - num_prompt)
        return EncodedDocument(ids, weights)

    def batches(self, documents: Iterable[Document], max_tokens: int) -> Iterator[Batch]:
        """Batches of at most `max_tokens` including padding, short documents first."""
        waiting: list[EncodedDocument] = []
        for encoded in sorted(map(self.encode, documents), key=lambda encoded: len(encoded.ids)):
            if waiting and (len(waiting) + 1) * len(encoded.ids) > max_tokens:
                yield self._padded(waiting)
                waiting = []
            waiting.append(encoded)
        if waiting:
            yield self._padded(waiting)

    def _padded(self, documents: list[EncodedDocument]) -> Batch:
        num_tokens = max(len(document.ids) for document in documents)
        ids = torch.full((len(documents), num_tokens), self.pad_id, dtype=torch.int64)
        weights = torch.zeros((len(documents), num_tokens))
        for row, document in enumerate(documents):
            ids[row, : len(document.ids)] = torch.tensor(document.ids)
            weights[row, : len(document.ids)] = torch.tensor(document.weights)
        return Batch(ids, weights)
