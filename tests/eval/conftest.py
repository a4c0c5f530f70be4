"""A judge for the tests of this folder, as for those of rewards."""

from tests.rewards.conftest import serve

__all__ = ["serve"]
