"""Two results side by side: scripts/compare.py."""
