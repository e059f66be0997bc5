"""The tests of iaflow, one folder for each kind of question.

A package only so that `tests.servers` has one unmistakable name; never shipped.
Collected by pytest, started by `./dev test`.
"""
