"""Guest RAM out of several host objects: one guest-physical map, memslots, a checked accessor."""
