"""The Avro records, one file a record, one folder a key space."""
