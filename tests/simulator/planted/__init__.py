"""Small targets for the tests of the simulator: one that is correct, many that are broken in one way each."""
