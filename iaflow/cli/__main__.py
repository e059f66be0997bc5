"""Lets `python -m iaflow.cli` be the command line.

Decides nothing; never imported. Called by the interpreter.
"""

from iaflow.cli import main

main()
