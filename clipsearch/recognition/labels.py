"""The labels to choose among: from a file, a list that ships, or a tag of an index."""

import numpy as np

from clipsearch.recognition.classify import check_labels
from clipsearch.search.search import Search
from finetune.errors import UsageError
from finetune.manifest.class_labels import CLASS_LISTS, class_file, class_names
from finetune.text.composed import composed


def read_labels(
    source: str, search: Search | None = None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the labels that `source` names, at least two and all different, and notes.

    Args:
        source: A tag column of the index of `search`: its values, the most frequent first. Or a
            file: a label a line, or a table or folder of classes as
            `finetune.manifest.class_labels.read_class_labels` takes them; or the name of a list
            that ships.
        search: None where no index was named.

    Raises UsageError where it is neither, ManifestError where a file cannot be read or has a label
    twice, and EngineError.
    """
    columns = () if search is None else search.info.tag_columns
    column = next((each for each in columns if composed(each) == composed(source)), None)
    if search is not None and column is not None:
        # What is counted does not depend on the vector.
        some = np.eye(1, search.info.dimension, dtype=np.float32)[0]
        page = search.query(vector=some, k=1, facets=[column])
        labels = tuple(value for value, _ in page.facets[column])
        check_labels(labels, f"{source}, a column of {search.engine.target}")
        return labels, page.notes
    file = class_file(source)
    if file is None:
        raise UsageError(f"--labels {source}: {_nothing_known(source, search, columns)}")
    labels = class_names(file)
    check_labels(labels, str(file))
    return labels, ()


def _nothing_known(source: str, search: Search | None, columns: tuple[str, ...]) -> str:
    shipped = ", ".join(sorted(each.name for each in CLASS_LISTS.glob("*.txt")))
    if search is None:
        return (
            f"no such file, and no list of classes that ships ({shipped}); the values of a column"
            f" need an index: name one with --index TARGET"
        )
    if composed(source) in map(composed, search.info.number_columns):
        return f"{search.engine.target} keeps it as a number, and labels are tags; write a file"
    return (
        f"neither a tag column of {search.engine.target} ({', '.join(columns) or 'it has none'})"
        f" nor a file, nor a list of classes that ships ({shipped})"
    )
