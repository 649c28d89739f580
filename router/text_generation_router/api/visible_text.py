"""The part of a token's text that belongs to an answer."""

from collections.abc import Mapping

from text_generation_router.engine.request import TokenOutput


def visible_text(output: TokenOutput, special_texts: Mapping[int, str]) -> str:
    """A token's text without a special token's own; text that was held back before a special token
    and comes out with it stays.
    """
    if not output.special:
        return output.text
    return output.text.removesuffix(special_texts.get(output.token_id, output.text))
