"""`python -m tests.sim --seeds N [--seed S]`: run seeds, print those that fail; a failing seed reprints exactly.

`python -m tests.sim --exhaustive [--writes 1] [--faults 2] [--lost-tails 1] [--processes P]`: every choice within the
bounds. More processes share the first choices; each keeps its own list of states, so together they count some twice.
"""

from __future__ import annotations

import argparse
import collections
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.sim.cell import Bounds
from tests.sim.explore import Found, Search
from tests.sim.world import World


def main() -> int:
    """0 when nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim")
    parser.add_argument("--seeds", type=int, default=500)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--exhaustive", action="store_true")
    for name, default in Bounds()._asdict().items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    parser.add_argument("--wide", action="store_true", help="every variant of each fault")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    if options.exhaustive:
        return exhaustive(
            Bounds(options.writes, options.faults, options.lost_tails), options.processes, wide=options.wide
        )
    return walks([options.seed] if options.seed is not None else range(options.seeds))


def walks(seeds: range | list[int]) -> int:
    """Random walks; how each ended is counted."""
    ends: collections.Counter[str] = collections.Counter()
    for seed in seeds:
        world = World(seed)
        try:
            world.run()
            ends["healthy after a person's word" if world.person_asked else "healthy"] += 1
        except AssertionError as error:
            ends["failed"] += 1
            print(f"seed {seed}: {error!r}")
        except Exception as error:  # noqa: BLE001  the outermost loop: the seed is what matters
            ends["failed"] += 1
            print(f"seed {seed}: {error!r}")
            if len(seeds) == 1:
                traceback.print_exc()
    print(", ".join(f"{count} {end}" for end, count in sorted(ends.items())))
    return 1 if ends["failed"] else 0


def exhaustive(bounds: Bounds, processes: int, *, wide: bool) -> int:
    """The whole bound, and what was found."""
    began_s = time.monotonic()
    with ProcessPoolExecutor(processes) as pool:
        parts = list(pool.map(partial(_share, bounds, wide), [(number, processes) for number in range(processes)]))
    violations = [violation for part in parts for violation in part.violations]
    for violation in violations:
        steps = ", ".join(f"{step}: {name}" for step, name in violation.trace)
        print(f"{violation.sentence}\n    after {steps}, at step {violation.steps}")
    total = {name: sum(getattr(part, name) for part in parts) for name in ("states", "paths", "healthy", "person")}
    print(
        f"writes {bounds.writes}, faults {bounds.faults}, lost tails {bounds.lost_tails}: {total['states']} states, "
        f"{total['paths']} paths ({total['healthy']} to a healthy cluster, {total['person']} to a person whose word made it "
        f"healthy, the others to a state that was known), {len(violations)} violations, {time.monotonic() - began_s:.0f} s"
    )
    return 1 if violations else 0


def _share(bounds: Bounds, wide: bool, share: tuple[int, int]) -> Found:
    def progress(found: Found) -> None:
        print(
            f"{share[0] + 1}/{share[1]}: {found.states} states, {found.paths} paths, {found.waiting} waiting",
            flush=True,
        )

    return Search(bounds, stop_at_first=False, wide=wide, share=share, progress=progress).run()


if __name__ == "__main__":
    sys.exit(main())
