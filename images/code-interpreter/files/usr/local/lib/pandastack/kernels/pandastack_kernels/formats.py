"""What results tell to programs: the data of a table and of a chart, beside what people see of them."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

from IPython.core.formatters import BaseFormatter
from traitlets import ObjectName, Unicode

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from pandas import DataFrame

ROWS = 1000
BOXES = "_pandastack_boxes"
"""Of axes: the boxes that were drawn there, as matplotlib has computed them."""
POINTS = 5000
"""As many are told of one line, bar or scatter."""


class DataFormatter(BaseFormatter):
    """The data of a table."""

    format_type = Unicode("application/vnd.pandastack.data+json")
    print_method = ObjectName("_repr_pandastack_data_")
    _return_type = (dict,)


class ChartFormatter(BaseFormatter):
    """What a chart shows, as numbers."""

    format_type = Unicode("application/vnd.pandastack.chart+json")
    print_method = ObjectName("_repr_pandastack_chart_")
    _return_type = (dict,)


def install(shell: InteractiveShell) -> None:
    """Have the shell's results tell them."""
    display = shell.display_formatter
    data, chart = DataFormatter(parent=display), ChartFormatter(parent=display)
    data.for_type_by_name("pandas.core.frame", "DataFrame", describe_frame)
    chart.for_type_by_name("matplotlib.figure", "Figure", describe_figure)
    display.formatters[data.format_type] = data
    display.formatters[chart.format_type] = chart
    display.active_types = [*display.active_types, data.format_type, chart.format_type]
    note_boxes()


def note_boxes() -> None:
    """Have axes remember the numbers behind their boxes, of which only lines are left."""
    from matplotlib.axes import Axes  # noqa: PLC0415 - loaded by now, but not when this module is

    draw = Axes.bxp

    @functools.wraps(draw)
    def bxp(self: Axes, bxpstats: Any, *args: Any, **options: Any) -> dict[str, Any]:  # noqa: ANN401 - as it is called
        stats = list(bxpstats)
        drawn = draw(self, stats, *args, **options)
        vars(self).setdefault(BOXES, []).extend(zip(stats, drawn["medians"], strict=False))
        return drawn

    Axes.bxp = bxp


def describe_frame(frame: DataFrame) -> dict[str, Any]:
    """Its first rows, by column, and how many there are."""
    text = frame.head(ROWS).to_json(orient="split", date_format="iso", default_handler=str)
    return {
        **json.loads(text),
        "dtypes": [str(kind) for kind in frame.dtypes],
        "rows": len(frame),
        "truncated": len(frame) > ROWS,
    }


def describe_figure(figure: Figure) -> dict[str, Any] | None:
    """Its chart; of several the list of them. None when it shows none that we know."""
    charts = [found for axes in figure.axes if (found := _describe_axes(axes)) is not None]
    if len(charts) < 2:
        return charts[0] if charts else None
    title = figure._suptitle.get_text() if figure._suptitle else None
    return {"type": "superchart", "title": title, "elements": charts}


def _describe_axes(axes: Axes) -> dict[str, Any] | None:
    for kind, find in (
        ("pie", _wedges), ("box_and_whisker", _boxes), ("bar", _bars), ("scatter", _clouds), ("line", _lines),
    ):  # fmt: skip
        if elements := find(axes):
            return {
                "type": kind,
                "title": axes.get_title() or None,
                "x_label": axes.get_xlabel() or None,
                "y_label": axes.get_ylabel() or None,
                "x_scale": axes.get_xscale(),
                "y_scale": axes.get_yscale(),
                "elements": elements,
            }
    return None


def _lines(axes: Axes) -> list[dict[str, Any]]:
    return [
        {"label": _label(line), "points": _pairs(line.get_xdata(), line.get_ydata())}
        for line in axes.get_lines()
    ]


def _clouds(axes: Axes) -> list[dict[str, Any]]:
    found = [one for one in axes.collections if type(one).__name__ == "PathCollection"]
    return [{"label": _label(cloud), "points": _pairs(*cloud.get_offsets().T)} for cloud in found]


def _bars(axes: Axes) -> list[dict[str, Any]]:
    names = _names(axes.xaxis)
    elements = []
    for container in axes.containers:
        if type(container).__name__ != "BarContainer":
            continue
        for bar in list(container)[:POINTS]:
            lying = container.orientation == "horizontal"
            middle = _plain(
                bar.get_y() + bar.get_height() / 2 if lying else bar.get_x() + bar.get_width() / 2
            )
            value = _plain(bar.get_width() if lying else bar.get_height())
            name = str(middle) if lying else names.get(middle) or str(middle)
            elements.append({"label": name, "group": _label(container), "value": value})
    return elements


def _boxes(axes: Axes) -> list[dict[str, Any]]:
    drawn = {id(line) for line in axes.get_lines()}
    boxes = [(stats, line) for stats, line in vars(axes).get(BOXES, ()) if id(line) in drawn]
    return [_box(axes, stats, line) for stats, line in boxes[:POINTS]]


def _box(axes: Axes, stats: dict[str, Any], median: Line2D) -> dict[str, Any]:
    lying = len(set(median.get_xdata())) == 1
    place = _plain(sum(median.get_ydata() if lying else median.get_xdata()) / 2)
    label = stats.get("label") or _names(axes.yaxis if lying else axes.xaxis).get(place) or str(place)
    return {
        "label": str(label),
        "min": _plain(stats["whislo"]),
        "first_quartile": _plain(stats["q1"]),
        "median": _plain(stats["med"]),
        "third_quartile": _plain(stats["q3"]),
        "max": _plain(stats["whishi"]),
        "outliers": [_plain(value) for value in list(stats.get("fliers", ()))[:POINTS]],
    }


def _names(axis: Axis) -> dict[Any, str]:
    """What is written at the places of an axis."""
    written = [tick.get_text() for tick in axis.get_ticklabels()]
    return dict(zip((_plain(place) for place in axis.get_ticklocs()), written, strict=False))


def _wedges(axes: Axes) -> list[dict[str, Any]]:
    wedges = [patch for patch in axes.patches if type(patch).__name__ == "Wedge"]
    return [
        {"label": _label(wedge), "angle": _plain(wedge.theta2 - wedge.theta1), "radius": _plain(wedge.r)}
        for wedge in wedges
    ]


def _label(artist: Any) -> str | None:  # noqa: ANN401 - matplotlib's own kinds
    label = str(artist.get_label())
    return None if label.startswith("_") else label


def _pairs(x: Any, y: Any) -> list[list[Any]]:  # noqa: ANN401 - arrays of whatever the program had
    return [
        [_plain(one), _plain(other)] for one, other in zip(list(x)[:POINTS], list(y)[:POINTS], strict=False)
    ]


def _plain(value: Any) -> Any:  # noqa: ANN401 - any number, day or word
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return round(value, 12) if value == value and abs(value) != float("inf") else None
    return value if isinstance(value, int | str | None) else str(value)
