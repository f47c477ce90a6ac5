"""Benchmarks: ratios measured in one run of one command (`make bench`), on random weights of a named shape."""
