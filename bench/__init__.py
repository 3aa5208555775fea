"""Measure the gateway beside others, in one run on one machine: `python -m bench --help`.

Run modules of this package with `python -m`, never by file name: `bench/profile.py` would then
hide the standard library's `profile`, which `cProfile` needs.
"""
