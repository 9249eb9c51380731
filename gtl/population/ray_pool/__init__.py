"""Workers by Ray: `RayPool` and the `Room` it may take. The only package that imports ray."""

from gtl.population.ray_pool.connection import Room
from gtl.population.ray_pool.pool import RayPool

__all__ = ["RayPool", "Room"]
