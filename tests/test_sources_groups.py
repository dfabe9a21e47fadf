"""Rows that must not be parted."""

import numpy as np
import pytest

from pipeline.sources.groups import SHARED, row_groups


def same(groups):
    """The groups as a matrix of which rows go together."""
    return (groups[:, None] == groups[None]).astype(int).tolist()


def test_rows_with_one_text_are_one_group_whatever_its_case_and_spaces():
    assert same(row_groups(["A film.", "b", " a  FILM.", "c"])) == same(np.array([0, 1, 0, 2]))


def test_pairs_are_tied_by_a_sentence_on_either_side_and_by_what_it_is_tied_to():
    texts, pairs = ["a", "b", "e", "", ""], ["b", "c", "c", "g", "h"]
    assert same(row_groups(texts, pairs)) == same(np.array([0, 0, 0, 1, 2]))


def test_a_text_of_most_rows_ties_nothing():
    texts = [f"review {number // 2}" for number in range(100)]
    groups = row_groups(texts, ["Is this a good film?"] * 100)
    assert same(groups) == same(np.arange(100) // 2)


@pytest.mark.parametrize("seed", range(5))
def test_chains_of_shared_sentences_are_the_components_of_a_graph(seed):
    import networkx

    rng = np.random.default_rng(seed)
    first, second = rng.integers(150, size=(2, 100))
    graph = networkx.Graph(zip(first.tolist(), second.tolist(), strict=True))
    number = {node: i for i, part in enumerate(networkx.connected_components(graph)) for node in part}
    groups = row_groups([f"t{i}" for i in first], [f"t{i}" for i in second])
    assert same(groups) == same(np.array([number[node] for node in first.tolist()]))


@pytest.mark.parametrize("seed", range(5))
def test_phrases_belong_to_the_one_text_that_contains_them(seed):
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(list("abcde"), size=rng.integers(1, 7))) for _ in range(120)]
    groups = row_groups(texts, phrases=True)

    def inside(text, other):
        return text != other and f" {text} " in f" {other} "

    whole = {text for text in texts if not any(inside(text, other) for other in texts)}
    owners = [frozenset(other for other in whole if inside(text, other)) or frozenset([text]) for text in texts]
    assert {len(owner) > 1 for owner in owners} == {True, False}
    assert [group == SHARED for group in groups] == [len(owner) > 1 for owner in owners]
    kept = [i for i, owner in enumerate(owners) if len(owner) == 1]
    assert same(groups[kept]) == [[int(owners[i] == owners[j]) for j in kept] for i in kept]


def test_no_phrase_of_a_group_lies_inside_a_phrase_of_another():
    texts = ["a fine film", "fine film", "film", "a dull film", "dull", "", "fine"]
    groups = row_groups(texts, phrases=True)
    assert groups.tolist().count(SHARED) == 1  # "film"
    assert len({groups[0], groups[1], groups[6]}) == 1
    assert groups[3] == groups[4] != groups[0]
    assert groups[5] not in {groups[0], groups[3]}
