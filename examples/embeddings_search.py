"""Find the passages nearest to a question: python examples/embeddings_search.py ARTIFACT "question" FILE...

Any decoder gives vectors; one that was trained for search gives better ones.
"""

import sys
from pathlib import Path

from edgeport.runtimes import EmbeddingOptions, load


def passages(files: list[str]) -> list[str]:
    """Paragraphs: what empty lines separate."""
    texts = (Path(name).read_text(encoding="utf-8") for name in files)
    return [part.strip() for text in texts for part in text.split("\n\n") if part.strip()]


def search(artifact: str, question: str, texts: list[str], count: int = 3) -> list[tuple[float, str]]:
    """The `count` nearest texts with their cosine, nearest first."""
    options = EmbeddingOptions(pooling="mean", truncate=True)
    with load(artifact) as model:
        vectors = model.embed([question, *texts], options).vectors
    similar = vectors[1:] @ vectors[0]  # all have length 1
    return [(float(similar[index]), texts[index]) for index in similar.argsort()[::-1][:count]]


if __name__ == "__main__":
    for cosine, text in search(sys.argv[1], sys.argv[2], passages(sys.argv[3:])):
        print(f"{cosine:.3f}  {text[:200]}\n")
