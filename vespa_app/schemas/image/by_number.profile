rank-profile by_number inherits bm25 {
    # Sorts by a number of the documents, of those with a word of the query or of all: the score is
    # the number. query(by) names its column, with 1 for the greatest first and -1 for the least:
    #     "input.query(by)": {"year": 1.0}
    # Whoever lacks the column scores 0: ask for it beside the words (see sortable in image.sd).

    inputs {
        query(by) tensor<double>(column{})
    }

    first-phase {
        expression: sum(attribute(sortable) * query(by))
    }
}
