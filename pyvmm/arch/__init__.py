"""What differs between architectures, behind one interface (`Platform`)."""
