rank-profile vector inherits bm25 {
    # The picture alone, by the angle between query and embedding.

    inputs {
        # Vespa takes a vector that is too short in silence and ranks by it: check it in the client.
        query(q) tensor<float>(x[{{dimension}}])
    }

    # Where a filter lets few documents pass, Vespa would walk its graph through these alone, and was
    # seen to stop in a corner with 0 of 63 found. 0.0 turns that off; profiles above inherit it.
    filter-first-threshold: 0.0

    # The cosine, -1 to 1, from the vectors themselves. Unlike distance(field, embedding) it does not
    # need a nearestNeighbor on the field in the query, so it is right whatever found the document.
    function cosine() {
        expression: sum(query(q) * attribute(embedding))
    }

    # closeness is 1 / (2 - cosine). Trap: it is 0 for every document where no nearestNeighbor in the
    # query names this field.
    first-phase {
        expression: closeness(field, embedding)
    }

    match-features: cosine closeness(field, embedding)
}
