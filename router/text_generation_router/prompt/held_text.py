"""How much of a growing text must be held back, because a mark may come out of it."""


def uncertain_length(text: str, mark: str) -> int:
    """How much of the end may still turn out to belong to a mark: white space, and the beginning of
    the mark after it.
    """
    start = len(text)
    for size in range(min(len(mark) - 1, len(text)), 0, -1):
        if mark.startswith(text[-size:]):
            start -= size
            break
    return len(text) - len(text[:start].rstrip())
