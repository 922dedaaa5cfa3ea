"""Payment providers: one port, its adapters, and the connector that carries the orders' requests to them and their answers back.

`port` is what a provider can do; `local` the adapter for the provider of the box, `provider` that provider itself, a process with a book
of its own; `breaker` stops asking one that fails; `connector` reads requests from the log and answers with commands.
"""
