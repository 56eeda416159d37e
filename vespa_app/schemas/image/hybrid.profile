rank-profile hybrid inherits hybrid-sum {
    # Words and picture, weighed. The weights are inputs of this profile, filled in at deploy (its
    # option --weights, or what the index knows), and any request may send its own as
    # input.query(bm25_weight). Do not move them to a query profile: what is set there, a request
    # can not change, and is not told so.

    inputs {
        query(bm25_weight): {{bm25_weight}}
        query(vector_weight): {{vector_weight}}
    }

    first-phase {
        expression: query(bm25_weight) * lexical + query(vector_weight) * cosine
    }
}
