"""Flower as Penstock runs it: workers with their model and load, tasks that move, a history that survives a restart."""
