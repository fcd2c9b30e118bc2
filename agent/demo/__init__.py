"""The demo station: procedural weld frames, the simulated camera that drops them, and the embedded broker."""
