"""`python -m tests.sim --seeds N [--seed S]`: run seeds, print those that fail; a failing seed reprints exactly."""

from __future__ import annotations

import argparse
import collections
import sys
import traceback

from tests.sim.world import World


def main() -> int:
    """0 when every seed passed."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim")
    parser.add_argument("--seeds", type=int, default=500)
    parser.add_argument("--seed", type=int)
    options = parser.parse_args()
    seeds = [options.seed] if options.seed is not None else range(options.seeds)
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
            if options.seed is not None:
                traceback.print_exc()
    print(", ".join(f"{count} {end}" for end, count in sorted(ends.items())))
    return 1 if ends["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
