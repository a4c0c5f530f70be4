"""Rendering of evaluations and comparisons: tables, plots, the HTML page. Nothing is computed here."""
