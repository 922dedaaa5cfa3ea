"""A real Kafka and schema registry for development and tests, run as child processes without Docker or an installed Java.

`box` starts both and is all that others need; `process` runs any child that must not outlive its parent. Behind them: `kafka` and
`registry` (settings, commands, readiness), `java` (the runtime), `artifacts` (what is run, fetched once, verified), `ports`,
`watchdog` (beside every child), `relock` (for who changes a version).
"""
