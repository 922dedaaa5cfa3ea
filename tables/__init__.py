"""What is remembered, and how: rows over RocksDB, restore from changelogs, the due index."""
