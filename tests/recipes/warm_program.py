"""A program for the tests of warm starts: says what it finds, and ends as it is told."""

import atexit
import json
import os
import random
import sys
import time


def main() -> None:
    """Print what the process is; the first word says how it ends."""
    atexit.register(print, "at exit")
    found = {
        "words": sys.argv[1:],
        "folder": os.getcwd(),
        "variable": os.environ.get("WARM_TEST"),
        "variables": len(os.environ),
        "random": random.random(),
        "imported": "fairseq" in sys.modules,
        "name": __name__,
        "parent": os.getppid(),
        "input": sys.stdin.read(),
    }
    print(json.dumps(found))
    print("an error stream", file=sys.stderr)
    if sys.argv[1] == "wait":
        sys.stdout.flush()
        time.sleep(600)
    if sys.argv[1] == "work":
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass
    if sys.argv[1] == "raise":
        raise ValueError("as told")
    sys.exit(int(sys.argv[2]))


if __name__ == "__main__":
    main()
