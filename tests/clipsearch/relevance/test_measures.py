"""The figures against trec_eval's, by ir_measures, on random runs; intervals and comparisons."""

import ir_measures
import numpy as np
import pytest
from ir_measures import RR, Success, nDCG

from clipsearch.relevance.groups import Traits, measure_groups
from clipsearch.relevance.judged_queries import JudgedQuery
from clipsearch.relevance.measures import (
    FIGURES,
    best_single,
    graded_figures,
    ideal_grades,
    measure_modes,
)
from clipsearch.relevance.runs import DEPTH
from finetune.evaluation.intervals import Sampling

SAMPLING = Sampling(resamples=200)
THEIRS = {
    "mrr@10": RR @ 10,
    "ndcg@10": nDCG @ 10,
    "recall@1": Success @ 1,
    "recall@10": Success @ 10,
    f"recall@{DEPTH}": Success @ DEPTH,
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("highest", [1, 4], ids=["binary", "graded"])
def test_figures_are_those_of_trec_eval(seed: int, highest: int) -> None:
    source = np.random.default_rng((seed, highest))
    queries, pool = 40, 150
    judged, grades, run = [], np.zeros((queries, DEPTH), np.int64), []
    for number in range(queries):
        chosen = source.permutation(pool)[: int(source.integers(1, 30))]
        of_query = {f"d{one}": int(source.integers(-1, highest + 1)) for one in chosen}
        of_query[f"d{chosen[0]}"] = highest  # something is right
        judged.append(of_query)
        # Short answers too, and some that put what is right first.
        order = source.permutation(pool)[: int(source.integers(0, DEPTH + 1))]
        if number % 3 == 0:
            order = sorted(order, key=lambda one: -of_query.get(f"d{one}", 0))
        for rank, one in enumerate(order):
            grades[number, rank] = of_query.get(f"d{one}", 0)
            run.append(ir_measures.ScoredDoc(f"q{number}", f"d{one}", 1000.0 - rank))
        run.append(ir_measures.ScoredDoc(f"q{number}", "nothing", -1.0))
    qrels = [
        ir_measures.Qrel(f"q{number}", id_, grade)
        for number, of_query in enumerate(judged)
        for id_, grade in of_query.items()
    ]
    ours = graded_figures(grades, ideal_grades(judged))
    assert tuple(ours) == FIGURES == tuple(THEIRS)
    for metric in ir_measures.iter_calc(list(THEIRS.values()), qrels, run):
        name = next(name for name, one in THEIRS.items() if one == metric.measure)
        number = int(metric.query_id[1:])
        assert ours[name][number] == pytest.approx(metric.value, abs=1e-9), (name, number)


def made_up(queries: int = 60) -> dict[str, dict[str, np.ndarray]]:
    source = np.random.default_rng(1)
    words = {name: source.random(queries) for name in FIGURES}
    better = {name: np.clip(values + 0.2, 0, 1) for name, values in words.items()}
    worse = {name: values * 0.5 for name, values in words.items()}
    return {"bm25": words, "vector": worse, "hybrid": better}


def test_modes_are_compared_with_the_better_single_one() -> None:
    per_query = made_up()
    assert best_single(per_query) == "bm25"
    words, vector, hybrid = measure_modes(per_query, np.arange(60), SAMPLING, against="bm25")
    assert words.figure("mrr@10").difference is None
    for name in FIGURES:
        figure = hybrid.figure(name)
        expected = per_query["hybrid"][name].mean() - per_query["bm25"][name].mean()
        assert figure.estimate.value == pytest.approx(per_query["hybrid"][name].mean())
        assert figure.estimate.low < figure.estimate.value < figure.estimate.high
        assert figure.difference.value == pytest.approx(expected)
        assert figure.difference.low > 0
        assert figure.p_value == pytest.approx(1 / 201)
        assert vector.figure(name).difference.high < 0


def test_captions_of_one_image_are_drawn_together() -> None:
    """Ten copies of each query tell no more than one: the interval is as wide."""
    once = made_up(20)
    copied = {
        mode: {name: np.repeat(values, 10) for name, values in figures.items()}
        for mode, figures in once.items()
    }
    alone = measure_modes(once, np.arange(20), SAMPLING, against="bm25")[2].figure("mrr@10")
    many = measure_modes(copied, np.repeat(np.arange(20), 10), SAMPLING, against="bm25")[2].figure(
        "mrr@10"
    )
    assert many.estimate.low == pytest.approx(alone.estimate.low)
    assert many.p_value == alone.p_value


def test_groups_hold_each_query_once() -> None:
    texts = ["dog", "dog in the snow", "a zebra", "one two three four five six seven"] * 15
    queries = [
        JudgedQuery(text, text, {"d": 1}, number, {}, other_captions=number % 2 == 0)
        for number, text in enumerate(texts)
    ]
    traits = Traits.of(queries, "en", lambda _, word: word != "zebra")
    groups = measure_groups(traits, made_up(), np.arange(60), SAMPLING, "bm25")
    counts = {(group.by, group.name): group.queries for group in groups}
    assert counts == {
        ("words", "0-2"): 30, ("words", "3-5"): 15, ("words", "6-10"): 15,
        ("all words known", "yes"): 45, ("all words known", "no"): 15,
        ("other captions", "yes"): 30, ("other captions", "no"): 30,
    }  # fmt: skip
    zebra = next(group for group in groups if group.name == "no")
    expected = made_up()["hybrid"]["mrr@10"][2::4].mean()
    assert zebra.modes[2].figure("mrr@10").estimate.value == pytest.approx(expected)
