"""Volumes and their geometry: reading, writing, planes, intensity, alignment. Knows nothing of networks."""
