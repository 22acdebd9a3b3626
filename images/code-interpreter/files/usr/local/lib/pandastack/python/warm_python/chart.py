"""Charts as programs draw them: what is loaded late or computed at the first use is there from then on."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import font_manager

ROUNDS = 4
"""Python makes code that it runs again and again quicker; from then on nothing is won."""


def draw_charts() -> None:
    """Draw to memory, and leave no trace of it that a program would see."""
    with _unchanged():
        for _ in range(ROUNDS):
            _draw_frame()
            _draw_axes()
            plt.close("all")


@contextmanager
def _unchanged() -> Iterator[None]:
    settings, backend = dict.copy(matplotlib.rcParams), plt._backend_mod
    yield
    dict.update(matplotlib.rcParams, settings)
    plt._backend_mod = backend
    font_manager._get_font.cache_clear()  # fonts are open files


def _draw_frame() -> None:
    frame = pd.DataFrame({"name": ["a", "b", "c"], "value": [8.3, 0.87, 3.9]})
    pd.read_csv(io.StringIO(frame.to_csv(index=False))).groupby("name").mean().describe()
    frame.sort_values("value").plot.bar(x="name", y="value", legend=False)
    plt.savefig(io.BytesIO(), dpi=120, bbox_inches="tight")


def _draw_axes() -> None:
    figure, axes = plt.subplots(1, 2)
    x = np.linspace(0, 10, 100)
    axes[0].plot(x, np.sin(x), label="sine")
    axes[0].set(title="title", xlabel="x", ylabel="y")
    axes[0].grid(visible=True)
    axes[0].legend()
    axes[1].hist(x, bins=10)
    axes[1].scatter(x, x)
    figure.tight_layout()
    figure.savefig(io.BytesIO(), format="png")
