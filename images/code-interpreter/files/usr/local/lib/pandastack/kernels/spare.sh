#!/bin/sh
# Runs the Python kernel that is there before anybody asks for one: whoever asks first is given it, by a new name of its
# folder. It and all below is in a session of its own; how it ended is in `exit`.
place=/run/pandastack/kernels/spare-python
mkdir -p "$place" && cd /workspace || exit 1
exec 9>"$place/exit"
key=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
cat >"$place/connection.json" <<END
{"ip": "127.0.0.1", "transport": "tcp", "key": "$key", "signature_scheme": "hmac-sha256", "kernel_name": "python3",
 "shell_port": 24000, "iopub_port": 24001, "stdin_port": 24002, "control_port": 24003, "hb_port": 24004}
END
echo "{\"language\": \"python\", \"pid\": $$}" >"$place/session.json"
until test -S /run/pandastack/python.sock; do sleep 0.2; done
python3 /usr/local/lib/pandastack/kernels/python.py "$place/connection.json" 9>&-
echo $? >&9
