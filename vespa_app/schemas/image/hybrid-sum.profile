rank-profile hybrid-sum inherits vector {
    # The plain sum that the literature starts from. bm25 easily reaches 20 while closeness stays
    # between 1/3 and 1, so words decide and the picture breaks ties: hybrid, below, weighs them.

    first-phase {
        expression: lexical + closeness(field, embedding)
    }

    match-features: lexical cosine closeness(field, embedding)
}
