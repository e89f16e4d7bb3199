"""`dynctl`: the one tool by which people and scripts use and run a cluster."""
