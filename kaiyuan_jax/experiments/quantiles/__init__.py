"""Quantile data benchmarking (2512.07612, section 3): what text of each quality is worth, by small models trained on it alone.

cells.py       windows of the sorted stores, and one experiment for each of them and each seed
work.py        cells trained as populations, evaluated, and kept one by one
statistics.py  means, intervals, rankings, and where performance does not follow quality
recipe.py      from worth to exposures, keep-ratios and passes of a phase, as an experiment that can be planned and trained
results.py     results.json
"""
