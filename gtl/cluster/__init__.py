"""Clusters: the files that start gtl on one, and the checks of `gtl doctor`."""
