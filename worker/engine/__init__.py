"""The continuous-batching engine. Knows tokens, sequences and text; knows no jobs, HTTP, Celery, SQL or Redis."""

import os

# llama.cpp's threads wait for each other many times a step. By default they spin for long; where anything else wants a
# core (the API, Redis, a neighbour), a spinning thread keeps the one it waits for from running, and a step takes ten
# times as long. If they sleep at once, waking them takes a tenth of every step. So they spin for as long as a thread
# that runs may be late, less than a tenth of a millisecond, and sleep then (decision 5). libgomp reads this once, when
# llama_cpp loads it; with the policy `passive` it would forget the count as soon as two threads have called llama.cpp.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "active"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("KMP_BLOCKTIME", "0")  # LLVM's library counts in milliseconds only: asleep at once there
