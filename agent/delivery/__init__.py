"""Delivery: from the ledger to those who wait for results. A shipper feeds one sink; a new sink is one new module."""
