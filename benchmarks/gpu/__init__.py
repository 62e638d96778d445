"""The suite for one GPU, row by row (`make bench-gpu`, docs/performance.md)."""
