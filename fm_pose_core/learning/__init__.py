"""Networks and their training: the same for every task."""
