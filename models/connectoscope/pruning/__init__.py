"""Which connections of a network are worth keeping, judged by what its units do: Budgeted Broadcast."""
