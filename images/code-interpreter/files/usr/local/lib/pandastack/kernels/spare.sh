#!/bin/sh
# Runs the Python kernel that is there before anybody asks for one: whoever asks first is given it, by a new name of its
# folder, and has this run again, `$1` seconds later. It and all below is in a session of its own; how it ended is in `exit`.
root=/run/pandastack/kernels next=/run/pandastack/kernels/spare-next place=/run/pandastack/kernels/spare-python
sleep "${1:-0}"
# There is one at most, and one at most is on its way: whoever makes this folder makes it.
mkdir -p "$root" && cd /workspace && mkdir "$next" 2>/dev/null || exit 0
if [ -e "$place" ]; then
  rmdir "$next"
  exit 0
fi
# The first five ports that no kernel has, of those that are kept for these.
port=24000
while grep -qsE "\"shell_port\": ?$port," "$root"/*/connection.json && [ "$port" -lt 24095 ]; do port=$((port + 5)); done
exec 9>"$next/exit"
key=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
cat >"$next/connection.json" <<END
{"ip": "127.0.0.1", "transport": "tcp", "key": "$key", "signature_scheme": "hmac-sha256", "kernel_name": "python3",
 "shell_port": $port, "iopub_port": $((port + 1)), "stdin_port": $((port + 2)), "control_port": $((port + 3)), "hb_port": $((port + 4))}
END
echo "{\"language\": \"python\", \"pid\": $$}" >"$next/session.json"
until test -S /run/pandastack/python.sock; do sleep 0.2; done
# It gives the folder its second name when it takes connections.
python3 /usr/local/lib/pandastack/kernels/python.py "$next/connection.json" "$place" 9>&-
echo $? >&9
# One that nobody has taken leaves nothing behind.
for left in "$next" "$place"; do
  grep -qs "\"pid\": $$}" "$left/session.json" && mv -T "$left" "$root/spare-gone-$$" && rm -r "$root/spare-gone-$$"
done
