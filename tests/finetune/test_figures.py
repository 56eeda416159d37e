"""The names of figures, which way is better, and the record that training and evaluate share."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.errors import UsageError
from finetune.evaluation.metrics import summarize
from finetune.evaluation.zero_shot import zero_shot
from finetune.figures import (
    METRICS,
    TASKS,
    Estimate,
    Measurement,
    Metric,
    class_figures_of,
    cutoffs_with,
    flat_by_key,
    metrics_at,
    retrieval_figures,
)

RETRIEVAL, CLASSES = retrieval_figures(), class_figures_of()
FLOATS = st.floats(0, 1e6, allow_nan=False)
SCOPES = st.sampled_from(["global", "in batches of 64"])


@given(st.sampled_from(list(TASKS)), SCOPES, st.dictionaries(st.sampled_from([*RETRIEVAL]), FLOATS))
def test_measurements_come_back_from_json(task, scope, values) -> None:
    found = Measurement.of(task, 500, 200, values, scope)
    stored = json.loads(json.dumps(flat_by_key([found])))
    assert [Measurement.from_flat_dict(each) for each in stored.values()] == [found]
    assert list(stored) == [task if scope == "global" else f"{task} in batches of 64"]


def test_the_form_on_disk() -> None:
    flat = {"direction": "text-to-image", "scope": "in batches of 4", "pool": 4, "queries": 12}
    flat |= {"mrr@10 in batches of 4": 0.5, "mean_rank in batches of 4": 2.0}
    found = Measurement.from_flat_dict(flat)
    assert (found["mrr@10"], found["mean_rank"]) == (0.5, 2.0)
    assert list(found.as_flat_dict().items()) == list(flat.items())
    with pytest.raises(KeyError):
        found["mrr@10 in batches of 4"]


def test_every_metric_is_measured() -> None:
    ranks, ones = np.ones((4, 10), np.int64), np.ones(4, np.int64)
    for task in ("text-to-image", "image-to-text"):
        assert {*RETRIEVAL} <= {figure.name for figure in summarize(task, 9, ranks, ones).figures}
    classes = np.eye(4, dtype=np.float32)
    assert {*CLASSES} <= {figure.name for figure in zero_shot(classes, classes, ones).figures}


def test_which_way_is_better() -> None:
    lower = {name for name, metric in METRICS.items() if metric.score({name: 1.0}) < 0}
    ranks = {f"{way}_{name}" for way in ("t2i", "i2t") for name in ("mean_rank", "median_rank")}
    assert lower == ranks | {"val_loss"}


def test_what_people_write() -> None:
    assert Metric.parse("mrr@10").column == "t2i_mrr@10"
    assert Metric.parse("loss").column == "val_loss"
    assert Metric.parse("i2t_median_rank").column == "i2t_median_rank"
    assert [name for name in METRICS if METRICS[name].is_zero_shot] == [*CLASSES]
    assert Metric.parse("mrr@3").column == "t2i_mrr@3"
    assert Metric.parse("i2t_ndcg@20").column == "i2t_ndcg@20"
    assert (Metric.parse("hits@2").is_zero_shot, Metric.parse("hits@2").cutoff) == (True, 2)
    for wrong in ("mrr@0", "mrr@", "t2i_hits@3", "hits@01", "precision@3", "val_mrr@3"):
        with pytest.raises(UsageError, match=f"{wrong} is not measured; give one of t2i_mrr@1,"):
            Metric.parse(wrong)


def test_further_cutoffs_add_figures_and_take_none_away() -> None:
    assert cutoffs_with((20, 3, 5)) == (1, 3, 5, 10, 20)
    more = metrics_at((1, 3, 5, 10, 20))
    assert {*METRICS} < {*more}
    assert {*more} - {*METRICS} == {
        f"{way}_{name}" for way in ("t2i", "i2t")
        for name in ("mrr@3", "mrr@20", "recall@3", "recall@20", "ndcg@20")
    } | {"hits@20"}  # fmt: skip
    assert all(Metric.parse(name) == metric for name, metric in more.items())
    ranks, ones = np.ones((4, 20), np.int64), np.ones(4, np.int64)
    found = summarize("text-to-image", 9, ranks, ones, (1, 3, 5, 10, 20))
    assert {*retrieval_figures((1, 3, 5, 10, 20))} <= {figure.name for figure in found.figures}


def test_intervals_are_optional() -> None:
    assert Estimate(0.5).as_dict() == {"value": 0.5}
    assert Estimate(0.5, 0.25, 0.75).as_dict() == {"value": 0.5, "low": 0.25, "high": 0.75}


def test_names_are_read_without_numpy() -> None:
    code = "import finetune.figures, sys; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
