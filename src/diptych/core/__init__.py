"""Types that all packages share: samples, graphs, contracts, configuration, run folders, errors.

Nothing here imports torch, so that ``diptych --help`` answers at once.
"""
