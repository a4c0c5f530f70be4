"""From a recipe to a policy on a device."""
