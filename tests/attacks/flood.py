"""Asks a server for commands of one sandbox, so many at a time, with several keys in turn. A process of its
own: it ends with its input, and prints how often which status came.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter

import httpx2


async def flood(url: str, keys: list[str], at_once: int) -> Counter[int]:
    """By status."""
    came: Counter[int] = Counter()
    told = asyncio.ensure_future(asyncio.to_thread(sys.stdin.read))
    limits = httpx2.Limits(max_connections=at_once)

    async with httpx2.AsyncClient(trust_env=False, limits=limits, timeout=60) as http:

        async def ask(number: int) -> None:
            headers = {"authorization": f"Bearer {keys[number % len(keys)]}"}
            while not told.done():
                answer = await http.post(url, json={"cmd": "true"}, headers=headers)
                came[answer.status_code] += 1
                if answer.status_code == 429:
                    await asyncio.sleep(float(answer.headers["retry-after"]))

        async with asyncio.TaskGroup() as group:
            for number in range(at_once):
                group.create_task(ask(number))
    return came


if __name__ == "__main__":
    came = asyncio.run(flood(sys.argv[1], sys.argv[2].split(","), int(sys.argv[3])))
    print(json.dumps({str(status): count for status, count in sorted(came.items())}))
