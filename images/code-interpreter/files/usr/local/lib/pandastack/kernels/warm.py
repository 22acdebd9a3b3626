"""Run before the snapshot is taken: the cells that people begin with, through a kernel as they go through it later."""

import os
import sys
import time

from jupyter_client import BlockingKernelClient

CELLS = (
    "1 + 1",
    "print('warm')",
    "import pandas as pd\npd.DataFrame({'name': ['a', 'b'], 'value': [1.5, 2.5]})",
    "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\nplt.title('warm')\nplt.show()",
    "pd.DataFrame({'name': ['a', 'b'], 'value': [1.5, 2.5]}).plot.bar(x='name')\nplt.show()",
    "import sys\nprint('warm', file=sys.stderr)",
    "1 / 0",
    "plt.boxplot([[1, 2, 3, 9], [2, 3, 4]])\nplt.show()",
    "from IPython.display import display\ndisplay(1, display_id='warm').update(2)",
    "import numpy as np, random\nrandom.random(), np.random.rand(2)",
)
ROUNDS = 2
PLACE = "/run/pandastack/kernels/spare-python/connection.json"
SECONDS = 120.0
FORGET = "get_ipython().run_line_magic('reset', '-f')"
COUNT = "get_ipython().execution_count = 1"


def until_there(path: str) -> None:
    """It is called so once its kernel takes connections."""
    deadline = time.monotonic() + SECONDS
    while not os.path.exists(path):
        if time.monotonic() > deadline:
            raise TimeoutError("no kernel was started ahead")
        time.sleep(0.1)


def main(connection_file: str) -> None:
    """Run each cell some times, and leave nothing of them behind."""
    until_there(connection_file)
    client = BlockingKernelClient(connection_file=connection_file)
    client.load_connection_file()
    client.start_channels()
    client.wait_for_ready(timeout=SECONDS)
    for cell in CELLS * ROUNDS:
        client.execute_interactive(
            cell, store_history=False, allow_stdin=False, stop_on_error=False, timeout=SECONDS,
            output_hook=lambda message: None,
        )  # fmt: skip
    for cell in (FORGET, COUNT):
        client.execute(cell, silent=True, reply=True, timeout=SECONDS)
    client.stop_channels()


main(*sys.argv[1:] or [PLACE])
