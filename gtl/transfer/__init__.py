"""Other ways to inherit than a learngene (docs/transfer.md).

>>> network, report = gtl.transfer.inhernet(trained, gtl.transfer.InherNetOptions(budget=0.2))  # doctest: +SKIP
"""

from gtl.transfer.inhernet import inhernet
from gtl.transfer.inhernet_file import load_inhernet, save_inhernet
from gtl.transfer.inhernet_options import InherNetOptions, InherNetReport
from gtl.transfer.load_balance import LoadBalance
from gtl.transfer.merging import MergeReport, merge

__all__ = [
    "InherNetOptions",
    "InherNetReport",
    "LoadBalance",
    "MergeReport",
    "inhernet",
    "load_inhernet",
    "merge",
    "save_inhernet",
]
