"""Attack the server, or measure it.

``hostile``: a client tries every place of an address for what it should not reach, sends hostile
files, bombs, slow, large and endless bodies, and asks from many connections. No answer may be a
failure of the server but 503 with Retry-After, and no file outside the collection may be read.
The table says how much memory the server had at most.

``load``: over a made-up collection of embeddings that ``embeddings.py`` wrote, as in ``api.py``:
searches by a client beside the bare searcher in this process, in turns; many clients together;
pages of the list of images; the grid in a headless Chromium. The target: the median of a search is
at most twice that of the searcher.
"""

import argparse
import asyncio
import resource
import tempfile
import time
from collections.abc import Awaitable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import attack
import load
import numpy as np
from api import repeated
from measure import median, print_table, write_json
from serving import Server, served

FILES = 1_024  # that the server may have open, as is usual


@dataclass(frozen=True)
class Part:
    """A part of the attack: requests, how often each status came, what was wrong, memory."""

    name: str
    requests: int
    statuses: dict[int, int]
    wrong: list[str]
    seconds: float
    peak_mb: float


def main() -> None:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    hostile = commands.add_parser("hostile", help="attack a server")
    hostile.set_defaults(run=run_hostile)
    hostile.add_argument("collection", type=Path, help="a collection with images, which is served")
    hostile.add_argument("--files", type=Path, help="a folder of hostile files to upload")
    hostile.add_argument("--uploads", type=int, default=300)
    hostile.add_argument("--bombs", type=int, default=10_000)
    hostile.add_argument("--parallel", type=int, default=1_000)
    hostile.add_argument("--slow", type=int, default=200, help="slow bodies, and slow headers")
    hostile.add_argument("--large", type=int, default=40, help="bodies of 60 MiB that stop")
    hostile.add_argument("--seconds", type=float, default=70.0, help="how long these are sent")
    hostile.add_argument("--json", type=Path, help="write the figures to this file")
    loaded = commands.add_parser("load", help="measure a server")
    loaded.set_defaults(run=run_load)
    loaded.add_argument("--embeddings", required=True, type=Path, help="what embeddings.py wrote")
    loaded.add_argument("--image", required=True, help="a picture that is shown for each image")
    loaded.add_argument("--count", type=int, default=1_000_000, help="images")
    loaded.add_argument("--repeats", type=int, default=200)
    loaded.add_argument("--clients", type=int, default=50)
    loaded.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    options.run(options)


def run_hostile(options: argparse.Namespace) -> None:
    """Attack a server, and say what came of it."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as beside, served(options.collection) as server:
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (FILES, FILES))
        parts = asyncio.run(attacked(server, attack.Canary(Path(beside)), options))
    columns = "part", "requests", "statuses", "wrong", "seconds", "peak MB"
    rows: list[tuple[object, ...]] = [columns]
    for part in parts:
        statuses = ", ".join(f"{status}: {n:,}" for status, n in sorted(part.statuses.items()))
        rows.append(
            (part.name, part.requests, statuses, len(part.wrong), part.seconds, part.peak_mb)
        )
    print_table(rows)
    wrong = [*(each for part in parts for each in part.wrong)]
    wrong += [line for line in server.told if "Traceback" in line]
    for each in wrong[:50]:
        print(f"\n{each}")
    write_json(options.json, {"parts": [asdict(part) for part in parts]})
    if wrong:
        raise SystemExit(1)


async def attacked(
    server: Server, canary: attack.Canary, options: argparse.Namespace
) -> list[Part]:
    """Return what came of each part of the attack."""
    bad = attack.Load(options.slow, options.large, options.seconds)
    files = sorted(path for path in (options.files or Path()).rglob("*") if path.is_file())
    files = files[:: max(1, len(files) // max(1, options.uploads))][: options.uploads]
    parts = {
        "as usual": partial(attack.parallel, server, 30),
        "strangers": partial(attack.strangers, server),
        "every place of an address": partial(attack.traversal, server, canary),
        "hostile files": partial(attack.uploads, server, files if options.files else []),
        "bombs": partial(attack.bombs, server, options.bombs),
        "in parallel": partial(attack.parallel, server, options.parallel),
        "bad bodies": partial(attack.bodies, server, bad),
        "as usual again": partial(attack.parallel, server, 30),
    }
    done = []
    for name, work in parts.items():
        tried, began = attack.Tried(), time.perf_counter()
        waiting: Awaitable[None] = work(tried)
        await waiting
        seconds = time.perf_counter() - began
        count = sum(tried.statuses.values())
        done.append(Part(name, count, tried.statuses, tried.wrong, seconds, server.peak()))
    return done


def run_load(options: argparse.Namespace) -> None:
    """Measure a server over made-up images."""
    collection = options.embeddings / f"{options.count}.imgsim"
    if not collection.exists():
        repeated(collection, options.embeddings, options.count)
    queries = np.load(options.embeddings / "queries.npy")
    load.keep_pictures(collection, options.image, 1_000)
    with served(collection) as server:
        times = load.searches(server, collection, queries, options.repeats)
        many, again, seconds = load.together(server, queries, options.clients, 10)
        times[f"server, {options.clients} clients"] = many
        times |= load.pages(server, options.count, min(50, options.repeats))
        times |= load.painted(server, 5)
        peak = server.peak()
    rows = [(name, *np.percentile(some, (50, 99)), len(some)) for name, some in times.items()]
    print_table([(f"{options.count:,} images", "p50, ms", "p99, ms", "times"), *rows])
    ratios = {
        kind: median(times[f"server, {kind}"]) / median(times[f"searcher, {kind}"])
        for kind in ("embedding", "id")
    }
    for kind, ratio in ratios.items():
        print(f"server / searcher, {kind}: {ratio:.2f}")
    rate = len(many) / seconds
    print(f"{options.clients} clients: {rate:.1f} searches/s, {again} sent away; {peak:,.0f} MB")
    facts = {"images": options.count, "per_second": rate, "sent_away": again, "peak_mb": peak}
    write_json(options.json, facts | {"ratios": ratios, "milliseconds": times})


if __name__ == "__main__":
    main()
