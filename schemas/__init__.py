"""What crosses a boundary: Avro records, the topic catalogue, codec and registry client."""
