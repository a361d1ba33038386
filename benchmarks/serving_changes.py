"""Parts `growing` and `reload` of `serving.py`: searches while items come in, and while another model takes over."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.dataset import Pool
from diptych.data.media.decode import encode_webp
from diptych.data.shards.build import build, open_built
from diptych.index.kinds.dense import DenseIndex
from diptych.worlds import scenes

TOKEN, ADDED_A_SECOND, CLIENTS, SHARE = "benchmark", 20, 50, 0.3
"""Searches a second are the same in both rounds: that share of what a closed loop of the clients gets."""


def grown_folder(folder: Path, items: int, made: Any) -> None:
    """A built folder of the scenes, and an index of it."""
    data = scenes(items, seed=0)
    build(Pool.from_samples((data[row] for row in range(items)), name="scenes"), folder / "data")
    DenseIndex.build(made, open_built(folder / "data"), folder / "grown", progress=False).close()


def item(number: int) -> bytes:
    """A request that adds a picture of noise."""
    pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
    image = base64.b64encode(encode_webp(pixels)).decode()
    body = json.dumps({"uid": f"new-{number}", "image": image, "texts": [f"noise {number}"], "fields": {"batch": number % 7}})
    head = f"POST /items HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


def growing(folder: Path, seconds: float, tools: Any) -> dict[str, dict[str, Any]]:
    """Searches of 50 clients without and with 20 items a second that are added."""
    os.environ["DIPTYCH_WRITE_TOKEN"] = TOKEN
    with tools.served(folder, index="grown", data=str(folder / "data")) as port:
        asyncio.run(tools.closed(port, tools.words, seconds=2, clients=CLIENTS))
        full = asyncio.run(tools.closed(port, tools.words, seconds=5, clients=CLIENTS))
        rate = SHARE * len(full.good) / full.seconds
        alone = asyncio.run(tools.paced(port, tools.words, rate, seconds, CLIENTS))
        both, added = asyncio.run(_together(port, rate, seconds, tools))
        uids = len(open_built(folder / "data"))
    rows = {"searches alone": alone.row(), "searches while items come": both.row(), "items": added.row()}
    rows["searches alone"]["full_load_per_second"] = round(len(full.good) / full.seconds, 1)
    rows["items"] |= {"asked_per_second": ADDED_A_SECOND, "items_in_the_folder": uids}
    return rows


async def _together(port: int, rate: float, seconds: float, tools: Any) -> tuple[Any, Any]:
    numbers = iter(range(10**6))
    searching = tools.paced(port, tools.words, rate, seconds, CLIENTS)
    adding = tools.paced(port, lambda _: item(next(numbers)), ADDED_A_SECOND, seconds, 4)
    both, added = await asyncio.gather(searching, adding)
    return both, added


def reload(folder: Path, made: Callable[[], Any], tools: Any) -> dict[str, dict[str, Any]]:
    """Searches of 50 clients and items while an index of another model is built, takes over, and the old one is drained."""
    os.environ["DIPTYCH_WRITE_TOKEN"] = TOKEN
    made().save(folder / "other")
    shutil.rmtree(folder / "next", ignore_errors=True)
    with tools.served(folder, index="grown", data=str(folder / "data")) as port:
        searches, items, seconds = asyncio.run(_while_reloading(port, folder, tools))
    return {"searches": searches.row(), "items": items.row(), "reload": {"seconds": round(seconds, 1)}}


async def _while_reloading(port: int, folder: Path, tools: Any) -> tuple[Any, Any, float]:
    over, seen, added, numbers = asyncio.Event(), tools.Seen(), tools.Seen(), iter(range(10**6, 2 * 10**6))

    async def client(into: Any, ask: Callable[[], bytes], pause: float) -> None:
        line = tools.Line(port)
        while not over.is_set():
            start = time.perf_counter()
            status, head = await line.send(ask())
            into.add(status, 1000 * (time.perf_counter() - start), head)
            await asyncio.sleep(pause)

    begin = time.perf_counter()
    tasks = [asyncio.create_task(client(seen, lambda: tools.words(0), 1.0)) for _ in range(CLIENTS)]
    tasks.append(asyncio.create_task(client(added, lambda: item(next(numbers)), 1 / ADDED_A_SECOND)))
    await asyncio.sleep(1)
    body = json.dumps({"model": str(folder / "other"), "index": str(folder / "next"), "build": True})
    head = (
        f"POST /admin/reload HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
    )
    start = time.perf_counter()
    status, _ = await tools.Line(port).send(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    took = time.perf_counter() - start
    await asyncio.sleep(1)
    over.set()
    await asyncio.gather(*tasks)
    if status != 200:
        raise SystemExit(f"the reload was answered with {status}")
    seen.seconds = added.seconds = time.perf_counter() - begin
    return seen, added, took
