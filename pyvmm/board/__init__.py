"""Components placed in address spaces, and the buses that find them."""
