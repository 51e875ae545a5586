"""The figures: score distributions, accuracy against cost, student features, example maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from D24FADLib.benchmark.draws import Trial
from D24FADLib.benchmark.features import load_image
from D24FADLib.benchmark.images import ImageResults, read_masks
from D24FADLib.benchmark.judgement import GRID
from D24FADLib.benchmark.methods import D24FAD, SHIPPED, UNIFORM
from D24FADLib.benchmark.summary import fixed, settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NORMAL, ABNORMAL = "#2a7f9e", "#d1603d"
_EXAMPLES = 4
_POINTS = 60  # images of a task and class in the embedding


def write_all(
    results: ImageResults, trials: Sequence[Trial], shots: int, folder: Path, seed: int
) -> list[Path]:
    """Whatever the results allow, as PNG."""
    drawn = {
        "score_distributions": score_distributions(results, shots),
        "accuracy_and_cost": accuracy_and_cost(results, shots),
        "student_features": student_features(results, seed),
        "example_maps": example_maps(results, trials, shots),
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, figure in drawn.items():
        if figure is not None:
            path = folder / f"{name}.png"
            figure.savefig(path, dpi=130)
            written.append(path)
    return written


def _figure(columns: int, rows: int, size: tuple[float, float]) -> tuple[Figure, NDArray[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def score_distributions(results: ImageResults, shots: int) -> Figure | None:
    """A raincloud a task and method: half a violin, a box and every image."""
    methods = [m for m in (D24FAD, UNIFORM, SHIPPED) if any(m == name for _, name in results.scores)]
    tasks = list(results.labels)
    if not methods:
        return None
    figure, axes = _figure(len(tasks), len(methods), (2.5 * len(tasks) + 0.6, 2.3 * len(methods) + 0.6))
    titles = {D24FAD: "paper, with L2W", UNIFORM: "paper, without L2W", SHIPPED: "shipped"}
    for row, method in enumerate(methods):
        for column, task in enumerate(tasks):
            axis = axes[row, column]
            scores, labels = results.scores[task, method], results.labels[task]
            for place, (value, color) in enumerate(((0, NORMAL), (1, ABNORMAL))):
                _raincloud(axis, scores[labels == value], place, color)
            axis.set_yticks([0, 1], ["normal", "abnormal"] if column == 0 else ["", ""])
            axis.set_ylim(-0.45, 1.75)
            axis.tick_params(labelsize=7)
            axis.spines[["top", "right"]].set_visible(False)
            if row == 0:
                axis.set_title(task.replace("_", " "), fontsize=9)
            if column == 0:
                axis.set_ylabel(titles[method], fontsize=9)
    figure.suptitle(f"Image scores of one draw of {shots} supports", fontsize=10)
    return figure


def _raincloud(axis: Axes, values: NDArray[np.floating], place: int, color: str) -> None:
    from scipy.stats import gaussian_kde

    if np.ptp(values) > 0 and len(values) > 2:
        margin = 0.12 * float(np.ptp(values))
        grid = np.linspace(values.min() - margin, values.max() + margin, 120)
        density = gaussian_kde(values)(grid)
        axis.fill_between(
            grid, place + 0.12, place + 0.12 + 0.5 * density / density.max(), color=color, alpha=0.6, lw=0
        )
    axis.boxplot(
        values, positions=[place], orientation="horizontal", widths=0.13, showfliers=False, patch_artist=True,
        boxprops={"facecolor": "white", "edgecolor": color}, medianprops={"color": color, "lw": 2},
        whiskerprops={"color": color}, capprops={"color": color}, manage_ticks=False,
    )  # fmt: skip
    jitter = np.random.default_rng(0).uniform(-0.3, -0.13, len(values))
    axis.scatter(values, place + jitter, s=4, color=color, alpha=0.6, lw=0)


def accuracy_and_cost(results: ImageResults, shots: int) -> Figure | None:
    """Mean image AUROC against milliseconds a query and megabytes kept, one point a method."""
    if not results.costs:
        return None
    from matplotlib.colors import TABLEAU_COLORS
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    best: dict[str, float] = {}
    for setting in settings(results, shots):
        if setting.method == SHIPPED and setting.score != "own":
            continue
        best[setting.method] = max(setting.mean, best.get(setting.method, 0.0))
    headline = {s.method for s in fixed(settings(results, shots)).values()}
    palette = list(TABLEAU_COLORS.values())
    colors = {m: palette[i % len(palette)] for i, m in enumerate(sorted(headline))}
    figure, axes = _figure(2, 1, (11, 4.2))
    for axis, label, unit in (
        (axes[0, 0], "milliseconds a query (encoding and judging)", "time"),
        (axes[0, 1], "MB kept (trained weights, features of the supports)", "memory"),
    ):
        for method, auroc in best.items():
            mine = [r for r in results.costs if r["method"] == method]
            cost = {
                "time": 1000 * float(np.median([r["encode_seconds"] + r["judge_seconds"] for r in mine])),
                "memory": float(np.median([r["megabytes"] for r in mine])),
            }[unit]
            ours = method == SHIPPED
            strong = ours or method in headline
            if strong:
                style = {"s": 110, "marker": "*"} if ours else {"s": 34, "marker": "o"}
                axis.scatter(cost, auroc, color=colors[method], label=method, zorder=3, **style)
            else:
                axis.scatter(cost, auroc, s=20, color="#999999", alpha=0.5, lw=0)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel(label, fontsize=8)
        axis.set_ylabel(f"mean image AUROC, {shots} shots", fontsize=8)
        axis.grid(alpha=0.25)
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 1].scatter(
        [], [], s=20, color="#999999", alpha=0.5, lw=0, label="other settings of the baselines"
    )
    figure.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside right upper", fontsize=7)
    return figure


def student_features(results: ImageResults, seed: int) -> Figure | None:
    """t-SNE of the queries' stride-16 student features, pooled over positions.

    Each task's student has not seen its organ; features of different students share no axes, so each
    task has its own map.
    """
    from sklearn.manifold import TSNE

    tasks = list(results.embeddings)
    if not tasks:
        return None
    figure, axes = _figure(len(tasks), 1, (2.4 * len(tasks) + 0.4, 2.7))
    for axis, task in zip(axes[0], tasks, strict=True):
        labels = results.labels[task]
        kept = np.concatenate([np.flatnonzero(labels == v)[:_POINTS] for v in (0, 1)])
        points = results.embeddings[task][kept]
        points = (points - points.mean(0)) / (points.std(0) + 1e-6)
        perplexity = min(20.0, max(2.0, (len(kept) - 1) / 3))
        flat = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(points)
        for value, color, name in ((0, NORMAL, "normal"), (1, ABNORMAL, "abnormal")):
            chosen = flat[labels[kept] == value]
            axis.scatter(chosen[:, 0], chosen[:, 1], s=9, color=color, alpha=0.75, lw=0, label=name)
        axis.set_title(task.replace("_", " "), fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    axes[0, 0].legend(fontsize=7, loc="best", framealpha=0.6)
    figure.suptitle("Student features of the queries (paper's recipe, organ left out), t-SNE", fontsize=10)
    return figure


def example_maps(results: ImageResults, trials: Sequence[Trial], shots: int) -> Figure | None:
    """Pictures with the mask's outline, and the headline methods' maps, one colour scale a method."""
    trial = next((t for t in trials if t.task.masks), None)
    if trial is None:
        return None
    from scipy.ndimage import zoom

    task = trial.task.name
    ranked = sorted(fixed(settings(results, shots)).values(), key=lambda s: (s.method != SHIPPED, -s.mean))
    methods = [s.method for s in ranked if (task, s.method) in results.maps][:4]
    masks = read_masks(trial)
    with_mask = np.flatnonzero(masks.any((1, 2)))
    picked = with_mask[np.linspace(0, len(with_mask) - 1, min(_EXAMPLES, len(with_mask))).astype(int)]
    picked = np.append(0, picked)  # and a normal one
    figure, axes = _figure(
        len(methods) + 1, len(picked), (1.9 * (len(methods) + 1), 1.95 * len(picked) + 0.3)
    )
    for row, index in enumerate(picked):
        picture = load_image(trial.queries[index], 4 * GRID)[0].numpy()
        outline = zoom(masks[index].astype(float), 4, order=1) if masks[index].any() else None
        for column in range(len(methods) + 1):
            axis = axes[row, column]
            axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
            if column:
                maps = results.maps[task, methods[column - 1]]
                low, high = np.quantile(maps, [0.02, 0.995])
                axis.imshow(
                    maps[index], cmap="inferno", vmin=low, vmax=high, alpha=0.75, interpolation="bilinear",
                    extent=(-0.5, 4 * GRID - 0.5, 4 * GRID - 0.5, -0.5),
                )  # fmt: skip
            if outline is not None:
                axis.contour(outline, [0.5], colors="#4ee44e", linewidths=1.0)
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 0:
                axis.set_title((["query and mask", *methods])[column], fontsize=7)
        axes[row, 0].set_ylabel("abnormal" if trial.labels[index] else "normal", fontsize=8)
    figure.suptitle(f"{task.replace('_', ' ')}, {shots} supports", fontsize=10)
    return figure
