"""Which sentences of a text matter most, and which of these say something new.

Ranking is TextRank: Mihalcea & Tarau, "TextRank: Bringing Order into Texts" (EMNLP 2004), section 4: a graph
of sentences whose edges are weighted by the words they share, ranked by weighted PageRank. Its random jump
may favour some sentences, as Florescu & Caragea, "PositionRank" (ACL 2017) do for early words. Choosing is
Maximal Marginal Relevance: Carbonell & Goldstein (SIGIR 1998). Pure functions on lists: the same input gives
the same numbers on every machine.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations

__all__ = ["pagerank", "pick_diverse", "rank_sentences", "similarities"]

DAMPING = 0.85
TOLERANCE = 1e-6
MAX_ROUNDS = 100
BLOCK_SENTENCES = 250
BEST_OF_BLOCK = 50

Edges = dict[tuple[int, int], float]


def similarities(sentences: Sequence[frozenset[str]]) -> Edges:
    """Return the TextRank similarity of each pair that shares a word, smaller index first.

    |A ∩ B| / (log |A| + log |B|), each sentence a set of words; pairs of one-word sentences, for which the
    measure is not defined, get none.
    """
    holders: defaultdict[str, list[int]] = defaultdict(list)
    for index, words in enumerate(sentences):
        for word in words:
            holders[word].append(index)
    shared = Counter(pair for indices in holders.values() for pair in combinations(indices, 2))
    sizes = [math.log(len(words)) if words else 0.0 for words in sentences]
    return {
        (a, b): count / (sizes[a] + sizes[b])
        for (a, b), count in sorted(shared.items())
        if sizes[a] + sizes[b] > 0
    }


def pagerank(size: int, edges: Edges, *, jump: Sequence[float] | None = None) -> list[float]:
    """Return the rank of each node of an undirected weighted graph; the ranks add up to 1.

    Args:
        size: Number of nodes; a node without edges passes its rank on by the jump alone.
        edges: Weight by (smaller, larger) node.
        jump: Where the random jump lands, in any positive unit; everywhere alike when left out.
    """
    if size == 0:
        return []
    landing = _normalised(jump or [1.0] * size)
    neighbours: list[list[tuple[int, float]]] = [[] for _ in range(size)]
    for (a, b), weight in edges.items():
        neighbours[a].append((b, weight))
        neighbours[b].append((a, weight))
    strength = [sum(weight for _, weight in pairs) for pairs in neighbours]
    ranks = landing
    for _ in range(MAX_ROUNDS):
        lost = sum(rank for rank, total in zip(ranks, strength, strict=True) if not total)
        flow = [sum(ranks[b] * weight / strength[b] for b, weight in pairs) for pairs in neighbours]
        new = [(1 - DAMPING + DAMPING * lost) * p + DAMPING * f for p, f in zip(landing, flow, strict=True)]
        moved = sum(abs(after - before) for after, before in zip(new, ranks, strict=True))
        ranks = new
        if moved < TOLERANCE:
            break
    return ranks


def _normalised(values: Sequence[float]) -> list[float]:
    total = sum(values)
    return [value / total for value in values]


def rank_sentences(sentences: Sequence[frozenset[str]], jump: Sequence[float]) -> list[float]:
    """Return a score between 0 and 1 for each sentence, 1 for the best, in bounded time.

    Up to 250 sentences are one graph. A longer text is ranked in blocks of 250, and the best 50 of each
    block meet in one last graph (in blocks again where they are many); all others score 0.

    Args:
        sentences: The set of content words of each sentence.
        jump: How much the random jump favours each sentence, all above zero.
    """
    contenders = list(range(len(sentences)))
    while len(contenders) > BLOCK_SENTENCES:
        size = math.ceil(len(contenders) / math.ceil(len(contenders) / BLOCK_SENTENCES))
        blocks = [contenders[at : at + size] for at in range(0, len(contenders), size)]
        contenders = sorted(index for block in blocks for index in _best(block, sentences, jump))
    scores = [0.0] * len(sentences)
    for index, rank in _ranked(contenders, sentences, jump).items():
        scores[index] = rank
    top = max(scores, default=0.0) or 1.0
    return [score / top for score in scores]


def _best(block: list[int], sentences: Sequence[frozenset[str]], jump: Sequence[float]) -> list[int]:
    ranks = _ranked(block, sentences, jump)
    return sorted(block, key=lambda index: (-ranks[index], index))[:BEST_OF_BLOCK]


def _ranked(
    indices: list[int], sentences: Sequence[frozenset[str]], jump: Sequence[float]
) -> dict[int, float]:
    edges = similarities([sentences[index] for index in indices])
    ranks = pagerank(len(indices), edges, jump=[jump[index] for index in indices])
    return dict(zip(indices, ranks, strict=True))


def pick_diverse(
    scores: Sequence[float],
    sentences: Sequence[frozenset[str]],
    *,
    count: int,
    known: Iterable[frozenset[str]] = (),
    balance: float = 0.7,
    too_alike: float = 0.6,
) -> list[int]:
    """Return up to `count` indices, best first, by Maximal Marginal Relevance.

    Each next one has the greatest `balance * score - (1 - balance) * likeness`, its likeness being that to
    the nearest sentence picked before it or known already; sentences that score 0 or are `too_alike` to one
    of these are never picked. On a tie the earlier sentence wins.
    """
    left = [index for index, score in enumerate(scores) if score > 0]
    others = list(known)
    likeness = {i: max((_cosine(sentences[i], other) for other in others), default=0.0) for i in left}
    picked: list[int] = []
    while len(picked) < count:
        left = [index for index in left if likeness[index] < too_alike]
        if not left:
            break
        best = max(left, key=lambda i: (balance * scores[i] - (1 - balance) * likeness[i], -i))
        picked.append(best)
        left.remove(best)
        for index in left:
            likeness[index] = max(likeness[index], _cosine(sentences[index], sentences[best]))
    return picked


def _cosine(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / math.sqrt(len(a) * len(b)) if a and b else 0.0
