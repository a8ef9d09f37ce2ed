"""Block plans, the model grid, the read-compute-write engine and its ledger; knows no task and no network."""
