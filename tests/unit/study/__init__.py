"""The study is a program beside the package, as the other benchmarks are: its folder has to be on the path."""

import sys

from tests.runs import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
