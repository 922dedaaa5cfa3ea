"""A real Kafka and schema registry for development and tests, run as child processes without Docker or an installed Java."""
