"""What zchat takes and carries, in figures, and other servers beside it."""
