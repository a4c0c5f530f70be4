"""What a run is made from: the recipe's schema, its YAML, its overrides. Imports no torch."""
