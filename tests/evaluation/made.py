"""A small collection for the tests of evaluation."""

import random

from mice_st.data.collection import Collection

WORDS = "berlin museum river bridge capital sort file read write open close path cat dog bird"  # tokens of the test vocabulary


def make_collection(name: str, seed: int, documents: int = 12, queries: int = 6) -> Collection:
    """Documents of six words, queries of three; every text has 'city', so that BM25 finds all documents for each query."""
    generator, words = random.Random(seed), WORDS.split()
    corpus = {f"d{place}": " ".join([*generator.sample(words, 5), "city"]) for place in range(documents)}
    asked = {f"q{place}": " ".join([*generator.sample(words, 2), "city"]) for place in range(queries)}
    return Collection(name, corpus, asked, {query: {f"d{place}": 1} for place, query in enumerate(asked)})
