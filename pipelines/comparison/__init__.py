"""Comparing methods over seeds: the jobs, their results, intervals and the report."""
