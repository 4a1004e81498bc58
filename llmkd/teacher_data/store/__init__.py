"""The teacher store: what a teacher wrote and said, in shards that survive anything."""
