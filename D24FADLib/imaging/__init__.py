"""Volumes and their geometry: reading, writing, planes, intensity and alignment. Knows nothing of networks."""
