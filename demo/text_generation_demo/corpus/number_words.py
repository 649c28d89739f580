"""Numbers from 0 to 99 as English words."""

from text_generation_demo.corpus.data_file import read_data

_SMALL: list[str] = read_data("names")["small_numbers"]
_TENS: list[str] = read_data("names")["tens"]


def number_word(number: int) -> str:
    if number < len(_SMALL):
        return _SMALL[number]
    tens, ones = divmod(number, 10)
    return _TENS[tens - 2] if ones == 0 else f"{_TENS[tens - 2]}-{_SMALL[ones]}"
