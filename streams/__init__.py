"""What happens: rules, the turn, the transaction, the worker."""
