"""The program that `iaflow flower --sign-in` becomes: Celery's, with Flower guarded.

Decides nothing; it is a module of its own so that there is one `flower_sign_in`, whoever imports
it. Run by `python -m`.
"""

from iaflow.cli.flower_sign_in import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
