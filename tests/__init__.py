"""Tests. Two files run at a time, and each test process has one core: torch's threads would wait for each other."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
