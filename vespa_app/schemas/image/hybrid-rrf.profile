rank-profile hybrid-rrf inherits hybrid {
    # Reciprocal rank fusion: 1 / ({{rrf_k}} + rank) by words plus 1 / ({{rrf_k}} + rank) by picture, ranks from
    # 1. Needs no weights, and does not see how much better the first is than the second. Works on
    # the hits that hybrid ranked first, in the container: rerank-count bounds how many, and hits
    # after these keep the order of hybrid.

    global-phase {
        expression: reciprocal_rank(lexical, {{rrf_k}}) + reciprocal_rank(cosine, {{rrf_k}})
        rerank-count: 1000
    }
}
