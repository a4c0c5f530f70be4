"""How evaluations and comparisons look: tables, plots, the HTML page. Nothing is computed here."""
