"""`python -m moecheck FILE.py`: serves the subjects that a file declares, whether or not it calls moecheck.main() itself. So a test
file can hold its layer beside its tests."""

import runpy
import sys
from pathlib import Path

from moecheck.protocol import main

_USAGE_EXIT = 4

if __name__ == "__main__":
    if len(sys.argv) < 2:
        print("usage: python -m moecheck FILE.py [--moecheck-describe]", file=sys.stderr)
        sys.exit(_USAGE_EXIT)
    sys.argv = sys.argv[1:]
    sys.path.insert(0, str(Path(sys.argv[0]).resolve().parent))
    runpy.run_path(sys.argv[0], run_name="moecheck_subject")
    main()
