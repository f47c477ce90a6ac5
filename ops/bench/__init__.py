"""Benchmarks: ratios measured in one run of one command (`make bench`), on random weights of a named shape."""

import worker.engine  # noqa: F401  before anybody loads llama.cpp: how its threads wait is decided once (decision 5)
