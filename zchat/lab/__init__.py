"""A broker that lies: it ships to teach, and tests the rest. Members are other processes."""
