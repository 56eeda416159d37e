"""What the figures of an index mean for who asks it, in a few sentences."""

from clipsearch.relevance.evaluation import IndexEvaluation
from clipsearch.relevance.measures import MRR, ModeFigures
from finetune.evaluation.intervals import FEW_CLUSTERS


def conclusion(evaluation: IndexEvaluation) -> str:
    """Say how the ranking that a text gets without a mode stands beside the better single one."""
    by_mode = {each.mode: each for each in evaluation.modes}
    single = by_mode[evaluation.against]
    taken = by_mode.get(evaluation.info.text_mode or "hybrid", single)
    best = max(evaluation.modes, key=_mrr)
    said = [_standing(taken, single, evaluation)]
    if _mrr(best) > max(_mrr(taken), _mrr(single)):
        said.append(
            f"Highest is {best.mode}, {_mrr(best):.3f}; whether that is chance, clipsearch"
            " calibrate tells."
        )
    return " ".join(said)


def telling_groups(evaluation: IndexEvaluation) -> list[str]:
    """Return by what queries are told apart into more than one group."""
    names = [group.by for group in evaluation.groups]
    return [by for by in dict.fromkeys(names) if names.count(by) > 1]


def _standing(taken: ModeFigures, single: ModeFigures, evaluation: IndexEvaluation) -> str:
    pool = f"in a pool of {evaluation.pool:,} images"
    figure = taken.figure(MRR)
    apart = figure.difference
    if apart is None or apart.low is None or apart.high is None:  # it is that single mode
        better = ", the better single mode" if len(evaluation.modes) > 1 else ""
        name = f"{taken.mode}{better}"
        return f"A text without --mode is ranked by {name}: {MRR} {_mrr(taken):.3f} {pool}."
    figures = f"{MRR} {_mrr(taken):.3f} against {_mrr(single):.3f} {pool}"
    between = f"{apart.low:+z.3f} to {apart.high:+z.3f}"
    sure = f"surely ({evaluation.options.sampling.confidence:.0%}: {between})"
    if len({query.cluster for query in evaluation.queries}) < FEW_CLUSTERS:
        sure = f"as far as so few queries tell ({between})"
    name = f"{taken.mode}, by which a text without --mode is ranked,"
    if apart.low > 0:
        return f"{name} finds more than {single.mode}, the better single mode: {figures}, {sure}."
    if apart.high < 0:
        return (
            f"{name} finds less than {single.mode} alone: {figures}, {sure}; clipsearch calibrate"
            f" learns better weights, or take --mode {single.mode}."
        )
    return (
        f"{name} is not surely better or worse than {single.mode}, the better single mode:"
        f" {figures} ({between})."
    )


def _mrr(figures: ModeFigures) -> float:
    return figures.figure(MRR).estimate.value
