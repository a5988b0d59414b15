"""A measurement for the harness's own tests, run in a process of its own."""

import sys

from benchmarks.harness import hand_back

if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("no number given")
    print("something printed on the way")
    hand_back({"value": int(sys.argv[1])})
