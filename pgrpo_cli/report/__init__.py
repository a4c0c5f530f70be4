"""What evaluations and comparisons say, and how it looks: tables, plots, the HTML page."""
