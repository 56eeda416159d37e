rank-profile by_number_near inherits vector {
    # As by_number, beside a nearestNeighbor, whose query vector a profile must declare.

    inputs {
        query(by) tensor<double>(column{})
    }

    first-phase {
        expression: sum(attribute(sortable) * query(by))
    }

    match-features: lexical cosine closeness(field, embedding)
}
