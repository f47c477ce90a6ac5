"""The continuous-batching engine. Knows tokens, sequences and text; knows no jobs, HTTP, Celery, SQL or Redis."""

import os

# llama.cpp's threads wait for each other many times a step. By default they spin; where anything else wants a core
# (the API, Redis, a neighbour), a spinning thread keeps the one it waits for from running, and a step takes ten times
# as long. Asleep they cost a few per cent on an idle machine. libgomp reads this once, when llama_cpp loads it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
