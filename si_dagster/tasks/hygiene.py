"""Near-duplicates between and within sets of texts, by shared word n-grams.

Exact n-gram sets with an inverted index, since the paper's tasks hold thousands of prompts, not millions:
nothing is estimated and nothing is missed. It compares words, not meaning: a paraphrase is not found, and a
problem whose numbers alone were changed is.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

NGRAM_SIZE = 5
SIMILARITY = 0.5
"""Jaccard similarity of word 5-gram sets from which two prompts count as near-duplicates (ours)."""

CONTAMINATION_NGRAM_SIZE = 13
"""Words in a row that training text and evaluation prompts may not share, punctuation aside (GPT-3 paper)."""

_BARE_WORD = re.compile(r"\w+")
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class NearDuplicate:
    """A pair of texts that are nearly the same.

    Attributes:
        train: Index in the first sequence.
        eval: Index in the second sequence.
        similarity: Jaccard similarity of their n-gram sets, in [0, 1].
    """

    train: int
    eval: int
    similarity: float


def word_ngrams(text: str, size: int) -> frozenset[tuple[str, ...]]:
    """All runs of `size` words, lower case; a shorter text is one run of all its words.

    >>> sorted(word_ngrams("A b c.", 3))
    [('a', 'b', 'c'), ('b', 'c', '.')]
    """
    return _runs(_WORD.findall(text.lower()), size)


def _runs(words: list[str], size: int) -> frozenset[tuple[str, ...]]:
    if len(words) < size:
        return frozenset([tuple(words)]) if words else frozenset()
    return frozenset(tuple(words[start : start + size]) for start in range(len(words) - size + 1))


def near_duplicates(
    train: Sequence[str], eval: Sequence[str], size: int = NGRAM_SIZE, similarity: float = SIMILARITY
) -> list[NearDuplicate]:
    """Pairs of a training and an evaluation text that are nearly the same, by training index.

    Args:
        train: Training prompts.
        eval: Evaluation prompts.
        size: Words an n-gram.
        similarity: Smallest Jaccard similarity that is reported.

    Examples:
        Six and five runs of three words, five of them shared:

        >>> near_duplicates(["Tom has 3 red pens and 4 caps"], ["tom has 3 red pens and 4"], size=3)
        [NearDuplicate(train=0, eval=0, similarity=0.8333333333333334)]
    """
    held = [word_ngrams(text, size) for text in eval]
    where: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, grams in enumerate(held):
        for gram in grams:
            where[gram].append(index)
    pairs = []
    for index, text in enumerate(train):
        grams = word_ngrams(text, size)
        shared = Counter(other for gram in grams for other in where.get(gram, ()))
        for other, count in sorted(shared.items()):
            jaccard = count / (len(grams) + len(held[other]) - count)
            if jaccard >= similarity:
                pairs.append(NearDuplicate(index, other, jaccard))
    return pairs


def contaminated(
    texts: Sequence[str], eval: Sequence[str], size: int = CONTAMINATION_NGRAM_SIZE
) -> list[int]:
    """Indices of texts that repeat `size` words in a row of an evaluation prompt, e.g. kept training rows.

    Evaluation prompts shorter than that are looked for whole, where they have at least five words.
    Punctuation does not count: with it, 581 of 4,500 gold solutions of MATH share thirteen signs of LaTeX
    with a problem of MATH-500; without it 41 do, most of them the code of a figure.
    """
    forbidden: dict[int, set[tuple[str, ...]]] = defaultdict(set)
    for prompt in eval:
        words = _BARE_WORD.findall(prompt.lower())
        if len(words) >= min(5, size):
            forbidden[min(size, len(words))] |= _runs(words, min(size, len(words)))
    found = []
    for index, text in enumerate(texts):
        words = _BARE_WORD.findall(text.lower())
        if any(not grams.isdisjoint(_runs(words, length)) for length, grams in forbidden.items()):
            found.append(index)
    return found


class Novelty:
    """Admits texts one by one: none that nearly repeats a given one or one admitted before.

    >>> novelty = Novelty(["Tom has 3 red pens and 4 blue caps, how many things?"])
    >>> [novelty.admits(text) for text in ("tom has 3 red pens and 4 blue caps, how many?", "Ann?", "Ann?")]
    [False, True, False]
    """

    def __init__(self, given: Sequence[str], similarity: float = SIMILARITY) -> None:
        self._similarity = similarity
        self._held: list[frozenset[tuple[str, ...]]] = []
        self._where: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for text in given:
            self._keep(word_ngrams(text, NGRAM_SIZE))

    def admits(self, text: str) -> bool:
        """Whether a text is new; if so, it is kept."""
        grams = word_ngrams(text, NGRAM_SIZE)
        shared = Counter(other for gram in grams for other in self._where.get(gram, ()))
        for other, count in shared.items():
            if count / (len(grams) + len(self._held[other]) - count) >= self._similarity:
                return False
        self._keep(grams)
        return True

    def _keep(self, grams: frozenset[tuple[str, ...]]) -> None:
        self._held.append(grams)
        for gram in grams:
            self._where[gram].append(len(self._held) - 1)


def distinct(texts: Sequence[str], cap: int | None = None, similarity: float = SIMILARITY) -> list[int]:
    """Indices of the texts to keep of one prompt: no two nearly the same, at most `cap`, the first ones win.

    >>> distinct(["3 + 4 = 7 so 7 pens", "3 + 4 = 7 so 7 pens", "4 + 3 makes 7 for all of them"], cap=2)
    [0, 2]
    """
    kept: list[tuple[int, frozenset[tuple[str, ...]]]] = []
    for index, text in enumerate(texts):
        if cap is not None and len(kept) >= cap:
            break
        grams = word_ngrams(text, NGRAM_SIZE)
        if all(_jaccard(grams, other) < similarity for _, other in kept):
            kept.append((index, grams))
    return [index for index, _ in kept]


def _jaccard(left: frozenset[tuple[str, ...]], right: frozenset[tuple[str, ...]]) -> float:
    union = len(left | right)
    return len(left & right) / union if union else 1.0
