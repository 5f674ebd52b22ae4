"""The contracts that all else is written against, and the seam between array libraries."""
