"""How a run moves: standard library only, everything from outside comes in as an argument."""
