"""dynagent: a highly available key-value store after Amazon's Dynamo (SOSP 2007)."""

__version__ = "0.1.0"
