"""Ranking and choosing against values computed by hand."""

import math

import pytest

from examples.textrank import (
    BEST_OF_BLOCK,
    BLOCK_SENTENCES,
    pagerank,
    pick_diverse,
    rank_sentences,
    similarities,
)


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def test_similarity_is_the_shared_words_over_the_logarithms_of_the_sizes() -> None:
    sentences = [words("cat sat mat"), words("cat ate"), words("dog ate bone now"), words("moon")]

    edges = similarities(sentences)

    assert edges == {
        (0, 1): pytest.approx(1 / (math.log(3) + math.log(2))),
        (1, 2): pytest.approx(1 / (math.log(2) + math.log(4))),
    }


def test_two_equal_sentences_of_one_word_have_no_similarity() -> None:
    assert similarities([words("stop"), words("stop")]) == {}


def test_the_middle_of_a_path_ranks_highest() -> None:
    ranks = pagerank(3, {(0, 1): 1.0, (1, 2): 1.0})

    # middle = 0.15/3 + 0.85 * (ends together) and all add up to 1: middle = 0.9 / 1.85
    assert ranks == pytest.approx([0.256757, 0.486486, 0.256757], abs=1e-5)


def test_a_heavier_edge_carries_more_rank() -> None:
    ranks = pagerank(3, {(0, 1): 3.0, (1, 2): 1.0})

    # middle as before; left = 0.05 + 0.85 * 3/4 * middle, right = 0.05 + 0.85 * 1/4 * middle
    assert ranks == pytest.approx([0.360135, 0.486486, 0.153378], abs=1e-5)


def test_without_edges_the_jump_alone_decides() -> None:
    assert pagerank(2, {}, jump=[3.0, 1.0]) == pytest.approx([0.75, 0.25])


def test_the_ranks_add_up_to_one_where_a_node_stands_alone() -> None:
    ranks = pagerank(4, {(0, 1): 2.0, (1, 2): 1.0})

    assert sum(ranks) == pytest.approx(1.0)
    assert ranks[3] == min(ranks)


def test_no_sentences_have_no_ranks() -> None:
    assert pagerank(0, {}) == []
    assert rank_sentences([], []) == []


def test_the_best_sentence_scores_one() -> None:
    sentences = [words("a b c"), words("a x y"), words("b z w"), words("q r s")]

    scores = rank_sentences(sentences, [1.0] * 4)

    assert scores[0] == 1.0
    assert scores[1] == pytest.approx(scores[2])
    assert scores[3] == min(scores)


def test_a_long_text_is_ranked_in_blocks_and_its_hub_still_wins() -> None:
    size = 8 * BLOCK_SENTENCES + 3
    sentences = [words(f"own{index} other{index} topic{index % 40}") for index in range(size)]
    hub = size - 7
    sentences[hub] = frozenset(f"topic{index}" for index in range(40))

    scores = rank_sentences(sentences, [1.0] * size)

    assert scores[hub] == 1.0
    assert 0 < sum(score > 0 for score in scores) <= 5 * BEST_OF_BLOCK


def test_the_second_pick_is_the_best_that_says_something_else() -> None:
    sentences = [words("a b c d"), words("a b x y"), words("p q r s")]

    # 0.7 * 0.9 - 0.3 * 2/4 = 0.48 for the nearly alike, 0.7 * 0.7 = 0.49 for the new
    assert pick_diverse([1.0, 0.9, 0.7], sentences, count=2) == [0, 2]


def test_what_repeats_a_known_sentence_is_not_picked() -> None:
    sentences = [words("a b c d"), words("p q r s"), words("e f")]

    assert pick_diverse([1.0, 0.5, 0.0], sentences, count=3, known=[words("a b c z")]) == [1]


def test_on_a_tie_the_earlier_sentence_wins() -> None:
    assert pick_diverse([0.5, 0.5], [words("a b"), words("c d")], count=1) == [0]
