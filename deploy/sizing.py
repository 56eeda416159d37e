"""Memory of a Vespa that holds captioned pictures, by Vespa's own formulas: computed, not measured.

    python deploy/sizing.py
    python deploy/sizing.py --documents 10000000 --dimension 768 --groups 2 --nodes 4

Sources: attributes, https://docs.vespa.ai/en/content/attributes.html (D documents, V values each, U
different values, and 6/5 for buffers that grow); links, https://arxiv.org/abs/1603.09320 (twice
max-links-per-node on the lowest level, and one node in max-links-per-node on each level above);
room to work, https://docs.vespa.ai/en/writing/indexing-paged-vectors.html (memory / 0.65).
"""

import argparse
from dataclasses import dataclass

GROWTH = 6 / 5
REFERENCE = 4  # bytes of a reference into a store, of a link, and of a posting's document
POSTING = 8  # bytes of a posting of a field with several values
DOCUMENT_META = 52  # bytes; 30 in the page's text, 52 in its example
ROOM = 0.65  # share of the memory that may be filled
PROCESSES_GB = 4.0  # all of Vespa on one machine, without documents: its rule for one container
NODE_PROCESSES_GB = 1.0  # what a content node runs beside proton: assumed
BYTES = {"float": 4, "bfloat16": 2}
MAX_LINKS = 16  # as vespa_app/schemas/image.sd has it


@dataclass(frozen=True)
class Collection:
    """What is held. Lengths are in bytes of UTF-8, on average."""

    documents: int = 1_000_000
    dimension: int = 512
    id_length: int = 24
    tags: int = 3
    tag_length: int = 10
    tag_values: int = 10_000
    numbers: int = 2
    caption_bytes: int = 150
    words: int = 20  # different ones in the captions of a document
    word_length: int = 8
    different_words: int = 200_000
    look_length: int = 9


def vectors(held: Collection, precision: str) -> float:
    """Bytes of the embeddings."""
    return held.documents * (held.dimension * BYTES[precision] + REFERENCE * GROWTH)


def graph(held: Collection) -> float:
    """Bytes of the HNSW graph, with all places for links taken: an upper bound."""
    above = 1 / (MAX_LINKS - 1)  # levels above the lowest, of the average document
    links = 2 * MAX_LINKS + above * MAX_LINKS
    references = 2 + 1 + above  # to the vector and the levels, and of each level to its links
    return held.documents * (links + references) * REFERENCE * GROWTH


def attributes(held: Collection) -> float:
    """Bytes of id, path, tags, numbers, words and look, and of Vespa's own list of documents."""
    n = held.documents
    each = GROWTH * n
    unique = GROWTH * n * (1 + held.id_length + 2 * REFERENCE)
    id_ = each * REFERENCE + unique + each * REFERENCE + each * REFERENCE
    path = each * REFERENCE + unique
    lists = each * REFERENCE * 6  # keys and values of tags and of numbers; what filters ask
    # Keys, values, and tag_values, in which each different one stands with its column once more.
    tags = each * held.tags * 3 * (REFERENCE + POSTING)
    tags += GROWTH * held.tag_values * (1 + held.tag_length + 3 * REFERENCE)
    tags += GROWTH * held.tag_values * (1 + 2 * held.tag_length + 3 * REFERENCE)
    numbers = each * held.numbers * (REFERENCE + 8)
    # number_keys are in a dictionary too; at most, all are different.
    numbers += each * held.numbers * (REFERENCE + POSTING + 8 + 2 * REFERENCE)
    # sortable: a reference, and of each number its value and its column.
    numbers += each * (REFERENCE + held.numbers * (8 + REFERENCE))
    return id_ + path + lists + tags + numbers + words(held) + shared(held) + n * DOCUMENT_META


def words(held: Collection) -> float:
    """Bytes of the captions' words, for beginnings and spellings: a list, and a dictionary."""
    each = REFERENCE + held.words * (REFERENCE + POSTING)
    different = 1 + held.word_length + 3 * REFERENCE
    return GROWTH * (held.documents * each + held.different_words * different)


def shared(held: Collection) -> float:
    """Bytes of look, at most (each its own), and data_set, of which there are few."""
    look = REFERENCE + 1 + held.look_length + 2 * REFERENCE
    return GROWTH * held.documents * (look + REFERENCE)


def disk(held: Collection, precision: str) -> float:
    """Bytes on disk: documents, attributes twice (the next copy is written before the last goes).

    The text index is taken as large as the text.
    """
    in_memory = vectors(held, precision) + graph(held) + attributes(held)
    text = held.documents * (held.caption_bytes + 2 * held.id_length)
    return 2 * in_memory + vectors(held, precision) + 2 * text


def one_machine(held: Collection, precision: str, *, paged: bool = False) -> float:
    """Bytes of memory that a machine needs which runs all of Vespa.

    Paged vectors count for nothing here, and need what is left as page cache all the same.
    """
    content = graph(held) + attributes(held) + (0 if paged else vectors(held, precision))
    return PROCESSES_GB * 1e9 + content / ROOM


def content_node(held: Collection, precision: str, nodes: int) -> float:
    """Bytes of memory of each of the `nodes` content nodes of a group, which holds everything."""
    content = graph(held) + attributes(held) + vectors(held, precision)
    return NODE_PROCESSES_GB * 1e9 + content / nodes / ROOM


def table(held: Collection) -> str:
    """Memory by precision, in GB of 10^9 bytes."""
    head = f"{held.documents:,} documents of {held.dimension} dimensions"
    lines = [f"{head:<42}{'float':>9}{'bfloat16':>10}{'paged':>8}   GB, computed"]

    def line(name: str, *values: float) -> None:
        numbers = "".join(
            f"{value / 1e9:>{width}.2f}" for value, width in zip(values, (9, 10, 8), strict=True)
        )
        lines.append(f"{name:<42}{numbers}")

    precisions = ("float", "bfloat16")
    line("embeddings", *(vectors(held, one) for one in precisions), 0)
    line("links of the HNSW graph, at most", *[graph(held)] * 3)
    line("ids, paths, tags, numbers, words, the list", *[attributes(held)] * 3)
    line(
        "one machine: 4 + the sum / 0.65",
        *(one_machine(held, one) for one in precisions),
        one_machine(held, "float", paged=True),
    )
    line("disk", *(disk(held, one) for one in ("float", "bfloat16", "float")))
    return "\n".join(lines)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=Collection.documents)
    parser.add_argument("--dimension", type=int, default=Collection.dimension)
    parser.add_argument("--groups", type=int, default=2, help="copies of every document")
    parser.add_argument("--nodes", type=int, default=2, help="content nodes in a group")
    options = parser.parse_args()
    held = Collection(documents=options.documents, dimension=options.dimension)
    print(table(held))
    needs = " · ".join(
        f"{precision} {content_node(held, precision, options.nodes) / 1e9:.1f} GB"
        for precision in BYTES
    )
    count = options.groups * options.nodes
    print(f"each of {count} content nodes in {options.groups} groups: {needs}")


if __name__ == "__main__":
    main()
