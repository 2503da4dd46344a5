"""Comparison tables, findings and reports from study folders."""
