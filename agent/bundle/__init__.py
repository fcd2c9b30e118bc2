"""The pipeline bundle: what training writes and the agent reads. Data only; nothing in a bundle is ever executed."""
