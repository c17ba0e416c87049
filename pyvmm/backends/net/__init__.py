"""What stands behind a network device on the host: tap, passt, switch, link; and capture files."""
