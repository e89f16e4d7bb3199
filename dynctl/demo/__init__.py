"""`dynctl demo`: a tour on a cluster of its own, each step of which is checked."""
