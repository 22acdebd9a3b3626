"""Run before the snapshot is taken: what a first chart reads from the disk is then in every sandbox's memory."""

import io

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd


def main() -> None:
    frame = pd.DataFrame({"x": np.arange(20), "y": np.arange(20) ** 2, "kind": list("ab") * 10})
    frame.groupby("kind").mean()
    pd.read_csv(io.StringIO(frame.to_csv(index=False))).describe()
    figure, axes = plt.subplots()
    frame.plot(x="x", y="y", ax=axes, title="warm")
    axes.bar(frame["x"], frame["y"], label="bars")
    axes.legend()
    figure.savefig(io.BytesIO(), format="png", dpi=120, bbox_inches="tight")


main()
