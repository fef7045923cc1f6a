"""When a micro-batch departs, what travels together, and how its results find their way back."""
