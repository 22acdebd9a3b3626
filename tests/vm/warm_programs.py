"""Programs for test_warm_python."""

from __future__ import annotations

MODULES = (
    "numpy, pandas, matplotlib.pyplot, seaborn, scipy.stats, sklearn.ensemble, sympy, networkx, PIL.Image, "
    "openpyxl, docx, requests, httpx, bs4, yaml, sqlalchemy"
)

IMPORTS = (
    "logging",
    "multiprocessing",
    "asyncio",
    "xml.etree.ElementTree",
    "pandas",
    "matplotlib",
    "matplotlib.pyplot",
    "scipy",
    "requests",
)

FILES = {
    "cell.py": """
import pandas as pd
import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt
df = pd.DataFrame({"city": ["NYC", "SF", "LA"], "pop_m": [8.3, 0.87, 3.9]})
df.sort_values("pop_m").plot.bar(x="city", y="pop_m", legend=False)
plt.savefig("/workspace/chart.png", dpi=120, bbox_inches="tight")
print("rows:", len(df))
""",
    "state.py": """
import sys, os, threading, signal, gc, locale
main = sys.modules["__main__"]
print(sys.argv, sys.orig_argv[1:], sys.path, sys.executable, sys._base_executable, sys.prefix)
print(sorted(vars(main)), main.__spec__, main.__package__, type(main.__loader__), main.__builtins__)
print(getattr(main, "__file__", None), getattr(main, "__cached__", "none"))
print(sys.flags, sys.warnoptions, sys._xoptions, sys.dont_write_bytecode, sys.getrecursionlimit())
for each in (sys.stdin, sys.stdout, sys.stderr):
    print(each.name, each.mode, each.encoding, each.errors)
    print(each.line_buffering, each.write_through, each.buffer)
print(sys.stdin is sys.__stdin__, sys.stdout is sys.__stdout__, sys.stderr is sys.__stderr__)
print(sorted(sys.modules), len(sys.meta_path) - (type(sys.meta_path[0]).__name__ == "Hidden"))
print(gc.get_threshold(), gc.isenabled(), sys.getswitchinterval(), sys.gettrace(), sys.excepthook)
print([(s, signal.getsignal(s)) for s in signal.valid_signals() if signal.getsignal(s)])
print(signal.pthread_sigmask(0, []))
print(threading.active_count(), threading.main_thread() is threading.current_thread())
print(threading.main_thread().native_id == threading.get_native_id() == os.getpid())
print(os.getcwd(), oct(os.umask(0o22)), sorted(item for item in os.environ.items() if item[0] != "_"))
print(locale.getlocale(), locale.setlocale(locale.LC_ALL), os.listdir("/proc/self/fd"))
try:
    print(sys._getframe(1))
except ValueError as error:
    print(error)
import traceback, warnings, inspect
traceback.print_stack(file=sys.stdout)
print(len(inspect.stack()), warnings.filters)
print(open("/proc/self/comm").read(), open("/proc/self/cmdline").read().split("\\0")[1:])
""",
    "modules.py": """
import os, sys, warnings, importlib
importlib.import_module(sys.argv[1])
own = type(sys.meta_path[0])
print(*sorted(sys.modules), *map(str, warnings.filters), *sorted(os.environ), sep="\\n")
print([type(finder).__name__ for finder in sys.meta_path if type(finder).__name__ != "Hidden"])
for name, module in sorted(sys.modules.items()):
    if isinstance(module, type(sys)):
        inner = [key for key in vars(module) if vars(module)[key] is sys.modules.get(f"{name}.{key}", sys)]
        print(name, sorted(inner), type(getattr(module.__spec__, "loader", None)).__name__ == "_Loader")
""",
    "error.py": """
import sys
print("before")
def inner(x):
    return 1 / x
def outer():
    try:
        inner(0)
    except ZeroDivisionError as error:
        raise ValueError("\\u00fcber") from error
outer()
""",
    "kept.py": """
import functools
from typing import List, Optional
from dataclasses import dataclass
file = open("/tmp/kept", "w")
file.write("x" * 5000)
class Noisy:
    def __init__(self, name): self.name = name
    def __del__(self): print("del", self.name)
noisy = Noisy("global")
@dataclass
class Node:
    values: List[int]
    next: Optional["Node"] = None
    def method(self): return file, noisy
@functools.lru_cache
def cached(x): return Noisy("cached")
cached(1)
def generate():
    try:
        yield 1
    finally:
        print("finally")
started = generate()
next(started)
""",
    "open.py": """
import gzip, csv, sqlite3, shelve, tempfile, logging, os
os.makedirs("/tmp/open")
compressed = gzip.open("/tmp/open/gz", "wb", mtime=0); compressed.write(b"a" * 1000)
csv.writer(open("/tmp/open/csv", "w")).writerow([1, 2, 3])
rows = csv.writer(open("/tmp/open/rows", "w")); rows.writerow([4])
raw = open("/tmp/open/raw", "wb"); raw.write(b"1234")
folder = tempfile.TemporaryDirectory(dir="/tmp/open")
shelf = shelve.open("/tmp/open/shelf"); shelf["a"] = 1
logging.basicConfig(filename="/tmp/open/log", level=10); logging.info("said")
def keep(): return compressed, rows, raw, folder, shelf
""",
    "backend.py": """
import sys, matplotlib
try:
    matplotlib.use(sys.argv[1])
    print("used", matplotlib.get_backend(), matplotlib.rcParams["backend"])
except Exception as error:
    print(type(error), error)
import matplotlib.pyplot as plt
for name in ("", "agg", "svg"):
    try:
        if name:
            plt.switch_backend(name)
        plt.plot([1, 2]); plt.savefig("/tmp/figure"); print(plt.get_backend(), plt.get_fignums())
    except Exception as error:
        print(type(error), error)
""",
    "interrupted.py": """
import os, signal, time
try:
    os.kill(os.getpid(), signal.SIGINT); time.sleep(1)
finally:
    print("cleaned up")
""",
    "sleepers.py": """
import os, subprocess, time
subprocess.Popen(["sleep", "7677"])
os.fork() or time.sleep(7777)
os.execvp("sleep", ["sleep", "7777"]) if os.fork() == 0 else None
print("up", flush=True)
time.sleep(7777)
""",
    "patient.py": """
import os, signal, sys, time
def stop(number, frame):
    print("stopped by", number, flush=True)
    sys.exit(7)
signal.signal(signal.SIGTERM, stop)
os.write(1, b"up\\n")  # a signal in the middle of a print would find that unfinished
while True:  # one that comes just before a sleep is seen after it, as in every Python
    time.sleep(0.2)
""",
    "endless.py": """
import time
print("up", flush=True)
time.sleep(60)
""",
    "threads.py": """
import threading, time
threading.Thread(target=time.sleep, args=(99,), daemon=True).start()
threading.Thread(target=lambda: time.sleep(0.3) or print("thread")).start()
print("main")
""",
    "spawn.py": """
import multiprocessing
if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    with multiprocessing.Pool(1) as pool:
        print(pool.map(abs, range(-5, 0)))
""",
}

WARM = (
    "python3 -c CODE",
    "python -c CODE",
    "python3 -u -c CODE",
    "PYTHONUNBUFFERED=1 python3 -c CODE",
    "echo CODE | python3",
    "echo CODE | python3 - a",
    "echo CODE > /tmp/k.py; python3 /tmp/k.py a",
    "/usr/local/bin/python3 -c CODE",
    "env X=1 python3 -c CODE",
    "(umask 0; cd /tmp; python3 -c CODE)",
    "printf '#!/usr/bin/env python3\\n' > /tmp/k; echo CODE >> /tmp/k; chmod +x /tmp/k; /tmp/k",
    "echo 'print(1)' > /tmp/new_module.py; cd /tmp; python3 -c CODE",
)
"""Shell lines that run the program CODE warm."""

COLD = (
    "python3 -I -c CODE",
    "python3 -O -c CODE",
    "python3 -X utf8 -c CODE",
    "python3 -cCODE",
    "PYTHONPATH=/tmp python3 -c CODE",
    "PYTHONHASHSEED=0 python3 -c CODE",
    "LC_ALL=C python3 -c CODE",
    "TZ=Asia/Tokyo python3 -c CODE",
    "HOME=/tmp python3 -c CODE",
    "MPLBACKEND=svg python3 -c CODE",
    "env -u MPLBACKEND python3 -c CODE",
    "OMP_NUM_THREADS=1 python3 -c CODE",
    "LD_BIND_NOW=1 python3 -c CODE",
    "ulimit -n 100; python3 -c CODE",
    "nice -n 5 python3 -c CODE",
    "nohup python3 -c CODE",
    "python3 -c CODE 7< /dev/null",
    "python3 -c CODE <&-",
    "python3 -c CODE & wait",
    "unshare -n python3 -c CODE",
    "setpriv --no-new-privs python3 -c CODE",
    "python3 <(echo CODE)",
    "python3.11 -c CODE",
    "/usr/bin/python3 -c CODE",
    "/usr/bin/python3 -m venv --without-pip /tmp/venv; /tmp/venv/bin/python3 -c CODE",
    "mkdir -p /tmp/yaml; echo > /tmp/yaml/__init__.py; cd /tmp; python3 -c CODE; rm -r /tmp/yaml",
    "echo > /tmp/statistics.py; echo CODE > /tmp/c.py; python3 /tmp/c.py; rm /tmp/statistics.py",
    "touch /tmp/matplotlibrc; cd /tmp; python3 -c CODE; rm /tmp/matplotlibrc",
)
"""Shell lines that run it, or are understood, as Python itself does."""

RANDOM = """
import gc, os, random, secrets, ssl, tempfile, uuid, multiprocessing, numpy, sympy
print(random.random(), random.Random().random())
print(numpy.random.rand())
print(numpy.random.default_rng().random())
print(secrets.token_hex())
print(uuid.uuid4())
print(uuid.uuid1())
print(os.urandom(8))
print(ssl.RAND_bytes(8))
print(tempfile.mktemp())
print(bytes(multiprocessing.current_process().authkey))
gc.unfreeze()
names = [one for one in gc.get_objects() if type(one) is tempfile._RandomNameSequence]
for each in names:
    print(next(each))
for each in [one for one in gc.get_objects() if type(one) is random.Random]:
    print(each.random())
"""
