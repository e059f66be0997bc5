"""The entry of ``python -m benchmarks``.

Decides nothing. Called by Python.
"""

from benchmarks.run import main

raise SystemExit(main())
