rank-profile hybrid-normalized inherits hybrid {
    # Both parts brought to 0..1 over the hits that hybrid ranked first, then weighed: (value -
    # lowest) / (highest - lowest), and 0.5 where all are equal. Scores of two queries can not be
    # compared.

    global-phase {
        expression: query(bm25_weight) * normalize_linear(lexical) + query(vector_weight) * normalize_linear(cosine)
        rerank-count: 1000
    }
}
