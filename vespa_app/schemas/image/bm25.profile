rank-profile bm25 {
    # The captions alone: Vespa's bm25 with k1 1.2 and b 0.75. A word that the query has twice
    # counts twice. Statistics are those of the content node's pictures, also of pictures without a
    # caption, and drift a little with updates and deletes: only a fresh feed is exact.

    function lexical() {
        expression: bm25(captions)
    }

    first-phase {
        expression: lexical
    }

    match-features: lexical
}
