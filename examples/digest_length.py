"""How long a digest is, and what goes first when it is too long. Pure functions on its sources."""

import math
from collections.abc import Sequence

from examples.digest_report import Pick, Source, count_words

__all__ = ["fits", "shrunk", "within"]


def fits(sources: Sequence[Source], target_words: int) -> bool:
    """Return whether a digest has no more words than asked for, or a single sentence left."""
    return count_words(sources) <= target_words or sum(len(source["picks"]) for source in sources) <= 1


def within(picks: Sequence[Pick], words: int) -> list[Pick]:
    """Return the first picks, as many as have so few words together, one at least."""
    kept: list[Pick] = []
    for pick in picks:
        words -= len(pick["text"].split())
        if words < 0 and kept:
            break
        kept.append(pick)
    return kept


def shrunk(sources: Sequence[Source], target_words: int) -> list[Source]:
    """Return the sources with their last picks gone, one each, until the digest fits.

    A source's share of the words grows with the square root of its length. Those over their share come first,
    the most over it before the others, and the only pick of a source goes after all others.
    """
    result = list(sources)
    for index in _longest_first(sources, target_words):
        if fits(result, target_words):
            break
        picks = sources[index]["picks"][:-1]
        note = sources[index]["note"] if picks else "no room left for it"
        result[index] = Source(**{**sources[index], "picks": picks, "note": note})
    return result


def _longest_first(sources: Sequence[Source], target_words: int) -> list[int]:
    filled = [index for index, source in enumerate(sources) if source["picks"]]
    all_weight = sum(math.sqrt(sources[index]["words"]) for index in filled)

    def excess(index: int) -> float:
        share = target_words * math.sqrt(sources[index]["words"]) / all_weight
        return count_words([sources[index]]) - share

    order = sorted(filled, key=lambda index: (-excess(index), index))
    several = [index for index in order if len(sources[index]["picks"]) > 1]
    over = [index for index in several if excess(index) > 0]
    return over or several or order
