"""The contract, the combinators, the networks, and the one seam between array libraries (``ops``)."""
