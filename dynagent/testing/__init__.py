"""The second world (design §10): a cluster of real cores in simulated time; docs/simulation.md."""
