"""Load for `dynctl bench`: many requests through many connections from one thread, measured."""
