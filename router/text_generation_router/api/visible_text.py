"""The part of a token's text that belongs to an answer."""

from collections.abc import Mapping

from text_generation_router.engine.request import TokenOutput


def visible_text(output: TokenOutput, special_texts: Mapping[int, str]) -> str:
    """A token's text without a special token's own; text that was held back before a special token
    and comes out with it stays.
    """
    return _without_special(output, output.text, special_texts)


def own_visible_text(output: TokenOutput, special_texts: Mapping[int, str]) -> str:
    """The same, without regard to stop strings."""
    return _without_special(output, output.own_text, special_texts)


def _without_special(output: TokenOutput, text: str, special_texts: Mapping[int, str]) -> str:
    if not output.special:
        return text
    return text.removesuffix(special_texts.get(output.token_id, text))
