# Programs that must do the same with `python3`, however it is found, and with Python itself: $PYTHON stands for either.
# Each paragraph is run on its own, in a folder with the files of warm_programs.py; its first line says what it is about.

# a file
$PYTHON state.py a "b c" ""

# a file elsewhere
cd /
$PYTHON /workspace/state.py

# a path with dots
$PYTHON ../workspace/./state.py

# a link
ln -sf /workspace/state.py /tmp/link.py
$PYTHON /tmp/link.py

# a command
$PYTHON -c "$(cat state.py)" x -y

# unbuffered
$PYTHON -u state.py -u

# unbuffered by its variable
PYTHONUNBUFFERED=1 $PYTHON state.py

# a script on the standard input
$PYTHON < state.py

# a script on the standard input, with arguments
cat state.py | $PYTHON - a b

# python
python=${PYTHON%3}
$python -c "import sys; print(sys.executable, sys.argv)"

# an error
$PYTHON error.py
echo $?

# an error among what is printed
$PYTHON error.py 2>&1

# an error in a command
$PYTHON -c "$(cat error.py)" 2>&1
echo $?

# an error in a script on the standard input
$PYTHON < error.py 2>&1
echo $?

# exit codes
for code in "" 0 3 -1 256 None True '"words"' "(1, 2)" "1 << 40"; do
    $PYTHON -c "import sys; sys.exit($code)"
    echo $?
done

# SystemExit in a file
echo "raise SystemExit(7)" > /tmp/exit.py
$PYTHON /tmp/exit.py
echo $?

# os._exit
$PYTHON -c "import os; print(1); os._exit(9)"
echo $?

# wrong syntax
echo "def f(:" > /tmp/syntax.py
$PYTHON /tmp/syntax.py
echo $?
$PYTHON -c "a b"
echo $?

# no such file
$PYTHON nothing.py
echo $?
$PYTHON /tmp
echo $?

# encodings
printf '# -*- coding: latin-1 -*-\nprint("\xe9")' > /tmp/latin.py
$PYTHON /tmp/latin.py
printf '#\xff' > /tmp/byte.py
$PYTHON /tmp/byte.py
$PYTHON -c "$(cat /tmp/byte.py)"
X=$(printf 'a\xff') $PYTHON -c 'import os, sys; print(ascii([os.environ["X"], sys.argv]))' "$(cat /tmp/byte.py)"

# exit functions
$PYTHON -c "import atexit; atexit.register(print, 1); atexit.register(lambda: 1 / 0)"
echo $?

# what is held by caches
$PYTHON kept.py
wc -c < /tmp/kept

# what was left open
rm -rf /tmp/open
$PYTHON open.py
ls /tmp/open
cat /tmp/open/[c-r]* | md5sum

# threads
$PYTHON threads.py

# closed streams
$PYTHON -c "import sys; sys.stdout.close()"
echo $?
$PYTHON -c "import os; os.close(1); print(5)"
echo $?
$PYTHON -c 'print(5)' > /dev/full
echo $?
$PYTHON -c 'print(5)' | true
echo ${PIPESTATUS[0]}

# much output
$PYTHON -c "import sys; sys.stdout.write('x' * 5000000); sys.stderr.write('y' * 3000000)" 2> /tmp/err | md5sum
md5sum < /tmp/err

# input
seq 1000 | $PYTHON -c "import sys; print(sum(map(int, sys.stdin)))"
printf "import sys\nprint(sys.stdin.read())\nrest\n" | $PYTHON

# signals to itself
for number in 2 9 11 15; do
    $PYTHON -c "import os; os.kill(os.getpid(), $number)" 2>&1
    echo $?
done

# an interrupt
$PYTHON interrupted.py 2>&1
echo $?
echo 'raise KeyboardInterrupt' | $PYTHON 2>&1
echo $?

# processes
$PYTHON -c "
import os, subprocess
print(os.system('exit 3'), os.fork() == 0 or os.wait()[1])
print(subprocess.run(['grep', 'Sig', '/proc/self/status'], capture_output=True).stdout)
"

# exec
$PYTHON -c "import os; os.execv('/bin/echo', ['echo', 'hi'])"
echo $?

# multiprocessing
$PYTHON spawn.py
$PYTHON -c "import multiprocessing as m; print(m.Pool(2).map(abs, [-1, -2]))"

# asyncio
$PYTHON -c "import asyncio; print(asyncio.run(asyncio.sleep(0, 5)))"

# the mask
umask 077
$PYTHON -c "import os; print(oct(os.umask(0)))"

# a folder that is gone
mkdir /tmp/gone
cd /tmp/gone
rmdir /tmp/gone
$PYTHON -c 'import os; os.getcwd()' 2>&1

# chance with a seed
$PYTHON -c "
import random, numpy
random.seed(5)
numpy.random.seed(5)
print(random.random(), numpy.random.rand(2))
"

# warnings
$PYTHON -c "import numpy, warnings; numpy.mean([]); numpy.log(0); warnings.warn(1)"

# modules that are looked for and loaded anew
$PYTHON -c "
import importlib.util, json, sys
print(importlib.util.find_spec('pandas').origin, importlib.util.find_spec('nothing'))
importlib.reload(json)
old = sys.modules.pop('json')
import json
print(json is old)
"

# attributes of packages
$PYTHON -c "import matplotlib; matplotlib.pyplot"
$PYTHON -c "import numpy; numpy.testing"

# a backend that is there
$PYTHON backend.py svg

# a backend without its display
$PYTHON backend.py TkAgg

# no backend
$PYTHON backend.py nonsense
